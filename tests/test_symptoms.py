"""The field guide: measures whose answer is known, every trouble in miniature, words for every outcome."""

import re
from dataclasses import replace

import jupytext
import numpy as np
import pandas as pd
import pytest
import torch

from lib import symptoms, symptoms_provoked
from lib.audio import SAMPLE_RATE, log_mel
from lib.encoders import load_encoder
from lib.errors import InputError
from lib.heads import build_head
from lib.notebooks import declared_parameters, read_source
from lib.paths import NOTEBOOKS, figure_root, scratch
from lib.plots_symptoms import PANELS, plot_guide, plot_trouble
from lib.profiles import load_profile
from lib.results import make_cell
from lib.store import Embeddings
from lib.symptoms import COSTLY_FIRST, TROUBLES, easy_cells, provoke, rules, searched_cells, study, write_symptoms
from lib.symptoms_found import FINDINGS, closing_table, explained, find
from lib.symptoms_provoked import (
    Ground,
    attention,
    before_norm,
    chirp,
    count_ties,
    frequency_major,
    narrow_pool,
    narrow_products,
    neighbours,
    order,
    overwrite,
    same_place,
)
from lib.train import Run, Training

SOURCE = NOTEBOOKS / "20_my_probe_looks_wrong.py"
GRID, DIM, CLASSES, J = (4, 3), 8, 3, 2
N = GRID[0] * GRID[1]


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def toy(clips=12, seed=0):
    targets = (noise(clips, CLASSES, seed=seed + 1) > 0).float()
    return Embeddings(noise(clips, N, DIM, seed=seed).half(), noise(clips, DIM), targets, GRID)


# ---- measures ------------------------------------------------------------------------------------------------------


def test_the_wrong_order_is_the_other_flattening_of_the_same_grid():
    tokens = torch.arange(N).view(1, N, 1)  # a token is its time-major number
    wrong = frequency_major(tokens, GRID).view(GRID[1], GRID[0])
    assert all(wrong[f, t] == t * GRID[1] + f for t in range(GRID[0]) for f in range(GRID[1]))


def test_neighbours_in_time_are_alike_only_if_the_order_is_right():
    steady = noise(6, 1, GRID[1], 64).expand(-1, 16, -1, -1)  # what a row hears changes with the clip, not with time
    late = torch.cat([steady[:, :8], -steady[:, :8]], 1).flatten(1, 2)  # but once
    right = neighbours(late, (16, GRID[1]))
    wrong = neighbours(frequency_major(late, (16, GRID[1])), (16, GRID[1]))
    assert right["time"] > 0.8 > 0.6 > wrong["time"] and right["time"] > right["frequency"]


def test_what_places_and_clips_have_in_common_does_not_make_neighbours_alike():
    common = 50 * noise(1, N, DIM, seed=1) + 50 * noise(8, 1, DIM, seed=2)
    tokens = noise(8, N, DIM)
    assert neighbours(tokens + common, GRID) == pytest.approx(neighbours(tokens, GRID), abs=1e-3)


def test_the_tone_climbs_the_mel_scale_evenly_and_the_second_clip_is_near_silence():
    tone, rest = chirp(4.0)
    loudest = log_mel(torch.from_numpy(tone)[None], 64)[0].argmax(-1).numpy()  # (frames,)
    assert (np.diff(loudest) >= -1).all() and loudest[0] < 3 and loudest[-1] > 60
    assert np.abs(loudest - np.linspace(0, 63, len(loudest))).max() < 4
    assert np.abs(rest).max() < 0.05 * np.abs(tone).max() and len(tone) == 4 * SAMPLE_RATE


@pytest.mark.parametrize("name", ["mhca", "ep"])
@torch.no_grad()
def test_attention_is_what_the_head_pools_with(name):
    head = build_head(name, 64, CLASSES, GRID, generator=torch.Generator().manual_seed(1))
    tokens = 3 * noise(5, N, 64)
    overwrite(head.query if name == "mhca" else head.queries, noise(*(64,) if name == "mhca" else (32, 64)))
    head.train()(tokens, None)  # running statistics
    head.eval()
    places = attention(head, tokens)  # (B, Q, N)
    assert torch.allclose(places.sum(-1), torch.ones(places.shape[:2]))
    values = head.value(head.token_norm(tokens.flatten(0, 1)).view_as(tokens) if name == "mhca" else tokens)
    pooled = torch.einsum("bqn,bnqd->bqd", places, values.unflatten(2, (places.shape[1], -1)))
    torch.testing.assert_close(pooled.flatten(1), head.pool(tokens, None, None), rtol=1e-3, atol=1e-4)


