"""Figures: from a tidy table alone, the same bytes each time, with words where something is missing."""

import errno
import functools

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from lib.errors import InputError
from lib.figures import COLUMNS, DRAW, draw_figure, read_table, save_figure, write_table
from lib.figures_style import FAMILY_COLOURS, MARKERS, spread
from lib.heads import FAMILIES
from lib.heads import HEADS as ALL_HEADS

NOTE = (
    "Profile smoke: 3 seeds, 12 test clips from synthetic soundscapes; whiskers are ± 1 sd over seeds, and the "
    "costs of $5 and $6 are not mathematics. " * 2
).strip()
HEADS = ["linear", "mlp", "linearc", "mhca", "proto", "protobin"]
ENCODERS = {"pocket-amae": "A-MAE (pocket)", "random-vit": "random ViT (control)", "log-mel": "log-mel (control)"}
NO_LABELS = "There is no supervised⁺ version of this encoder yet."
NO_BIRDS = "Bioacoustic sets are not in this profile."
NO_TUNING = "This encoder has not been fine-tuned."


def tidy(number, rows):
    table = pd.DataFrame(rows)
    return table.reindex(columns=dict.fromkeys([*COLUMNS[number], *table.columns]))


def scene_rows():
    rng = np.random.default_rng(0)
    rows = [{"panel": "axis", "name": "seconds", "value": 10.0}]
    rows += [{"panel": "axis", "name": "hz", "f": f, "value": 100.0 * 2**f} for f in range(7)]
    rows += [{"panel": "spectrogram", "t": t, "f": f, "value": rng.random()} for t in range(12) for f in range(7)]
    rows += [{"panel": "event", "name": "dog_bark", "start_s": 2.0, "end_s": 5.0, "low_hz": 200.0, "high_hz": 800.0}]
    rows += [{"panel": "event", "name": "rain", "start_s": 2.1, "end_s": 9.0}]
    rows += [{"panel": "label", "text": "A-MAE (pocket)"}]
    maps = [("pca", c) for c in "rgb"] + [("attention", f"layer {n}") for n in (1, 3, 6)]
    maps += [("evidence", "dog_bark"), ("evidence", "rain")]
    for panel, name in maps:
        cells = [{"t": t, "f": f, "value": rng.random()} for t in range(4) for f in range(2)]
        rows += [{"panel": panel, "name": name, **cell} for cell in cells]
    return [{"row": "base", **row} for row in rows]


def protobin_rows():
    rng = np.random.default_rng(1)
    rows = [{"panel": "count", "name": "K", "value": 40.0}, {"panel": "reference", "value": 0.1}]
    for panel, shape in (("prototypes", (4, 6)), ("classifier", (3, 8)), ("cosine_before", (4, 4))):
        names = ["dog_bark", "rain", "wind"] if panel == "classifier" else [None] * 9
        cells = np.sign(rng.normal(size=shape)) if panel == "prototypes" else rng.normal(size=shape)
        rows += [
            {"panel": panel, "row": r, "column": c, "value": v, "name": names[r]} for (r, c), v in np.ndenumerate(cells)
        ]
    rows += [{**row, "panel": "cosine_after"} for row in rows if row["panel"] == "cosine_before"]
    for when in ("before", "after"):
        rows += [{"panel": f"histogram_{when}", "column": 0.05 * n, "value": 5.0 - n} for n in range(5)]
    return rows


def win_rows(heads, wins=4):
    pairs = [(a, b) for a in heads for b in heads if a != b]
    return [{"row_head": a, "column_head": b, "wins": wins, "configurations": 9, "kind": "wins"} for a, b in pairs]


def rank_rows(variant):
    return [
        {"head": head, "variant": variant, "wins": 20 - n, "rank": n + 1, "kind": "rank"}
        for n, head in enumerate(HEADS)
    ]


