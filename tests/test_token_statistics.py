"""Token statistics on cases whose answer is known; the encoders' pages against the code; notebook 08's conventions."""

import inspect
import math
import re

import jupytext
import numpy as np
import pandas as pd
import pytest
import torch

from lib.data.datasets import load_dataset
from lib.data.recordings import attributions
from lib.encoder_pages import (
    LICENCES,
    ORIGINALS,
    PAGES,
    as_page,
    authors,
    available_encoders,
    beside_table_1,
    credits_page,
    facts,
    heard,
    kept_and_left_out,
    loss_curves,
    missing_encoders,
    moving_average,
    pairs,
    pool_contents,
    stages,
    supervised_in_words,
)
from lib.encoders import ENCODERS, SHIPPED, objectives, pool
from lib.encoders.pocket import GEOMETRIES, PocketEncoder, new_vit
from lib.encoders.pretrain import RECIPES
from lib.encoders.vit import Encoding, ViT
from lib.errors import InputError
from lib.notebooks import declared_parameters, read_source
from lib.paths import MANIFESTS, NOTEBOOKS
from lib.plots_encoders import (
    plot_attention,
    plot_losses,
    plot_spread,
    plot_supervised_step,
    plot_token_maps,
    plot_variance,
)
from lib.token_statistics import (
    STATISTICS,
    attention_entropy,
    effective_rank,
    encode,
    in_words,
    last_layer,
    mean_cosine,
    statistics_page,
    supervised_step,
    token_statistics,
    variance_shares,
    waveforms,
)

SOURCE = NOTEBOOKS / "08_what_pretraining_does_to_tokens.py"
BASES = [name for name in SHIPPED if ENCODERS[name].kind == "base"]


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- each statistic where its value is known ----------------------------------------------------------------------


def test_tokens_that_point_one_way_have_cosine_one_and_rank_one_whatever_their_lengths():
    tokens = noise(1, 1, 8) * torch.tensor([0.1, 1.0, 2.0, 30.0])[None, :, None]  # (1, 4, 8)
    assert mean_cosine(tokens).item() == pytest.approx(1.0)
    assert effective_rank(tokens).item() == pytest.approx(1.0)


def test_orthogonal_tokens_have_cosine_zero_and_as_much_rank_as_there_are_of_them():
    tokens = torch.linalg.qr(noise(3, 16, 5)).Q.mT * 7.0  # (3, 5, 16)
    assert mean_cosine(tokens).tolist() == pytest.approx([0.0] * 3, abs=1e-12)
    assert effective_rank(tokens).tolist() == pytest.approx([5.0] * 3)


def test_opposite_tokens_have_cosine_minus_one_and_still_rank_one():
    tokens = torch.stack([noise(8), noise(8)])[None] * torch.tensor([1.0, -1.0])[None, :, None]
    assert mean_cosine(tokens).item() == pytest.approx(-1.0)
    assert effective_rank(tokens).item() == pytest.approx(1.0)


def test_the_mean_cosine_is_that_of_all_pairs_of_different_tokens():
    tokens = noise(2, 7, 4)
    for clip, value in zip(tokens, mean_cosine(tokens), strict=True):
        cosines = torch.nn.functional.cosine_similarity(clip[:, None], clip[None], dim=-1)  # (N, N)
        assert value.item() == pytest.approx(cosines[~torch.eye(7, dtype=torch.bool)].mean().item())


def test_the_effective_rank_takes_singular_values_not_their_squares():
    tokens = torch.diag(torch.tensor([3.0, 1.0]))[None]  # singular values 3 and 1: shares 3/4 and 1/4
    expected = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert effective_rank(tokens).item() == pytest.approx(expected)


def test_pure_effects_fall_to_the_share_that_bears_their_name():
    clip, place = noise(6, 1, 3), noise(1, 9, 3, seed=1)
    assert variance_shares(clip.expand(6, 9, 3)) == pytest.approx({"clips": 1, "places": 0, "within": 0}, abs=1e-12)
    assert variance_shares(place.expand(6, 9, 3)) == pytest.approx({"clips": 0, "places": 1, "within": 0}, abs=1e-12)
    rest = noise(6, 9, 3, seed=2)
    rest = rest - rest.mean(0) - rest.mean(1, keepdim=True) + rest.mean((0, 1))
    assert variance_shares(rest) == pytest.approx({"clips": 0, "places": 0, "within": 1}, abs=1e-12)