def test_one_place_in_all_clips_is_one_and_a_place_of_its_own_in_each_is_one_over_the_clips():
    top = torch.stack([torch.full((4,), 7), torch.arange(4), torch.tensor([1, 1, 1, 0])], 1)  # (B, Q)
    assert same_place(top[:, :1]) == 1 and same_place(top[:, 1:2]) == 0.25
    assert same_place(top) == pytest.approx((1 + 0.25 + 0.75) / 3)


def ladder(steps):
    """Clips whose tokens lie at these angles from the first axis, and a head whose prototypes are that axis."""
    angles = torch.tensor(steps)
    tokens = torch.zeros(1, len(steps), DIM)
    tokens[0, :, 0], tokens[0, :, 1] = angles.cos(), angles.sin()
    head = build_head("protofloat", DIM, CLASSES, (len(steps), 1), J)
    overwrite(head.prototypes, torch.eye(DIM)[0].expand(CLASSES * J, -1))
    return Embeddings(tokens, torch.zeros(1, DIM), torch.zeros(1, CLASSES), (len(steps), 1)), head


def test_ties_are_those_that_rounding_makes_and_a_later_token_then_loses_its_win():
    close, head = ladder([0.05, 0.02, 0.6])  # cosines 0.99875 and 0.9998 are one number in bfloat16, two in float16
    found = {(name, what): share for name, what, share in count_ties(head, close)}
    assert found["float32", "tied"] == found["float32", "moved"] == found["float16", "tied"] == 0
    assert found["bfloat16", "tied"] == found["bfloat16", "moved"] == 1  # the first of equals is taken
    apart, head = ladder([0.6, 0.2, 0.9])
    assert all(share == 0 for *_, share in count_ties(head, apart))
    twins, head = ladder([0.3, 0.3])
    assert all(share == (what == "tied") for _, what, share in count_ties(head, twins))


def test_narrow_pooling_is_the_heads_own_but_for_rounding():
    head = build_head("protobin", 64, CLASSES, GRID, J)
    tokens = noise(3, N, 64)
    exact = head.pool(tokens, None, None)
    assert torch.allclose(narrow_pool(head, torch.float32, tokens, None, None), exact)
    rounded = narrow_pool(head, torch.bfloat16, tokens, None, None)
    assert torch.equal(rounded, rounded.bfloat16().float()) and 0 < (rounded - exact).abs().max() < 0.01
    assert torch.equal(narrow_products(tokens, tokens[0], torch.float32), tokens @ tokens[0].T)


def test_values_that_are_written_over_are_trained_from_there():
    data = toy()
    training = Training(Run("protobin", 0.5, 0.0, 2, 4, prototypes=J), data)
    overwrite(training.head.prototypes, torch.ones_like(training.head.prototypes))
    assert (training.head.prototypes == 1).all()
    assert (training.advance(1).head.prototypes != 1).any()


def test_before_the_norm_is_what_the_norm_makes_the_encoders_tokens_of():
    encoder, cell = load_encoder("pocket-eat"), make_cell("pocket-eat", "soundscapes", "linear")
    clips = replace(toy(2), grid=encoder.grid)
    bare = before_norm(encoder, cell, "train", clips)
    data = symptoms.load_dataset("soundscapes")
    audio = np.stack([data.scene("train", index).audio for index in range(2)])
    with torch.inference_mode():
        encoding = encoder(encoder.spectrogram(audio, SAMPLE_RATE))
        tokens, cls = encoder.vit.norm(bare.tokens.float()), encoder.vit.norm(bare.cls)
    assert torch.allclose(tokens, encoding.tokens, atol=0.02) and torch.allclose(cls, encoding.cls, atol=0.02)
    assert bare.tokens.float().norm(dim=-1).mean() > 2 * encoding.tokens.norm(dim=-1).mean()


def test_a_group_explains_all_of_what_it_decides_and_nothing_of_what_it_does_not():
    values, groups = pd.Series([1.0, 1.0, 3.0, 3.0]), pd.Series(["a", "a", "b", "b"])
    assert explained(values, groups) == 1 and explained(values, pd.Series(["a", "b", "a", "b"])) == 0
    assert explained(pd.Series([2.0, 2.0]), pd.Series(["a", "b"])) == 0