@functools.cache
def table(number):
    means = dict(zip(HEADS, (40.0, 45.0, 38.0, 55.0, 60.0, 61.0), strict=True))
    bars = [
        {"head": head, "mean": mean, "sd": 1.0, "low": mean - 3, "high": mean + 3, "n_seeds": 3, "kind": "head"}
        for head, mean in means.items()
    ]
    places = {"linear": (60.0, 50.0, 40.0), "protobin": (70.0, 75.0, 50.0)}  # the first two change places
    rows = {
        1: [*scene_rows(), {"row": "supervised", "panel": "missing", "text": NO_LABELS}],
        2: [*bars, {"kind": "missing", "text": NO_TUNING}],
        3: [{"name": n, "value": v} for n, v in {"S_t": 31, "S_f": 8, "D": 128, "J": 20, "C": 16, "K": 320}.items()],
        4: protobin_rows(),
        5: [{"group": "general", **row} for row in win_rows(HEADS)],
        6: [
            {"head": head, "encoder": name, "encoder_label": label, "mean": mean, "sd": 0.5, "n_datasets": 2}
            for head, values in places.items()
            for (name, label), mean in zip(ENCODERS.items(), values, strict=True)
        ],
        7: [
            {"encoder": name, "encoder_label": label, "head": head, "gain": n - 2.0, "sd": 1.0, "n": 2}
            for name, label in ENCODERS.items()
            for n, head in enumerate(HEADS)
        ],
        8: [{"group": "general", **row} for row in rank_rows("base")],
    }
    rows[2] = [{**row, "dataset_label": "soundscapes", "encoder_label": "A-MAE (pocket)"} for row in rows[2]]
    rows[5] += [{"group": "bioacoustic", "kind": "missing", "text": NO_BIRDS}]
    rows[8] += [{"group": "general", "kind": "missing", "text": NO_LABELS}]
    rows[8] += [{"group": "bioacoustic", "kind": "missing", "text": NO_BIRDS}]
    made = tidy(number, rows[number])
    if number == 6:
        made["rank"] = made.groupby("head")["mean"].rank(ascending=False)
    made.attrs["note"] = NOTE
    return made


@functools.cache
def figure(number):
    return draw_figure(number, table(number))


def words(drawn):
    return " ".join(" ".join(text.get_text() for text in drawn.findobj(Text)).split())


def changed(number, rows):
    new = tidy(number, rows)
    new.attrs["note"] = NOTE
    return draw_figure(number, new)


# ---- every figure ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", DRAW)
def test_the_same_table_gives_the_same_bytes(number, tmp_path, monkeypatch):
    monkeypatch.setattr("lib.figures.PNG_DPI", 50)  # quicker
    save_figure(figure(number), tmp_path / "once")
    with matplotlib.rc_context({"font.size": 20, "savefig.bbox": "tight", "figure.dpi": 40}):  # not ours to obey
        save_figure(draw_figure(number, table(number)), tmp_path / "again")
    for suffix in (".png", ".pdf"):
        once, again = ((tmp_path / name).with_suffix(suffix).read_bytes() for name in ("once", "again"))
        assert once == again
    png, pdf = (tmp_path / "once.png").read_bytes(), (tmp_path / "once.pdf").read_bytes()
    assert b"Software" not in png
    assert not any(word in pdf for word in (b"CreationDate", b"Producer", b"/Type3"))


@pytest.mark.parametrize("number", DRAW)
def test_the_note_stands_in_the_margin_clear_of_everything(number):
    drawn = figure(number)
    renderer = FigureCanvasAgg(drawn).get_renderer()
    (note,) = [text for text in drawn.texts if " ".join(text.get_text().split()) == NOTE]
    box = note.get_window_extent(renderer)
    assert box.x0 > 0 and box.y0 > 0 and box.x1 < drawn.bbox.x1
    for axes in drawn.axes:
        assert axes.get_tightbbox(renderer).y0 > box.y1


@pytest.mark.parametrize("number", DRAW)
def test_nothing_is_cut_off(number):
    drawn = figure(number)
    renderer = FigureCanvasAgg(drawn).get_renderer()
    for part in (*drawn.axes, *drawn.texts):
        box = part.get_tightbbox(renderer)
        assert box.x0 > -1 and box.y0 > -1 and box.x1 < drawn.bbox.x1 + 1 and box.y1 < drawn.bbox.y1 + 1, part


