"""What the paper says of its results: abstract, Sections 1 and 3, Q1 to Q4, conclusion."""

import pandas as pd

from lib.claims import Finding, case_by_case, claim, listed, ordered, protobin_above, rounds_to, share, signed
from lib.published import BASE, FINE_TUNING, SUPERVISED, means, wide
from lib.rankings import MARGINS, encoder_ranking, gains_over_linear, win_ranks

CLS = ["linear", "mlp"]
ATTENTIVE = ["mhca", "ep", "simpool", "abmilp"]
PROTOTYPES = ["proto", "protobin"]
NEVER_ADAPTED, ADAPTED = tuple(SUPERVISED), tuple(SUPERVISED.values())  # of the encoders that have both
GROUPS = {2: "general audio", 4: "general audio", 5: "bioacoustics", 6: "controls"}


def _others(scores: pd.DataFrame, heads: list[str]) -> list[str]:
    return [head for head in scores if head not in heads]


def _lead(scores: pd.DataFrame, heads: list[str]) -> pd.Series:
    """Return the points of the best of some heads above the best of the others."""
    return scores[heads].max(axis=1) - scores[_others(scores, heads)].max(axis=1)


# ---- abstract, Sections 1 and 3 --------------------------------------------------------------------------------------


@claim("Abstract", "Despite its simplicity, our method notably outperforms linear and attentive probing", 2, 5, 6)
def protobin_outperforms() -> Finding:
    """Average protobin's points above linear and above mhca (in all three tables), self-supervised encoders."""
    found, ahead = [], {}
    for number in (2, 5, 6):
        gaps = protobin_above(wide(number, BASE), ["linear", "mhca"])
        ahead[number] = bool((gaps.mean() > 0).all())
        parts = [f"{signed(gaps[head].mean())} over {head} ({share(gaps[head] > 0)} pairs)" for head in gaps]
        found.append(f"{GROUPS[number]}: {', '.join(parts)}")
    reading = "" if ahead[6] else "on the multi-label sets; on the controls mhca is ahead, as Q3 says"
    return Finding("; ".join(found), ahead[2] and ahead[5], reading)


@claim("Section 1", "Prototype methods notably outperform other pooling methods, including linear and attentive", 2, 5)
def prototypes_outperform() -> Finding:
    """Compare the mean of proto and of protobin with that of every other head, self-supervised encoders."""
    found, holds = [], True
    for number in (2, 5):
        average = wide(number, BASE).mean()
        others = average.drop(PROTOTYPES)
        own = " and ".join(f"{head} {average[head]:.2f}" for head in PROTOTYPES)
        found.append(f"{GROUPS[number]}: {own}; next {others.idxmax()} {others.max():.2f}")
        holds &= average[PROTOTYPES].min() > others.max()
    return Finding("; ".join(found), holds)


@claim("Section 3", "prototypical methods consistently set the SOTA results for probing in audio SSL", 2, 5)
def best_probe_is_prototypical() -> Finding:
    """Take the better of proto and protobin from the best other head, in each (data set, self-supervised encoder)."""
    lead = pd.concat([_lead(wide(number, BASE), PROTOTYPES) for number in (2, 5)])
    return case_by_case(lead, f"exceptions: {listed(lead.index[lead <= 0])}; ")


@claim("Section 1", "supervised adaption after pre-training alters cls-token’s quality and model rankings", 4)
def adaptation_alters_ranking() -> Finding:
    """Rank the encoders that have both versions by their mean under linear, before and after."""
    before, after = (wide(4, group)["linear"].groupby("encoder").mean() for group in (NEVER_ADAPTED, ADAPTED))
    change = after.mean() - before.mean()
    before, after = (-before).rank(), (-after).rank().rename(index={new: old for old, new in SUPERVISED.items()})
    found = f"before: {ordered(before)}; after: {ordered(after)}; the scores: {signed(change)} points on average"
    return Finding(found, bool((before != after.loc[before.index]).any()))


# ---- Q1 --------------------------------------------------------------------------------------------------------------


