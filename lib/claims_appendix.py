"""What stands beside the main text: Appendices A and B, how the tables agree, and later accounts of the paper."""

import math

import numpy as np
import pandas as pd

from lib.claims import Finding, case_by_case, claim, listed, near, protobin_above, rounds_to, share, signed
from lib.published import BASE, main_prototypes, means, table, wide

# ---- Appendix A ------------------------------------------------------------------------------------------------------


def _fits(mean: float, runs: int, clips: int) -> bool:
    """Tell whether a printed accuracy is possible as the mean of some runs on a test set."""
    cases = runs * clips
    return abs(100 * round(mean / 100 * cases) / cases - mean) <= 0.005 + 1e-9


def _fits_three(mean: float, sd: float, clips: int) -> bool:
    """Tell whether a printed mean and sample sd are possible together for three runs."""
    total, reach = round(mean / 100 * 3 * clips), math.ceil(3 * sd / 100 * clips) + 3
    first, second = np.meshgrid(*[np.arange(max(total // 3 - reach, 0), min(total // 3 + reach, clips) + 1)] * 2)
    third = total - first - second
    sds = 100 * np.std([first, second, third], axis=0, ddof=1) / clips
    return bool(((abs(sds - sd) <= 0.005 + 1e-9) & (third >= 0) & (third <= clips)).any())


@claim("Appendix A", "all performance metrics reported as […] accuracy for multi-class tasks over 5 random seeds", 6, 8)
def five_seeds_on_esc50() -> Finding:
    """Count the accuracies on esc50 that are possible for 1 to 5 runs on a test set of the size in Table 8.

    For three runs, also count the pairs of accuracy and sample sd that are possible together.
    """
    clips, scores = int(table(8).set_index("dataset").loc["esc50", "test"]), table(6).query("dataset == 'esc50'")
    fits = {runs: sum(_fits(mean, runs, clips) for mean in scores["mean"]) for runs in range(1, 6)}
    pairs = sum(_fits_three(mean, sd, clips) for mean, sd in zip(scores["mean"], scores["std"], strict=True))
    counts = ", ".join(f"{count} for {runs} run{'s' * (runs > 1)}" for runs, count in fits.items())
    found = f"of {len(scores)} accuracies, possible as a mean on {clips} clips: {counts}; "
    found += f"together with the printed sd: {pairs} for 3 runs"
    return Finding(found, fits[5] == len(scores))


# ---- the tables among each other -------------------------------------------------------------------------------------


def _agreement(left: pd.DataFrame, right: pd.DataFrame, value: str, tolerance: float, found: str) -> Finding:
    """Apply the rule for two tables to the cells that both have; what differs by more than `tolerance` is named."""
    both = left.merge(right, on=["dataset", "encoder", "head"], suffixes=("_left", "_right"))
    one, other = both[f"{value}_left"], both[f"{value}_right"]
    off = both[(one - other).abs() > tolerance + 1e-9]
    names = [
        f"{row.dataset} {row.encoder} {row.head} ({one[row.Index]} and {other[row.Index]})" for row in off.itertuples()
    ]
    found = f"{len(both) - len(off)} of {len(both)} {found}; exceptions: {listed(names)}"
    spread = (one - other)[off.index].abs().sum() / len(both)
    return Finding(found, spread < 0.05, f"but for {len(off)} of {len(both)}" if len(off) else "")


@claim("Appendix A", "[Table 4, means:] the full benchmark results, extending those in the main paper", 2, 4)
def tables_2_and_4_means() -> Finding:
    """Compare the means of the cells that both tables have."""
    return _agreement(table(2), table(4), "mean", 0.005, "are equal to the digit")


@claim(
    "Appendix A", "[Table 4, standard deviations:] the full benchmark results, extending those in the main paper", 2, 4
)
def tables_2_and_4_sds() -> Finding:
    """Compare the sd of the cells that both tables have; Table 2 prints one digit, Table 4 two."""
    return _agreement(table(2), table(4), "std", 0.05, "are the rounding of Table 4")


@claim("Appendix A", "The following tables present the complete results [of which Table 3 shows a part]", 3, 4, 6)
def table_3_and_appendix() -> Finding:
    """Compare Table 3, of one digit, with Tables 4 and 6."""
    return _agreement(table(3), pd.concat([table(4), table(6)]), "mean", 0.05, "are the rounding of Tables 4 and 6")


@claim("Appendix B", "[Table 7:] Bold marks the number of prototypes used in our main benchmark results", 4, 6, 7)
def table_7_and_main_results() -> Finding:
    """Compare Table 7 at the J of the main results, and its linear, with Tables 4 and 6."""
    seeds = " and ".join(f"{n:.0f}" for number in (4, 7) for n in table(number)["seeds"].unique())
    found = f"are equal to the digit ({seeds} seeds by the captions of Tables 4 and 7)"
    return _agreement(means(7), pd.concat([table(4), table(6)]), "mean", 0.005, found)


# ---- Appendix B ------------------------------------------------------------------------------------------------------


def _ablation() -> pd.DataFrame:
    """Return Table 7 without linear: a row a (data set, encoder, head), a column a J."""
    return table(7).dropna(subset=["J"]).pivot(index=["dataset", "encoder", "head"], columns="J", values="mean")


def _at_main_prototypes(scores: pd.Series) -> pd.Series:
    """Keep the rows (…, J) at the J of the main results."""
    return scores[[row[-1] == main_prototypes(row[0]) for row in scores.index]]


def _by_head() -> pd.DataFrame:
    """Return Table 7 without linear: a row a (data set, encoder, J), a column a head."""
    return _ablation().stack().unstack("head")


@claim(
    "Appendix B",
    "[urban, EAT:] from 80.05 mAP at J=1 to 89.01 with nearly 9 percentage points […] from 10 to 20 is only 0.23",
    7,
)
def prototypes_on_urban() -> Finding:
    """Subtract the scores of Table 7."""
    score = _ablation().loc[("urban", "EAT", "protobin")]
    first, second = score[10] - score[1], score[20] - score[10]
    holds = rounds_to(score[1], "80.05") and rounds_to(score[10], "89.01") and near(first, "9")
    found = f"{score[1]:.2f} to {score[10]:.2f}, {signed(first)} points; from 10 to 20 {signed(second)}"
    return Finding(found, holds and rounds_to(second, "0.23"))


@claim(
    "Appendix B",
    "esc50, which sees a 14 %p increase […] [as20k:] the gain from J = 1 to J = 10 is only circa 2.6 %p",
    7,
)
def prototypes_elsewhere() -> Finding:
    """Subtract protobin with EAT at J = 1 from J = 10."""
    scores = _ablation().xs(("EAT", "protobin"), level=("encoder", "head"))
    gains = scores[10] - scores[1]
    found = f"esc50 {signed(gains['esc50'])}, as20k {signed(gains['as20k'])}"
    return Finding(found, rounds_to(gains["esc50"], "14") and near(gains["as20k"], "2.6"))


@claim("Appendix B", "performance is highly sensitive to J at lower values and begins to saturate as J increases", 7)
def saturation() -> Finding:
    """Average the gains from J = 1 to 5, 5 to 10 and 10 to 20 over encoders and prototype heads."""
    steps = _ablation().diff(axis=1).iloc[:, 1:]
    average = steps.groupby("dataset").mean()
    found = "; ".join(
        f"{name} {', '.join(map(signed, row))}" for name, row in zip(average.index, average.to_numpy(), strict=True)
    )
    slower = steps.iloc[:, 0] > steps.iloc[:, -1]
    holds = bool((average.diff(axis=1).iloc[:, 1:] < 0).all(axis=None))
    return Finding(f"{found}; the first step exceeds the last in {share(slower)} rows", holds)


@claim(
    "Appendix B",
    "our choice of J = 20 (and J = 10 for as20k) […] capturing the vast majority of the method’s potential performance",
    7,
)
def chosen_prototypes_suffice() -> Finding:
    """Divide protobin's score at the chosen J by its best over J; a vast majority is at least 90 %."""
    scores = _ablation().xs("protobin", level="head")
    parts = 100 * _at_main_prototypes(scores.stack()).droplevel(-1) / scores.max(axis=1)
    parts = parts.groupby("dataset").agg(["mean", "min"])
    found = ", ".join(f"{name} {mean:.1f} % (least {least:.1f} %)" for name, (mean, least) in parts.T.items())
    largest = scores.columns.max()
    return Finding(found, parts["min"].min() >= 90, f"of the J in Table 7; none above J = {largest:.0f} was tried")


@claim(
    "Appendix B",
    "protofloat consistently and significantly outperforms the […] proto baseline across nearly all settings",
    7,
)
def protofloat_over_proto() -> Finding:
    """Subtract proto from protofloat in each (data set, encoder, J)."""
    scores = _by_head()
    gaps = scores["protofloat"] - scores["proto"]
    main = _at_main_prototypes(gaps)
    at_main = f"{signed(main.mean())} points at the J of the main results ({share(main > 0)}); in all, "
    finding = case_by_case(gaps, at_main)
    reading = "; ".join(filter(None, [finding.reading, "'significantly' cannot be checked, Table 7 has no sd"]))
    return Finding(finding.found, finding.holds, reading)


@claim(
    "Appendix B",
    "On some configurations in lower and higher number of prototypes, protofloat holds a slight […] edge over protobin",
    7,
)
def protofloat_over_protobin() -> Finding:
    """Subtract protobin from protofloat at each J; "some" is at least one case at the lowest and the highest J."""
    scores = _by_head()
    gaps = scores["protofloat"] - scores["protobin"]
    parts = {f"J = {per_class:.0f}": gap for per_class, gap in gaps.groupby("J")}
    found = ", ".join(f"{name} {signed(gap.mean())} ({share(gap > 0)})" for name, gap in parts.items())
    return Finding(found, all((list(parts.values())[at] > 0).any() for at in (0, -1)))


@claim("Appendix B", "at the cost of only a very low drop in performance in certain cases", 7)
def drop_by_binarisation() -> Finding:
    """Subtract protobin from protofloat; a very low drop is taken as below one point on average."""
    scores = _by_head()
    gaps = scores["protofloat"] - scores["protobin"]
    main = _at_main_prototypes(gaps)
    (name, encoder, per_class), most = gaps.idxmax(), gaps.max()
    found = f"at the J of the main results {main.mean():.2f} points (most {main.max():.2f}; {share(main > 0)} cases); "
    found += f"over all J {gaps.mean():.2f} (most {most:.2f}: {name} {encoder}, J = {per_class:.0f})"
    return Finding(found, main.mean() < 1, "" if gaps.mean() < 1 else "at the J of the main results, on the average")


@claim(
    "Appendix B",
    "protobin frequently outperforms the original proto baseline and linear, especially on […] as20k and urban",
    7,
)
def protobin_over_proto() -> Finding:
    """Count where protobin exceeds proto and linear, in each (data set, encoder, J); frequently is over half."""
    scores, linear = _by_head(), table(7).query("head == 'linear'").set_index(["dataset", "encoder"])["mean"]
    scores["linear"] = [linear[row[:2]] for row in scores.index]
    ahead = scores[["proto", "linear"]].lt(scores["protobin"], axis=0)
    counts = ahead.groupby("dataset").sum()
    found = "; ".join(
        f"{head}: {share(ahead[head])} (" + ", ".join(f"{name} {n}" for name, n in counts[head].items()) + ")"
        for head in counts
    )
    especially = bool((counts.drop("esc50") > counts.loc["esc50"]).all(axis=None))
    return Finding(found, bool((ahead.mean() > 0.5).all()) and especially)


@claim("Appendix B", "on the single-label esc50 task, […] the baseline proto is highly competitive", 7)
def proto_on_esc50() -> Finding:
    """Subtract protobin from proto on esc50 at J = 20; competitive is ahead in half of the cases, or on average."""
    scores = _by_head().xs(("esc50", 20), level=("dataset", "J"))
    gaps = scores["proto"] - scores["protobin"]
    found = f"{signed(gaps.mean())} points on average, ahead with {listed(gaps.index[gaps > 0])}"
    return Finding(found, gaps.mean() > 0 or (gaps > 0).mean() >= 0.5)


# ---- later accounts --------------------------------------------------------------------------------------------------


@claim("published version", "[not in our copy: a gain of 14.41 for protobin over linear]", 2)
def gain_over_linear() -> Finding:
    """Average protobin's points above linear over Table 2."""
    scores = wide(2)
    gain = (scores["protobin"] - scores["linear"]).mean()
    return Finding(f"{signed(gain)} points", rounds_to(gain, "14.41"))


@claim("a review", "[not in our copy: gains of up to 14.41 % relative]", 2)
def gain_is_relative() -> Finding:
    """Take protobin's gain over linear in percent of linear: of the means, and the largest of Table 2."""
    scores = wide(2)
    relative = 100 * (scores["protobin"] / scores["linear"] - 1)
    of_means = 100 * (scores["protobin"].mean() / scores["linear"].mean() - 1)
    points = (scores["protobin"] - scores["linear"]).mean()
    found = f"{of_means:.0f} % of the means, at most {relative.max():.0f} % ({listed([relative.idxmax()])}); "
    return Finding(f"{found}in points, {signed(points)} is the average", rounds_to(relative.max(), "14.41"))


@claim("a review", "[not in our copy: gains on 7 of 8 multi-label data sets]", 2, 5)
def gains_on_seven_of_eight() -> Finding:
    """Average protobin's points above linear and above mhca on each multi-label set, self-supervised encoders."""
    scores = pd.concat([wide(2), wide(5, BASE)])
    gaps = protobin_above(scores, ["linear", "mhca"]).groupby("dataset").mean()
    found = ", ".join(f"above {head} on {share(gaps[head] > 0)} (least {signed(gaps[head].min())})" for head in gaps)
    return Finding(found, any((gaps[head] > 0).sum() == 7 and len(gaps) == 8 for head in gaps))


@claim("a review", "[not in our copy: a gain of 2.45 absolute on AudioSet-20k]", 2)
def gain_on_as20k() -> Finding:
    """Average protobin's points above linear and above mhca on as20k."""
    scores = wide(2).loc["as20k"]
    gaps = protobin_above(scores, ["linear", "mhca"])
    found = ", ".join(f"{signed(gap)} over {head}" for head, gap in gaps.mean().items())
    return Finding(found, any(rounds_to(gap, "2.45") for gap in gaps.mean()))