@pytest.mark.parametrize("number", DRAW)
def test_drawing_changes_neither_the_settings_nor_the_table(number):
    names = set(matplotlib.rcParams) - {"backend"}  # to look at the backend is to choose one
    before, given = {name: matplotlib.rcParams[name] for name in names}, table(number).copy()
    draw_figure(number, given)
    assert {name: matplotlib.rcParams[name] for name in names} == before
    pd.testing.assert_frame_equal(given, table(number))


@pytest.mark.parametrize("number", DRAW)
def test_a_missing_column_is_named(number):
    lacking = COLUMNS[number][1]
    with pytest.raises(InputError, match=rf"^The table of figure {number} lacks the column {lacking}; it has .*\.$"):
        draw_figure(number, table(number).drop(columns=lacking))


@pytest.mark.parametrize(
    ("number", "said"),
    [(1, [NO_LABELS]), (2, [NO_TUNING]), (5, [NO_BIRDS]), (8, [NO_BIRDS, NO_LABELS])],
)
def test_what_is_missing_is_said_in_words(number, said):
    for sentence in said:
        assert sentence in words(figure(number))


def test_a_notebook_shows_a_figure_without_set_up():
    assert figure(6)._repr_png_().startswith(b"\x89PNG")


def test_a_table_without_note_rows_or_sense_is_refused():
    bare = table(3).copy()
    bare.attrs = {}
    with pytest.raises(InputError, match="has no note"):
        draw_figure(3, bare)
    with pytest.raises(InputError, match="no rows"):
        draw_figure(3, table(3).iloc[:0])
    with pytest.raises(InputError, match="no figure 9; choose one of: 1, 2, 3"):
        draw_figure(9, table(3))
    with pytest.raises(InputError, match="lacks a row for D;"):
        draw_figure(3, table(3)[table(3)["name"] != "D"])
    with pytest.raises(InputError, match="lacks cells of the prototypes"):
        draw_figure(4, table(4).drop(index=table(4).index[table(4)["panel"] == "prototypes"][0]))
    with pytest.raises(InputError, match="two rows for pocket-amae, mlp"):
        draw_figure(7, pd.concat([table(7), table(7).iloc[1:2]]))
    with pytest.raises(InputError, match=r"Unknown head 'protobinn'.*Did you mean 'protobin'"):
        draw_figure(7, table(7).replace("protobin", "protobinn"))


# ---- what the single figures say -------------------------------------------------------------------------------


def test_an_event_is_boxed_where_it_sounds():
    boxes = [patch for patch in figure(1).axes[0].findobj(Rectangle) if patch.get_x() == 2.0]
    (bark,) = [box for box in boxes if box.get_width() == 3.0]
    assert (bark.get_y(), bark.get_height()) == pytest.approx((1.5, 2.0))  # 200 and 800 Hz: centres of bands 1 and 3


def test_an_encoder_without_attention_gets_words_for_it():
    rows = [row for row in scene_rows() if row["panel"] != "attention"]
    rows += [{"row": "base", "panel": "missing", "name": "attention", "text": "Patches attend to nothing."}]
    said = words(changed(1, rows))
    assert "Patches attend to nothing." in said and "dog bark" in said


def test_protobin_bears_its_share_of_the_gap_to_fine_tuning():
    assert "21.0 points above linear" in words(figure(2))
    rows = [row for row in table(2).to_dict("records") if row["kind"] == "head"]
    tuned = changed(2, [*rows, {"kind": "fine_tuning", "mean": 75.0}])
    assert "60 % of the gap closed" in words(tuned)  # (61 − 40) / (75 − 40)
    assert "tuning of the whole encoder: 75.0" in words(tuned)


def test_bars_without_seeds_or_bootstrap_promise_neither():
    rows = [{**row, "sd": np.nan, "low": np.nan, "high": np.nan, "n_seeds": 1} for row in table(2).to_dict("records")]
    said = words(changed(2, rows))
    assert "one seed" in said and "sd" not in said.replace(" ".join(NOTE.split()), "") and "bootstrap" not in said