# ---- every trouble in miniature -------------------------------------------------------------------------------------


@pytest.fixture
def ground(monkeypatch):
    """A toy ground: small tokens, short runs, few rates; what needs an encoder or finished cells is stood in for."""
    monkeypatch.setattr(symptoms_provoked, "RATES", (0.0005, 0.008, 0.128))
    monkeypatch.setattr(symptoms_provoked, "STDS", (0.005, 0.02, 0.08))
    monkeypatch.setattr(symptoms_provoked, "SPREAD_SEEDS", (1, 2, 3, 4))
    monkeypatch.setattr(symptoms_provoked, "chirp_rows", lambda name: chirp_rows_of(GRID))
    monkeypatch.setattr(symptoms_provoked, "before_norm", lambda e, c, s, data: replace(data, tokens=10 * data.tokens))
    monkeypatch.setattr(symptoms_provoked, "load_encoder", lambda name: StandIn())
    monkeypatch.setattr(symptoms_provoked, "final_values", lambda profile, cell: [50.0, 51.0])
    monkeypatch.setattr(symptoms_provoked, "difference", lambda profile, cell, other: (-1.0, -2.0, 0.5))
    profile = study("smoke")
    cells = {cell.head: cell for cell in searched_cells(profile)}
    wide = {"ep": {"num_queries": 4}}
    runs = {head: Run(head, 0.01, 1e-4, 2, 4, prototypes=J, options=wide.get(head, {})) for head in cells}
    return Ground(profile, toy(), toy(seed=5), cells, runs, tuple(easy_cells(profile)))


class StandIn:
    """An encoder of which nothing but its norm is asked."""

    class vit:
        norm = staticmethod(lambda tokens: tokens / 10)


def chirp_rows_of(grid):
    cases = ("right", "wrong throughout")
    rows = [{"case": case, "measure": "rises", "value": 0.9} for case in cases]
    places = [(t, f) for t in range(grid[0]) for f in range(grid[1])]
    return rows + [{"case": c, "measure": "away", "value": t * f, "t": t, "f": f} for c in cases for t, f in places]


def table_of(ground, name):
    table = pd.DataFrame(getattr(symptoms_provoked, name)(ground))
    table.attrs["note"] = "made up"
    return table


@pytest.mark.parametrize("name", TROUBLES)
def test_a_trouble_gives_a_table_a_line_and_a_picture(ground, name):
    table = table_of(ground, name)
    assert {"case", "measure", "value"} <= set(table) and table["value"].notna().all()
    keys = [column for column in table if column != "value"]
    assert not table.duplicated(keys).any()
    line = find(name, table).line()
    assert re.match(r"\*\*(Provoked|Not provoked at this scale)\.\*\* ", line) and line.endswith(".")
    assert "nan" not in line and "\n" not in line
    assert len(plot_trouble(name, table).axes) == len(PANELS[name])
    again = pd.DataFrame(getattr(symptoms_provoked, name)(ground))
    pd.testing.assert_frame_equal(table, again)  # all randomness comes from seeds


def test_seeds_that_the_cell_has_are_read_and_the_others_trained(ground):
    table = table_of(ground, "spread").set_index(["case", "seed"])["value"]
    assert (table["abmilp"][1], table["abmilp"][2]) == (50.0, 51.0)  # the cell's, in the order of the profile's seeds
    fresh = symptoms_provoked.trained([ground.run("abmilp", 3)], ground.train)
    assert table["abmilp"][3] == pytest.approx(ground.scores(fresh)[0]) and len(table["abmilp"]) == 4
    assert table["abmilp, lr 0.007"][1] != 50.0
    known = table_of(ground, "norm").query("case == 'with the norm' and measure == 'score' and head == 'conv'")
    assert dict(zip(known["seed"], known["value"], strict=True)) == {1: 50.0, 2: 51.0}


def test_heads_without_a_map_give_the_same_logits_in_any_order(ground):
    table = pd.DataFrame(order(ground))
    scores = table[table["measure"] == "score"].pivot(index=["head", "seed"], columns="case", values="value")
    for head in ("linear", "mhca", "protobin"):
        assert np.allclose(scores.loc[head, "right"], scores.loc[head, "wrong in the test"], atol=1e-3)
    assert not np.allclose(scores.loc["linearc", "right"], scores.loc["linearc", "wrong in the test"])