@claim(
    "Section 4.2, Q1", "mhca […] and […] linpre […] still lag behind prototypes (-4.59 %p mAP) on general audio", 2, 5
)
def lag_behind_prototypes() -> Finding:
    """Average the points of mhca and of linpre from protobin, and of the two together from both prototypes."""
    average, on_birds = wide(2).mean(), wide(5, BASE).mean()
    mhca, linpre = average["mhca"] - average["protobin"], average["linpre"] - average["protobin"]
    both = average[["mhca", "linpre"]].mean() - average[PROTOTYPES].mean()
    found = f"from protobin mhca {signed(mhca)}, linpre {signed(linpre)}; the two from both prototypes {signed(both)}"
    elsewhere = on_birds["mhca"] - on_birds["protobin"]
    same = ", the printed number" if rounds_to(elsewhere, "-4.59") else ""
    found += f"; on bioacoustics (Table 5) mhca from protobin {signed(elsewhere)}{same}"
    return Finding(found, any(rounds_to(lag, "-4.59") for lag in (mhca, linpre, both)))


@claim("Section 4.2, Q1", "mhca as the best-performing attentive method", 2)
def mhca_best_attentive() -> Finding:
    """Average the attentive heads over data sets and encoders."""
    scores = wide(2)[ATTENTIVE]
    average = scores.mean()
    first = scores["mhca"] > scores.drop(columns="mhca").max(axis=1)
    found = ", ".join(f"{head} {average[head]:.2f}" for head in ATTENTIVE) + f"; mhca first in {share(first)} pairs"
    return Finding(found, average.idxmax() == "mhca")


@claim("Section 4.2, Q1", "mhca […] and […] linpre improve over fixed global descriptors", 2)
def above_fixed_descriptors() -> Finding:
    """Average mhca's and linpre's points above the better of linear and mlp."""
    scores = wide(2)
    gaps = scores[["mhca", "linpre"]].sub(scores[CLS].mean().max())
    ahead = scores[["mhca", "linpre"]].gt(scores[CLS].max(axis=1), axis=0)
    found = ", ".join(f"{head} {signed(gaps[head].mean())} ({share(ahead[head])} pairs)" for head in gaps)
    return Finding(found, bool((gaps.mean() > 0).all()))


@claim(
    "Section 4.2, Q1",
    "Simple baselines are at the bottom, including [cls]-token probes and naive token concatenation (linearc)",
    2,
)
def simple_baselines_at_bottom() -> Finding:
    """Rank the eleven heads by their mean; beside it, by pairwise wins as in Figure 5."""
    scores = wide(2)
    simple = [*CLS, "linearc"]
    places = (-scores.mean()).rank().astype(int)
    wins = win_ranks(means(2), list(scores)).set_index("head")["rank"]
    last = set(places.nlargest(3).index) == set(simple)
    found = "places by mean / by wins: " + ", ".join(f"{head} {places[head]} / {wins[head]}" for head in simple)
    below = wins[_others(scores, simple)]
    below = below[below > wins[simple].min()]
    found += f" of {len(places)}; below one of them by wins: {listed(below.index)}"
    return Finding(found, last, "by the mean" if len(below) else "")


@claim("Section 4.2, Q1", "proto appears advantageous in specific cases […] (e.g. on polyphonic urban […])", 2)
def proto_on_urban() -> Finding:
    """Average proto's points above protobin on urban over encoders."""
    scores = wide(2).xs("urban", level="dataset")
    gaps = scores["proto"] - scores["protobin"]
    found = f"ahead with {share(gaps > 0)} encoders ({listed(gaps.index[gaps > 0])}); {signed(gaps.mean())} on average"
    return Finding(found, gaps.mean() > 0)


@claim("Section 4.2, Q1", "proto appears advantageous in specific cases […] (e.g. […] with the ASiT backbone)", 2)
def proto_with_asit() -> Finding:
    """Average proto's points above protobin with ASiT over data sets."""
    scores = wide(2).xs("ASiT", level="encoder")
    gaps = scores["proto"] - scores["protobin"]
    return Finding(f"ahead on {share(gaps > 0)} data sets; {signed(gaps.mean())} on average", gaps.mean() > 0)