def test_the_shares_of_variance_sum_to_one_whatever_the_tokens_and_their_offset():
    for shape, offset in (((5, 12, 4), 0.0), ((3, 40, 2), 100.0), ((20, 4, 8), -3.0)):
        assert sum(variance_shares(noise(*shape) + offset).values()) == pytest.approx(1.0, abs=1e-12)


def test_mixed_effects_have_the_shares_of_their_squares():
    clip = torch.tensor([1.0, -1.0])[:, None, None].expand(2, 2, 1)  # sum of squares 4
    place = 2 * torch.tensor([1.0, -1.0])[None, :, None].expand(2, 2, 1)  # 16
    rest = 3 * torch.tensor([[1.0, -1.0], [-1.0, 1.0]])[..., None]  # 36
    shares = variance_shares(5 + clip + place + rest)
    assert shares == pytest.approx({"clips": 4 / 56, "places": 16 / 56, "within": 36 / 56})


def test_tokens_without_structure_have_the_shares_that_the_docstring_names():
    shares = variance_shares(noise(16, 50, 400))
    assert shares["clips"] == pytest.approx(1 / 50, rel=0.15) and shares["places"] == pytest.approx(1 / 16, rel=0.15)


def test_even_attention_has_entropy_one_and_attention_to_one_patch_has_zero():
    even, one = torch.full((2, 3, 4, 10), 0.05), torch.zeros(2, 3, 4, 10)  # even: half of it went to [cls] itself
    one[..., 3] = 0.2
    assert attention_entropy(even).shape == (2, 3)
    assert attention_entropy(even).flatten().tolist() == pytest.approx([1.0] * 6)
    assert attention_entropy(one).flatten().tolist() == pytest.approx([0.0] * 6)


def test_heads_that_look_at_different_places_do_not_pass_for_one_that_looks_everywhere():
    attention = torch.eye(4)[None, None]  # (1, 1, 4 heads, 4 patches), even on average
    assert attention_entropy(attention).item() == pytest.approx(0.0)


def test_the_entropy_of_half_the_patches_is_log_of_half_their_number():
    attention = torch.cat([torch.ones(1, 1, 1, 8), torch.zeros(1, 1, 1, 8)], dim=-1)
    assert attention_entropy(attention).item() == pytest.approx(math.log(8) / math.log(16))


@pytest.mark.parametrize("statistic", [mean_cosine, effective_rank, variance_shares])
def test_a_wrong_shape_is_told(statistic):
    with pytest.raises(InputError, match=r"Tokens \(B, N, D\).*\(4, 8\)"):
        statistic(torch.zeros(4, 8))


def test_tokens_that_are_all_the_same_have_no_variance_to_split():
    with pytest.raises(InputError, match="not all the same"):
        variance_shares(torch.ones(3, 4, 2))


# ---- of encoders ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encodings():
    """What encoders of every kind say about five clips: the pretrained ones' places taken by random networks."""
    clips, said = waveforms(load_dataset("soundscapes"), "val", 5), {}
    said["random-vit"], said["log-mel"] = encode("random-vit", clips), encode("log-mel", clips)
    for seed, name in enumerate(("pocket-beats", "pocket-beats-plus", "pocket-eat", "pocket-eat-plus")):
        encoder = PocketEncoder(new_vit(torch.Generator().manual_seed(seed), GEOMETRIES[name])).eval()
        with torch.inference_mode():
            said[name] = encoder(encoder.spectrogram(clips), attention=True)
    return {name: said[name] for name in ENCODERS if name in said}


def test_clips_are_encoded_alike_in_batches_of_any_size():
    clips = waveforms(load_dataset("soundscapes"), "val", 3)
    one, two = encode("random-vit", clips, batch_size=1), encode("random-vit", clips, batch_size=2)
    assert one.tokens.shape == (3, 248, 128) and one.attention.shape == (3, 6, 4, 248)
    torch.testing.assert_close(one.tokens, two.tokens, rtol=0, atol=1e-4)
    torch.testing.assert_close(one.attention, two.attention, rtol=0, atol=1e-5)
    assert encode("log-mel", clips).attention is None


def test_the_table_has_one_row_a_number_and_attention_where_there_is_a_cls(encodings):
    table = token_statistics(encodings)
    assert not table.duplicated(["encoder", "statistic", "layer"]).any()
    assert set(table["clips"]) == {5} and set(table["statistic"]) == set(STATISTICS)
    layers = table[table["statistic"] == "attention"].groupby("encoder")["layer"].agg(list)
    assert layers.to_dict() == {name: [1, 2, 3, 4, 5, 6] for name in ("pocket-eat", "pocket-eat-plus", "random-vit")}
    wide = last_layer(table)
    assert wide[["clips", "places", "within"]].sum(axis=1).tolist() == pytest.approx([1.0] * len(encodings))
    expected = attention_entropy(encodings["random-vit"].attention)[:, -1].mean().item()
    assert wide.loc["random-vit", "attention"] == pytest.approx(expected)
    assert (statistics_page(table).loc["BEATs (pocket)"] == "no [cls]").sum() == 1