def test_the_provoked_starts_are_what_they_say(ground):
    table = table_of(ground, "positive")
    start = table[table["epoch"] == 0].groupby(["case", "measure"])["value"].mean()
    assert start["U(0, 1)", "positive"] == 1 and start["U(0, 1)", "cosine"] == pytest.approx(1)
    assert 0.2 < start["around zero", "positive"] < 0.8
    dead = table_of(ground, "silent").query("measure == 'dead' and epoch == 0").groupby("case")["value"].mean()
    assert dead["w = 1"] == 0 and dead["w from U(±1/√J)"] > 0
    latents = table_of(ground, "frozen").query("measure == 'latent' and epoch == 0").groupby("case")["value"].mean()
    assert latents["init_std 1.28"] == pytest.approx(64 * latents["init_std 0.02"])


# ---- words for every outcome -----------------------------------------------------------------------------------------


def shifted(table, change, **where):
    """Return the table with the values of some rows changed."""
    rows = np.logical_and.reduce([table[column] == value for column, value in where.items()])
    changed = table.copy()
    changed.loc[rows, "value"] = change(changed.loc[rows, "value"])
    return changed


def test_the_rule_decides_both_ways(ground):
    outcomes = {
        "positive": ({"case": "U(0, 1)", "measure": "score"}, 1.0, 99.0),
        "frozen": ({"case": "init_std 1.28", "measure": "flipped_since_start"}, 0.0, 1.0),
        "silent": ({"case": "w from U(±1/√J)", "measure": "silent"}, 1.0, 0.0),
        "ties": ({"case": "bfloat16", "measure": "tied"}, 0.05, 0.001),
        "easy": ({"measure": "high"}, -0.5, 0.5),
        "norm": ({"case": "forgotten", "measure": "score", "head": "linear"}, 1.0, 99.0),
        "order": ({"case": "wrong in the test", "measure": "score", "head": "conv"}, 1.0, 99.0),
    }
    for name, (where, bad, good) in outcomes.items():
        table = table_of(ground, name)
        if name in ("norm", "order"):  # another head may be hurt too
            others = table["head"].isin([where["head"], np.nan])
            table = table[others]
        assert find(name, shifted(table, lambda values, bad=bad: bad, **where)).seen, name
        assert not find(name, shifted(table, lambda values, good=good: good, **where)).seen, name


def test_attention_has_collapsed_if_it_lies_on_one_token_and_the_score_is_worse(ground):
    table = table_of(ground, "collapse")
    case = "mhca, lr × 100"
    narrow = shifted(table, lambda values: 1.2, case=case, measure="attended")
    worse = shifted(narrow, lambda values: 1.0, case=case, measure="score")
    assert find("collapse", worse).seen and f"{case}: 1 tokens, score 1.0" in find("collapse", worse).words
    assert not find("collapse", shifted(narrow, lambda values: 99.0, case=case, measure="score")).seen
    assert not find("collapse", shifted(table, lambda values: 8.0, measure="attended")).seen


def test_a_spread_is_large_only_beyond_what_chance_gives(ground):
    rows = [("protobin", s, 60 + 0.1 * s) for s in range(1, 9)] + [("mhca", s, 60.0) for s in range(1, 9)]
    for factor, seen in ((1.5, False), (5.0, True)):
        found = [*rows, *(("abmilp", s, 60 + 0.1 * factor * s) for s in range(1, 9))]
        table = pd.DataFrame(found, columns=["case", "seed", "value"]).assign(measure="score", head="mhca")
        finding = find("spread", table)
        assert finding.seen == seen and f"sd is {factor:.1f} times protobin's, and 2.2 times" in finding.words


def test_the_ends_of_the_sweep_must_be_worse_than_the_papers_range_in_every_seed(ground):
    table = table_of(ground, "scale")
    sweep = shifted(table, lambda values: 50.0, measure="score")
    assert not find("scale", sweep).seen
    peak = shifted(sweep, lambda values: 60.0, measure="score", lr=0.008)
    finding = find("scale", peak)
    assert finding.seen and "rate 0.008, the best of the paper's range, scores 60.0, 0.0005 50.0" in finding.words
    assert "but 0% of that of the score" not in finding.words and "(lr alone 100%)" in finding.words
    assert not find("scale", shifted(peak, lambda values: 70.0, measure="score", lr=0.128, seed=1)).seen