# ---- Q2 and Figures 2, 6, 7 ------------------------------------------------------------------------------------------


def _places() -> pd.DataFrame:
    """Return each encoder's place under linear and under protobin (Figure 6)."""
    return encoder_ranking(means(2)).pivot(index="encoder", columns="head", values="rank")


def _gap_closed(scores: pd.DataFrame) -> pd.Series:
    """Return the share of the way from linear to fine-tuning that protobin covers, in percent."""
    return 100 * (scores["protobin"] - scores["linear"]) / (scores[FINE_TUNING] - scores["linear"])


@claim("Section 4.2, Q2", "On as20k, protobin closes 63% of the performance gap to fine-tuning (see Figure 2)", 2, 3)
def gap_to_fine_tuning() -> Finding:
    """Divide protobin's gain over linear (Table 2) by that of fine-tuning (Table 3)."""
    scores = wide(2).loc[("as20k", "EAT")].copy()
    scores[FINE_TUNING] = wide(3).loc[("as20k", "EAT"), FINE_TUNING]
    closed = _gap_closed(scores)
    found = f"linear {scores['linear']:.2f}, protobin {scores['protobin']:.2f}, fine-tuning {scores[FINE_TUNING]:.1f}"
    return Finding(f"{closed:.1f} % ({found})", rounds_to(closed, "63"))


@claim("Section 4.2, Q2", "the backbone ranking under linear is completely reshuffled when using protobin", 2)
def ranking_reshuffled() -> Finding:
    """Count the encoders whose place among the six changes from linear to protobin."""
    places = _places()
    changed = places["linear"] != places["protobin"]
    found = f"{share(changed)} change place, {listed(changed.index[~changed])} keep theirs; "
    found += f"linear: {ordered(places['linear'])}; protobin: {ordered(places['protobin'])}"
    return Finding(found, changed.all())


@claim("Section 4.2, Q2", "the backbone ranking is completely inverted", 2)
def ranking_inverted() -> Finding:
    """Correlate the ranks under linear and under protobin (Spearman; −1 is an inverted ranking, 1 the same)."""
    places = _places()
    spearman = places["linear"].corr(places["protobin"])
    return Finding(f"rank correlation {signed(spearman)}", spearman < -0.995)


@claim(
    "Section 4.2, Q2",
    "ASiT […], which appears to be the second-strongest model under linear, drops to last place […] with protobin",
    2,
)
def asit_drops_to_last() -> Finding:
    """Rank ASiT under linear and under protobin."""
    places = _places()
    first, then = places.loc["ASiT", ["linear", "protobin"]]
    found = f"place {first} under linear, {then} of {len(places)} under protobin"
    return Finding(found, (first, then) == (2, len(places)))


@claim(
    "Section 4.2, Q2",
    "SSLAM […], a mid-tier performer with linear, is revealed to be a top-tier model, jumping to second place",
    2,
)
def sslam_jumps_to_second() -> Finding:
    """Rank SSLAM under linear and under protobin; mid-tier are the places 3 and 4 of six."""
    first, then = _places().loc["SSLAM", ["linear", "protobin"]]
    return Finding(f"place {first} under linear, {then} under protobin", first in (3, 4) and then == 2)


@claim("Section 4.2, Q2", "SSLAM (current fine-tuning SOTA from 2025)", 3)
def sslam_best_fine_tuned() -> Finding:
    """Compare the fine-tuning column of Table 3 on as20k."""
    scores = wide(3).loc["as20k", FINE_TUNING].sort_values(ascending=False)
    found = ", ".join(f"{encoder} {score:.1f}" for encoder, score in scores.items())
    return Finding(found, scores.index[0] == "SSLAM", f"among the {len(scores)} encoders of Table 3, on as20k")