def test_the_supervised_step_pairs_each_version_with_its_base(encodings):
    table = token_statistics(encodings)
    steps, wide = supervised_step(table).set_index(["pair", "statistic"]), last_layer(table)
    assert set(steps.index.get_level_values("pair")) == {"BEATs (pocket)", "EAT (pocket)"}
    assert steps.loc[("EAT (pocket)", "rank"), "base"] == wide.loc["pocket-eat", "rank"]
    assert steps.loc[("EAT (pocket)", "rank"), "plus"] == wide.loc["pocket-eat-plus", "rank"]
    assert ("BEATs (pocket)", "attention") not in steps.index


def test_the_sentences_take_their_numbers_from_the_table():
    values = {"pocket-eat": 0.25, "pocket-eat-plus": 0.5, "random-vit": 0.75}
    rows = [(name, s, pd.NA, value, 0.0) for name, value in values.items() for s in STATISTICS]
    table = pd.DataFrame(rows, columns=["encoder", "statistic", "layer", "value", "sd"])
    assert in_words(table)[0] == (
        "The mean cosine of two tokens of a clip is 0.25 for EAT (pocket) to 0.50 for EAT+ (pocket); 0.75 for the "
        "random ViT (control); fine-tuning on labels raised it in 1 of 1 pairs."
    )
    alone = in_words(table[table["encoder"] == "pocket-eat"])
    assert alone[1] == "The effective rank of a clip's tokens is 0 for EAT (pocket)." and len(alone) == len(STATISTICS)


def test_every_picture_is_drawn_with_encoders_missing_and_says_so(encodings):
    table, scene = token_statistics(encodings), load_dataset("soundscapes").scene("test", 250)
    first = {
        name: Encoding(e.tokens[:1], e.cls[:1], e.grid, None if e.attention is None else e.attention[:1])
        for name, e in encodings.items()
    }
    maps = plot_token_maps(scene, first, encodings)
    said = " ".join(text.get_text().replace("\n", " ") for axes in maps.axes for text in axes.texts)
    assert said.count("Its weights are not here yet.") == 2 * (10 - 5) and said.count("No [cls] of its own") == 2
    boxes = [len(axes.patches) for axes in maps.axes if axes.images]
    assert len(boxes) == 5 + 3 and set(boxes) == {len(scene.events)}
    pictures = [maps, plot_spread(table), plot_variance(table), plot_attention(table), plot_losses(loss_curves([]))]
    pictures += [plot_supervised_step(supervised_step(table)), plot_supervised_step(supervised_step(table[:0]))]
    for picture in pictures:
        picture.draw_without_rendering()
    assert "waits for them" in pictures[-1].axes[0].texts[0].get_text().replace("\n", " ")


# ---- the pages ------------------------------------------------------------------------------------------------------


def test_there_is_a_page_for_every_base_encoder_and_the_supervised_ones_name_theirs():
    assert list(PAGES) == list(ORIGINALS) == BASES and len(BASES) == 6
    supervised = {ENCODERS[name].base for name in SHIPPED if ENCODERS[name].kind == "supervised"}
    assert supervised == {name for name, original in ORIGINALS.items() if original.supervised}
    assert all(ENCODERS[name].label == f"{original.label} (pocket)" for name, original in ORIGINALS.items())


def test_the_rows_of_table_1_are_those_of_the_published_record():
    path = MANIFESTS / "paper" / "table_1.csv"
    if not path.is_file():
        pytest.skip("the paper's tables are not in this checkout")
    published = pd.read_csv(path, keep_default_na=False).set_index("encoder")
    for original in ORIGINALS.values():
        row = published.loc[original.label]
        assert (original.year, original.paradigm, original.data) == (row["year"], row["paradigm"], row["pretrain_data"])
        for mark, column in (("supervised", "supervised_plus"), ("mask", "mask"), ("ema", "ema"), ("global_cls",) * 2):
            assert getattr(original, mark) == (row[column] == "yes"), (original.label, column)