def test_the_diagonal_of_a_win_matrix_is_blank():
    numbers = [text.get_text() for text in figure(5).axes[0].texts]
    assert numbers == ["4"] * (len(HEADS) * (len(HEADS) - 1))
    assert "General audio: 9 configurations" in words(figure(5))


def test_the_ranking_counts_who_changes_rank():
    assert "2 of 3 encoders change rank" in words(figure(6))
    assert "#2 70.0 ± 0.5 A-MAE (pocket)" in words(figure(6))
    assert "A-MAE (pocket) (2023)" in words(changed(6, table(6).assign(year=2023).to_dict("records")))


def test_linear_is_the_line_at_zero_and_no_row_of_its_own():
    labels = [label.get_text() for label in figure(7).axes[0].get_yticklabels()]
    assert labels == [head for head in HEADS if head != "linear"]


def test_both_sides_of_the_rank_chart_are_joined():
    both = [{"group": "general", **row} for variant in ("base", "supervised") for row in rank_rows(variant)]
    axes = changed(8, both).axes[0]
    assert sum(list(line.get_xdata()) == [0, 1] for line in axes.lines) == len(HEADS)


def test_labels_are_spread_apart_and_moved_no_more_than_needed():
    np.testing.assert_allclose(spread([1.0, 5.0, 9.0], 2.0), [1, 5, 9])
    np.testing.assert_allclose(spread([5.0, 5.0, 9.0], 2.0), [4, 6, 9])
    np.testing.assert_allclose(spread([5.1, 5.0], 2.0), [6.05, 4.05])


def test_every_family_has_a_colour_and_every_head_a_marker():
    assert set(FAMILIES.values()) == set(FAMILY_COLOURS)
    assert list(MARKERS) == list(ALL_HEADS) and len(set(MARKERS.values())) == len(ALL_HEADS)


# ---- files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", DRAW)
def test_a_table_survives_the_way_to_disk_and_back(number, tmp_path):
    path = tmp_path / "figure.csv"
    write_table(path, table(number), NOTE)
    back = read_table(path)
    assert back.attrs["note"] == NOTE
    pd.testing.assert_frame_equal(back, table(number), check_dtype=False, rtol=1e-5)
    first = path.read_bytes()
    write_table(path, back, back.attrs["note"])
    assert path.read_bytes() == first


def test_numbers_are_rounded_and_the_note_is_one_line(tmp_path):
    path = tmp_path / "figure.csv"
    write_table(path, pd.DataFrame({"name": ["NA"], "value": [np.pi], "zero": [-0.0], "gap": [np.nan]}), "one\n two")
    assert path.read_text() == "# one two\nname,value,zero,gap\nNA,3.14159,0,\n"
    assert read_table(path)["name"].tolist() == ["NA"]  # a class may have that name


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "There is no figure table"),
        (b"", "does not start with"),
        (b"head,mean\nlinear,1\n", "does not start with"),
        (b"# note\n", "is not a figure table"),
        (b"# note\nhead,mean\n", "has no rows"),
        (b"# note\nhead,mean\nlinear,1,2,3\nmlp,1,2,3,4,5\n", "is not a figure table"),
        (b"# note\n\xff\xfe\n", "is not a figure table"),
    ],
)
def test_a_file_that_is_no_table_is_one_clear_sentence(content, complaint, tmp_path):
    path = tmp_path / "figure.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=complaint):
        read_table(path)


def test_a_full_disk_leaves_neither_file(tmp_path, monkeypatch):
    drawn = figure(6)
    save = type(drawn).savefig

    def full(self, path, **options):
        save(self, path, **options)
        if options["format"] == "pdf":
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(drawn), "savefig", full)
    with pytest.raises(InputError, match="disk is full"):
        save_figure(drawn, tmp_path / "figure_6")
    assert list(tmp_path.iterdir()) == []