@claim("Section 4.2, Q2", "This trend holds across all encoders (Table 3)", 3)
def gap_closed_for_all() -> Finding:
    """Take protobin's share of the gap from linear to fine-tuning on as20k, for each encoder of Table 3."""
    closed = _gap_closed(wide(3).loc["as20k"])
    missing = [name for name in BASE if name not in closed.index]
    found = ", ".join(f"{encoder} {value:.0f} %" for encoder, value in closed.items())
    reading = f"a part of the gap, for the {len(closed)} encoders of Table 3; {listed(missing)} is not in it"
    return Finding(found, bool((closed > 0).all()), reading if missing else "")


@claim("Section 4.2, Q2", "the gains unlocked by token-aware pooling methods vary by backbone", 2)
def gains_vary() -> Finding:
    """Average protobin's points above linear for each encoder; they vary if further apart than its largest sd."""
    scores, gains = means(2), gains_over_linear(means(2))
    gains = gains[gains["head"] == "protobin"].set_index("encoder")["gain"].sort_values()
    sd = scores[scores["head"] == "protobin"]["sd"].max()
    found = ", ".join(f"{encoder} {signed(gain)}" for encoder, gain in gains.items())
    return Finding(f"{found}; largest sd {sd:.1f}", gains.iloc[-1] - gains.iloc[0] > sd)


@claim("Section 4.2, Q2", "linear/mlp act as a performance ceiling", 2)
def cls_is_a_ceiling() -> Finding:
    """Count where the best probe of the token map exceeds linear and mlp.

    Then count how many of these probes do, on the mean over data sets.
    """
    scores = wide(2)
    ahead = _lead(scores, _others(scores, CLS)) > 0
    average = scores.groupby("encoder").mean()
    above = average[_others(scores, CLS)].gt(average[CLS].max(axis=1), axis=0)
    single = ", ".join(f"{n} with {encoder}" for encoder, n in above.sum(axis=1).items())
    found = f"the best one does in {share(ahead)} pairs; on the mean, of {above.shape[1]} such probes {single}"
    return Finding(found, ahead.all(), "" if above.all(axis=None) else "for the best probe of the token map")


# ---- Q3 --------------------------------------------------------------------------------------------------------------


@claim(
    "Section 4.2, Q3",
    "On single-label […] a substantial performance gap persists between the [cls]-token probe and token-aware methods",
    3,
)
def gap_on_single_label() -> Finding:
    """Average the points of mhca and protobin above linear on the two sets, and count the cases."""
    scores = wide(3).loc[["sc2", "esc50"]]
    gaps = scores[["mhca", "protobin"]].sub(scores["linear"], axis=0)
    by_set = gaps.groupby("dataset", sort=False).mean()
    found = ", ".join(f"{head} on {name} {signed(gap, 1)}" for (name, head), gap in by_set.stack().items())
    return Finding(f"{found}; {share(gaps.stack() > 0)} cases", bool((by_set > 0).all(axis=None)))


@claim(
    "Section 4.2, Q3",
    "the [cls]-probe’s performance degrades more sharply than other methods when moving to the multi-label as20k",
    3,
)
def cls_degrades_most() -> Finding:
    """Compare the mean on as20k with that on sc-2 and esc50, in points and in percent of the latter.

    The one is mAP, the others accuracy: two metrics with different scales.
    """
    average = wide(3).groupby("dataset").mean()[["linear", "mhca", "protobin"]]
    single, multi = average.loc[["sc2", "esc50"]].mean(), average.loc["as20k"]
    loss, relative = single - multi, 100 * (1 - multi / single)
    found = ", ".join(f"{head} {signed(-loss[head], 1)} points ({signed(-relative[head], 0)} %)" for head in average)
    return Finding(found, loss.idxmax() == "linear" or relative.idxmax() == "linear")


@claim(
    "Section 4.2, Q3",
    "In this single-label setting, mhca is often competitive with, or even superior to, our protobin probe",
    3,
)
def mhca_on_single_label() -> Finding:
    """Count where mhca exceeds protobin on sc-2 and esc50; half of the cases is often."""
    scores = wide(3).loc[["sc2", "esc50"]]
    gaps = scores["mhca"] - scores["protobin"]
    found = f"above in {share(gaps > 0)} cases; {signed(gaps.mean(), 1)} points on average"
    return Finding(found, (gaps > 0).mean() >= 0.5)