@pytest.mark.parametrize("name", BASES)
def test_a_pocket_version_has_the_marks_of_its_row_or_its_page_says_why_not(name):
    original, page = ORIGINALS[name], PAGES[name]
    assert original.mask and 0.5 <= int(facts(name)["hidden"].removesuffix(" %")) / 100 < 1
    assert (moving_average(name) != "no") == original.ema or "no EMA" in page.table_1
    assert ("teacher" in moving_average(name)) == original.ema
    assert needs_cls(stages(name)[-1]["objective"]) == original.global_cls
    if not GEOMETRIES[name].cls:
        assert ENCODERS[name].cls == "mean" and not original.global_cls and "no [cls]" in page.table_1


def needs_cls(objective: str) -> bool:
    """An objective with a task for [cls] refuses a network that has none."""
    try:
        getattr(objectives, objective)(ViT((16, 8), (4, 2), 16, 1, 1, cls=False), torch.Generator())
    except InputError:
        return True
    return False


@pytest.mark.parametrize("name", BASES)
def test_the_numbers_in_the_objectives_docstrings_are_the_defaults_and_those_of_the_pages(name):
    stage = next(stage for stage in stages(name) if "mask_ratio" in stage["options"])
    documented = " ".join(inspect.getdoc(getattr(objectives, stage["objective"])).split())
    share, label = stage["options"]["mask_ratio"], ORIGINALS[name].label
    said = [float(percent) / 100 for percent in re.findall(r"(\d+) % hidden", documented)]
    said += [float(number) for number in re.findall(rf"(0\.\d+) for {label}\b", documented)]
    assert said == [share] or (name == "pocket-asit" and not said)
    assert f"{100 * share:.0f} %" in PAGES[name].kept.format(**facts(name))


def test_no_number_of_a_pocket_encoder_is_typed_into_a_page():
    for name, page in PAGES.items():
        typed = re.sub(r"\{\w+\}|\[cls\]", "", f"{page.task} {page.kept}")
        assert not re.search(r"\d", typed), name


def test_the_tables_hold_every_encoder_and_leave_no_gap():
    for table, rows in ((beside_table_1(), 2 * len(PAGES)), (kept_and_left_out(), len(PAGES))):
        lines = table.data.splitlines()
        assert len(lines) == rows + 2 and len({line.count(" | ") for line in lines}) == 1
        assert "{" not in table.data and "None" not in table.data
    words = supervised_in_words().data
    assert all(ENCODERS[name].label in words for name in SHIPPED if ENCODERS[name].kind == "supervised")
    assert "{" not in words and "50 %" in words and "16 classes" in words


def test_the_manifest_of_shipped_weights_speaks_before_the_recipe(tmp_path, monkeypatch):
    monkeypatch.setattr("lib.encoder_pages.MANIFESTS", tmp_path)
    assert stages("pocket-eat")[0]["steps"] == RECIPES["pocket-eat"][0].steps
    (tmp_path / "encoders").mkdir()
    shipped = '{"stages": [{"steps": 7, "batch_size": 2, "options": {"mask_ratio": 0.5}}]}'
    (tmp_path / "encoders" / "pocket-eat.json").write_text(shipped)
    assert stages("pocket-eat")[0]["steps"] == 7 and facts("pocket-eat")["hidden"] == "50 %"


def test_encoders_are_available_where_their_weights_are(tmp_path, monkeypatch):
    monkeypatch.setattr("lib.encoder_pages.WEIGHTS", tmp_path)
    assert available_encoders() == ["random-vit", "log-mel"]
    assert "EAT+ (pocket)" in missing_encoders() and "random" not in missing_encoders()
    for name in GEOMETRIES:
        (tmp_path / f"{name}.safetensors").touch()
    assert available_encoders() == list(SHIPPED)
    assert missing_encoders() == "All 9 pocket encoders are here, and 2 controls."


def test_pictures_show_each_encoder_once_and_a_base_beside_its_supervised_version():
    shown = [name for pair in pairs() for name in pair]
    assert sorted(shown) == sorted(set(SHIPPED) - {"log-mel"})
    together = {plus: base for base, plus in pairs()}
    assert all(together[name] == ENCODERS[name].base for name in SHIPPED if ENCODERS[name].base)


def test_loss_curves_of_both_kinds_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("lib.encoder_pages.WEIGHTS", tmp_path)
    (tmp_path / "pocket-amae.loss.csv").write_text("step,loss\n100,1.5\n200,1.25\n")
    (tmp_path / "pocket-beats.loss.csv").write_text("stage,step,loss\nrandom tokens,100,5.0\ntokenizer,100,0.5\n")
    curves = loss_curves(["pocket-amae", "pocket-beats", "pocket-eat"])
    assert curves["stage"].tolist() == ["pretraining", "pretraining", "random tokens", "tokenizer"]
    assert curves["loss"].tolist() == [1.5, 1.25, 5.0, 0.5]
    titles = [axes.get_title(loc="left") for axes in plot_losses(curves).axes if axes.lines]
    assert titles == ["A-MAE (pocket)\npretraining", "BEATs (pocket)\nrandom tokens", "BEATs (pocket)\ntokenizer"]