def test_the_guide_has_the_same_troubles_everywhere(ground):
    assert set(TROUBLES) == set(FINDINGS) == set(PANELS) == set(COSTLY_FIRST) and len(TROUBLES) == 10
    assert len(rules().splitlines()) == 10
    tables = {name: table_of(ground, name) for name in ("ties", "frozen")}
    page = closing_table({name: find(name, table) for name, table in tables.items()})
    assert len(page.splitlines()) == 4 and page.count(" yes |") + page.count(" no |") == 2
    assert "max_c \\|W_ck\\|" in closing_table({"silent": find("ties", tables["ties"])})  # else it would end a cell
    assert len(plot_guide(tables).axes) == 12


# ---- run and kept ----------------------------------------------------------------------------------------------------


@pytest.fixture
def finished(ground, monkeypatch):
    """Stand in for the search; the dict holds what each trouble depends on, and what was provoked."""
    world = {"depends": dict.fromkeys(TROUBLES, "a"), "ran": []}

    def provoked(name):
        world["ran"].append(name)
        return [{"case": "x", "seed": seed, "measure": "score", "value": 1.0} for seed in (1, 2)]

    for name in TROUBLES:
        monkeypatch.setattr(symptoms_provoked, name, lambda ground, name=name: provoked(name))
    monkeypatch.setattr(symptoms, "run_cells", lambda *arguments: [])
    monkeypatch.setattr(symptoms, "ground_of", lambda profile: ground)
    monkeypatch.setattr(symptoms, "depends", lambda profile, name: world["depends"][name])
    return world


def test_only_what_is_missing_stale_or_damaged_is_provoked(finished):
    provoke("smoke", show=False)
    assert finished["ran"] == list(COSTLY_FIRST)
    finished["depends"]["ties"] = "b"
    (path,) = scratch().rglob("symptom-order.json")
    path.write_text(path.read_text()[:30])
    provoke("smoke", show=False)
    assert finished["ran"][len(TROUBLES) :] == ["order", "ties"]


def test_a_table_says_where_it_comes_from_and_is_not_written_of_something_older(finished):
    with pytest.raises(InputError, match="'ties' of profile 'smoke' has not been provoked; run notebook 20"):
        write_symptoms("smoke", "ties")
    with pytest.raises(InputError, match="Unknown trouble 'tie'.*Did you mean 'ties'"):
        write_symptoms("smoke", "tie")
    provoke("smoke", show=False)
    table = write_symptoms("smoke", "ties")
    assert table.attrs["note"].startswith("profile smoke (") and "2 seeds" in table.attrs["note"]
    assert (figure_root() / "smoke" / "symptoms_ties.csv").is_file()
    finished["depends"]["ties"] = "b"
    with pytest.raises(InputError, match="has not been provoked"):
        write_symptoms("smoke", "ties")


@pytest.mark.parametrize("profile", ["smoke", "pocket", "esc10"])
def test_every_profile_has_one_single_label_dataset_and_shows_one_encoder(profile):
    settings = study(profile)
    assert {cell.encoder for cell in searched_cells(settings)} == {"pocket-eat"}
    pairs = easy_cells(settings)
    assert {cell.loss for pair in pairs for cell in pair} == {"cross-entropy"}
    assert {cell.loss for cell in searched_cells(settings)} == {"asymmetric"}
    assert [linear.head for linear, _ in pairs] == ["linear"] * len(settings.encoders)
    assert settings.clips_of(settings.dataset) == load_profile(profile).clips_of(settings.dataset)


def test_the_notebook_shows_every_trouble_in_order_and_types_no_result():
    assert declared_parameters(read_source(SOURCE), SOURCE.stem) == {"profile"}
    cells = jupytext.read(SOURCE).cells
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    assert re.findall(r'^look\("(\w+)"\)', code, re.MULTILINE) == list(TROUBLES)
    prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    own = "\n".join(line for line in prose.splitlines() if not line.startswith(">"))
    assert not re.search(r"\d ?%|\d\.\d", own)
    assert own.count("**Symptom.**") == own.count("**Cause.**") == own.count("**Cure.**") == len(TROUBLES)