@claim("Section 4.2, Q3", "The constant superiority of protobin on the multi-label as20k task", 2, 3)
def constant_superiority() -> Finding:
    """Compare protobin with linear and mhca in Table 3, and with all heads in Table 2, on as20k."""
    scores, all_heads = wide(3).loc["as20k"], wide(2).loc["as20k"]
    ahead = protobin_above(scores, ["linear", "mhca"]).stack() > 0
    behind = all_heads[_lead(all_heads, ["protobin"]) <= 0]
    better = [f"{head} with {encoder}" for encoder, head in behind.idxmax(axis=1).items()]
    found = f"above linear and mhca in {share(ahead)} cases of Table 3; above it in Table 2: {listed(better)}"
    return Finding(found, ahead.all(), "over the probes of Table 3" if better else "")


# ---- Q4 and Figure 8 -------------------------------------------------------------------------------------------------


def _ranks(number: int, adapted: bool, margin: str = "opponent's sd") -> pd.Series:
    """Return the ranks of Figure 8: by pairwise wins over the encoders that have both versions."""
    encoders = ADAPTED if adapted else NEVER_ADAPTED
    return win_ranks(means(number, encoders), list(wide(number)), margin).set_index("head")["rank"]


def _uplift(number: int) -> pd.DataFrame:
    """Return what supervised⁺ adds, in points: a row a (data set, encoder), a column a head."""
    after = wide(number, ADAPTED).rename(index={new: old for old, new in SUPERVISED.items()}, level="encoder")
    return after - wide(number, NEVER_ADAPTED).reindex(after.index)


@claim("Section 4.2, Q4", "linear jumping from rank #10 to #6 and mlp from #7 to #3", 2, 4)
def cls_ranks() -> Finding:
    """Rank the heads of Table 4 by pairwise wins with and without supervised⁺; beside it, those of Table 2 without."""
    before, after, eleven = _ranks(4, False)[CLS], _ranks(4, True)[CLS], _ranks(2, False)
    found = ", ".join(f"{head} #{before[head]} to #{after[head]}" for head in CLS)
    alike = [(_ranks(4, False, margin)[CLS] == before) & (_ranks(4, True, margin)[CLS] == after) for margin in MARGINS]
    found += f", and so by {sum(same.all() for same in alike)} of {len(alike)} readings of one sd; "
    found += f"before, among the {len(eleven)} heads of Table 2, {listed([f'{head} #{eleven[head]}' for head in CLS])}"
    holds = [*before, *after] == [10, 7, 6, 3]
    return Finding(found, holds, f"among the {len(wide(4).columns)} heads of Table 4; the caption names Table 2")


@claim("Section 4.2, Q4", "The [cls]-token-based methods see the largest gains", 4)
def cls_gains_most() -> Finding:
    """Average what supervised⁺ adds to each head in Table 4."""
    gains = _uplift(4).mean().sort_values(ascending=False)
    found = ", ".join(f"{head} {signed(gain)}" for head, gain in gains.items())
    return Finding(found, set(gains.index[:2]) == set(CLS))


@claim("Section 4.2, Q4", "attentive pooling methods are stable", 4)
def attentive_stable() -> Finding:
    """Compare the ranks of the attentive heads by pairwise wins before and after supervised⁺ (Table 4)."""
    before, after = _ranks(4, False)[ATTENTIVE], _ranks(4, True)[ATTENTIVE]
    kept = "kept" if list(before.sort_values().index) == list(after.sort_values().index) else "changed"
    found = ", ".join(f"{head} #{before[head]} to #{after[head]}" for head in ATTENTIVE)
    return Finding(f"{found}; their order among themselves is {kept}", bool((before == after).all()))