# ---- what was heard, and whom to thank ------------------------------------------------------------------------------


def test_what_the_pool_holds_is_counted_from_its_plans():
    contents = pool_contents(600)
    assert contents["clips"].sum() == 600 and contents["hours"].sum() == pytest.approx(600 * 10 / 3600)
    assert set(contents.index) == set(pool.SHARES)
    assert np.allclose(contents["clips"] / 600, [pool.SHARES[kind] for kind in contents.index], atol=0.08)
    number = attributions().groupby("set")["file"].size()
    recordings = contents["recordings"]
    assert recordings["synthetic"] == 0 and number["ESC-10"] / 2 < recordings["esc10"] <= number["ESC-10"]
    assert number["scikit-maad"] / 2 < recordings["field"] <= number["scikit-maad"] + number["ESC-10"]
    assert number["ESC-10"] < recordings["digits"] <= number["FSDD"] + number["ESC-10"]
    assert pool_contents(300).loc["esc10", "clips"] <= contents.loc["esc10", "clips"]


def test_a_table_of_numbers_is_readable_on_a_page():
    table = pd.DataFrame({"clips": [12000], "hours": [1.25], "what": ["a [cls]"]}, index=["x"])
    assert as_page(table).data.splitlines()[-1] == "| **x** | 12,000 | 1.2 | a [cls] |"


def test_hours_heard_count_repeats(monkeypatch):
    monkeypatch.setattr("lib.encoder_pages.pool_contents", lambda: pd.DataFrame({"clips": [400]}, index=["synthetic"]))
    table, stage = heard(["pocket-amae", "pocket-eat-plus", "random-vit"]), RECIPES["pocket-eat-plus"][0]
    assert list(table.index) == ["A-MAE (pocket)", "EAT+ (pocket)"]
    clips = table.loc["EAT+ (pocket)", "clips"]
    assert clips == stage.steps * stage.batch_size and table.loc["EAT+ (pocket)", "passes"] == clips / 400
    assert table.loc["EAT+ (pocket)", "starts from"] == "EAT (pocket)"


def test_everyone_whose_recordings_may_be_heard_is_named_once_with_licence_and_number():
    everything, named = attributions(), authors()
    assert not everything.duplicated(["set", "file"]).any() and not everything.isna().any(axis=None)
    assert named["recordings"].sum() == len(everything) == 2998
    assert not named.duplicated(["set", "license", "author"]).any()
    counts = everything.value_counts(["set", "license", "author"])
    assert all(counts[row.set, row.license, row.author] == row.recordings for row in named.itertuples())
    assert set(everything["license"]) <= set(LICENCES)


def test_the_page_of_credits_shows_every_name_unharmed_beside_its_licence():
    rows = [line.strip("| ").split(" | ") for line in credits_page().data.splitlines()[2:]]
    shown = {
        (source, licence[1 : licence.index("]")], re.sub(r"\\(.)", r"\1", name))
        for source, licence, _, names in rows
        for name in names.split(" · ")
    }
    expected = {
        (row.set, row.license, row.author + (f" ({row.recordings})" if row.recordings > 1 else ""))
        for row in authors().itertuples()
    }
    assert shown == expected
    assert sum(int(count.replace(",", "")) for _, _, count, _ in rows) == len(attributions())
    assert all(f"({LICENCES[licence[1 : licence.index(']')]]})" in licence for _, licence, _, _ in rows)


# ---- the notebook ---------------------------------------------------------------------------------------------------


def test_the_notebook_begins_as_the_others_do():
    notebook = jupytext.read(SOURCE, fmt="py:percent")
    first, second = notebook.cells[:2]
    title, about = first.source.split("\n\n")[:2]
    assert title == "# 08 · What pretraining does to tokens" and about.startswith("Shows ") and "two cores" in about
    assert first.source.endswith(
        "> Words in a block like this are the paper's (arXiv 2509.24901). All others are ours."
    )
    assert second.metadata["tags"] == ["parameters"] and second.source == 'profile = "pocket"'
    assert declared_parameters(read_source(SOURCE), SOURCE.stem) == {"profile"}
    waits = [cell for cell in notebook.cells if "waveforms(" in cell.source and "import" not in cell.source]
    assert [cell.metadata["tags"] for cell in waits] == [["long"]]