@claim("Section 4.2, Q4", "the prototypical methods retain their top-ranked positions", 4)
def prototypes_stay_on_top() -> Finding:
    """Rank proto and protobin by pairwise wins before and after supervised⁺ (Table 4)."""
    before, after = _ranks(4, False)[PROTOTYPES], _ranks(4, True)[PROTOTYPES]
    found = ", ".join(f"{head} #{before[head]} to #{after[head]}" for head in PROTOTYPES)
    return Finding(found, max(before.max(), after.max()) <= 2)


@claim("Section 4.2, Q4", "on out-of-domain bioacoustics tasks […], the complete hierarchy remains stable", 5)
def bioacoustic_hierarchy() -> Finding:
    """Compare the ranks of all heads by pairwise wins before and after supervised⁺ (Table 5)."""
    before, after = _ranks(5, False), _ranks(5, True)
    moved = (before - after).abs()
    found = f"before: {ordered(before)}; after: {ordered(after)}; {share(moved == 0)} heads keep their place, "
    found += f"none moves by more than {moved.max()}; rank correlation {signed(before.corr(after))}"
    return Finding(found, bool((moved == 0).all()))


@claim("Section 4.2, Q4", "the overall ranking is preserved: linear remains at the bottom […]", 5)
def linear_stays_at_bottom() -> Finding:
    """Rank linear by pairwise wins before and after supervised⁺ (Table 5)."""
    before, after = _ranks(5, False), _ranks(5, True)
    holds = before["linear"] == before.max() and after["linear"] == after.max()
    return Finding(f"place {before['linear']}, then {after['linear']} of {len(after)}", holds)


@claim("Section 4.2, Q4", "the overall ranking is preserved: […] protobin stays at the top", 5)
def protobin_stays_on_top() -> Finding:
    """Rank protobin by pairwise wins before and after supervised⁺ (Table 5)."""
    before, after = _ranks(5, False), _ranks(5, True)
    found = f"place {before['protobin']}, then {after['protobin']}; first are {before.idxmin()}, then {after.idxmin()}"
    return Finding(found, before["protobin"] == after["protobin"] == 1)


@claim("Section 4.2, Q4", "a minor performance uplift across the board", 5)
def bioacoustic_uplift() -> Finding:
    """Take what supervised⁺ adds in each (data set, encoder, head) of Table 5."""
    uplift = _uplift(5)
    average = uplift.mean()
    return case_by_case(uplift.stack(), f"by head from {signed(average.min())} to {signed(average.max())}; ")


@claim("Section 4.2, Q4", "The consistent superiority of prototypical methods in both settings", 4, 5)
def superior_in_both_settings() -> Finding:
    """Take the better of proto and protobin from the best other head, in each (data set, supervised⁺ encoder)."""
    leads = {GROUPS[number]: _lead(wide(number, ADAPTED), PROTOTYPES) for number in (4, 5)}
    found = ", ".join(f"{signed(lead.mean())} on {group} ({share(lead > 0)})" for group, lead in leads.items())
    both = pd.concat(leads.values())
    finding = case_by_case(both, f"{found}; exceptions: {listed(both.index[both <= 0])}; ")
    return Finding(finding.found, all(lead.mean() > 0 for lead in leads.values()), finding.reading)


# ---- conclusion ------------------------------------------------------------------------------------------------------


@claim("Section 5", "this approach consistently outperforms single-vector probes", 4, 5, 6)
def above_single_vector_probes() -> Finding:
    """Take linear, mlp and the attentive heads from protobin, in each (data set, encoder)."""
    gaps = []
    for number in (4, 5, 6):
        scores = wide(number)
        gaps.append(protobin_above(scores, [head for head in scores if head in (*CLS, *ATTENTIVE)]).stack())
    gaps = pd.concat(gaps)
    by_head = gaps.groupby("head").apply(lambda gap: gap.groupby("dataset").mean().mean())
    finding = case_by_case(gaps, f"least over {by_head.idxmin()}, {signed(by_head.min())}; ")
    return Finding(finding.found, bool((by_head > 0).all()), finding.reading)
