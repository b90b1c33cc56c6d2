"""Your own encoder: every sentence of the check has an encoder that is broken in just that way; the rest of the way."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from lib import store
from lib.audio import log_mel
from lib.data.mixer import Scene
from lib.encoders import ENCODERS, encoder_version, load_encoder
from lib.encoders.pocket import POCKET
from lib.encoders.vit import Encoding, patchify
from lib.errors import InputError
from lib.own_encoder import OWN, cache, register
from lib.own_encoder_check import check_encoder, problems_of
from lib.own_encoder_order import bursts, misplaced, ordinary, tones
from lib.own_encoder_words import SENTENCES
from lib.plots_own_encoder import cells_of, dataset_of, in_words, plot_maps, plot_scores, scores
from lib.profiles import load_profile
from lib.results import read_cell, run_cells
from lib.store import load_embeddings
from lib.tables import pca_colours
from lib.token_statistics import encode

SECONDS = 2.0
GRID, DIM = (6, 4), 16


class Good(nn.Module):
    """Nothing is wrong with this one: patches of a log-mel spectrogram through one random matrix."""

    grid, front_end = GRID, ("good", 32)

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(16 * 8, DIM)
        nn.init.xavier_uniform_(self.mix.weight, generator=torch.Generator().manual_seed(0))
        nn.init.zeros_(self.mix.bias)
        self.eval().requires_grad_(False)

    def spectrogram(self, waveform, sample_rate):
        if sample_rate != 16_000:
            raise ValueError("16 kHz, please")
        return self.normalised(self.mel(waveform))

    def mel(self, waveform):
        return log_mel(np.atleast_2d(waveform)[:, :32_000], num_mels=32)  # (B, 99, 32)

    def normalised(self, x):
        return (x + 5) / 3

    def tokens(self, spectrogram):
        return self.mix(patchify(spectrogram.float(), (16, 8)))

    def cls(self, tokens):
        return tokens.amax(1)

    def forward(self, spectrogram, attention=False, layers=()):
        tokens = self.tokens(spectrogram)
        return Encoding(tokens, self.cls(tokens), self.grid)


def broken(**members):
    """Return a `Good` encoder with some members of its class replaced."""
    return type("Broken", (Good,), members)()


def refused(self, *_):
    raise RuntimeError("no way")


def as_map(tokens):
    """(B, N, D) → (B, S_t, S_f, D)."""
    return tokens.unflatten(1, GRID)


def changed(change):
    """Return a `Good` encoder whose tokens are changed by a function."""
    return broken(tokens=lambda self, spectrogram: change(Good.tokens(self, spectrogram)))


def answering(change):
    """Return a `Good` encoder whose encoding is changed by a function."""

    def forward(self, spectrogram, attention=False, layers=()):
        return change(Good.forward(self, spectrogram))

    return broken(forward=forward)


def with_parts(**parts):
    """Return an encoder whose encoding has some of its parts changed by functions."""

    def change(encoding):
        for name, function in parts.items():
            setattr(encoding, name, function(getattr(encoding, name)))
        return encoding

    return answering(change)


def without(name):
    encoder = Good()
    encoder.__class__ = type("Broken", (nn.Module,), {k: v for k, v in vars(Good).items() if k != name})
    return encoder


def half_weights():
    encoder = broken(tokens=lambda self, x: patchify(x, (16, 8)) @ self.mix.weight.float().T)
    encoder.mix.bfloat16()
    return encoder


def counting():
    encoder = broken(tokens=lambda self, x: Good.tokens(self, x) + 0 * self.calls.add_(1))
    encoder.register_buffer("calls", torch.zeros(1))
    return encoder


def halved(self, waveform):
    waveform *= 0.5
    return Good.mel(self, waveform)


def scaled(self, spectrogram):
    return Good.tokens(self, spectrogram.mul_(0.5))


def no_silence(self, spectrogram):
    if (spectrogram.std((1, 2)) == 0).any():
        refused(self)
    return Good.tokens(self, spectrogram)


def plain_forward(self, spectrogram):
    return Good.forward(self, spectrogram)


def squeezed(self, spectrogram, **_):
    encoding = Good.forward(self, spectrogram)
    encoding.tokens = encoding.tokens.squeeze()
    return encoding


def frequency_major(tokens):
    return as_map(tokens).transpose(1, 2).flatten(1, 2)  # (B, S_f, S_t, D) → (B, N, D)


FIXED = torch.randn(6 * 4, DIM, generator=torch.Generator().manual_seed(5))
BROKEN = [  # key, encoder, what its sentence says
    ("no module", lambda: Good().spectrogram, "of type method and no torch.nn.Module"),
    ("member", lambda: without("grid"), "no `grid`;"),
    ("member", lambda: without("front_end"), "no `front_end`;"),
    ("member", lambda: without("spectrogram"), "no `spectrogram`;"),
    ("grid", lambda: broken(grid=24), "`grid` is 24;"),
    ("grid", lambda: broken(grid=(6.0, 4)), r"is \(6.0, 4\);"),
    ("grid", lambda: broken(grid=(0, 4)), r"is \(0, 4\);"),
    ("front end key", lambda: broken(front_end=["log-mel", 64]), r"\['log-mel', 64\], which cannot be compared"),
    ("front end key", lambda: broken(front_end=object()), "is another in every process"),
    ("weights", half_weights, r"'mix.weight' is torch.bfloat16 on cpu, .* encoder.float\(\).cpu\(\)"),
    ("gradients", lambda: Good().requires_grad_(True), "2 parameter tensors still take gradients"),
    ("spectrogram fails", lambda: broken(mel=refused), r"\(3, 32000\) float32 samples .*\(RuntimeError: no way\)"),
    ("spectrogram type", lambda: broken(normalised=lambda self, x: x.numpy()), "type ndarray"),
    ("spectrogram clips", lambda: broken(normalised=lambda self, x: x[0]), r"shape \(99, 32\) for 3 clips"),
    ("spectrogram alone", lambda: broken(normalised=lambda self, x: x.squeeze()), r"\(99, 32\) instead of \(1, 99, 32"),
    ("spectrogram dtype", lambda: broken(normalised=lambda self, x: x.double()), "returns torch.float64"),
    ("spectrogram values", lambda: broken(normalised=lambda self, x: x.log()), "put a floor under the power"),
    ("waveform changed", lambda: broken(mel=halved), "work on a copy"),
    ("rate", lambda: broken(spectrogram=lambda self, x, rate: Good.spectrogram(self, x, 16_000)), "8000 Hz for"),
    ("spectrogram random", lambda: broken(normalised=lambda self, x: x + 0.1 * torch.randn_like(x)), "dither"),
    ("spectrogram batch", lambda: broken(normalised=lambda self, x: (x - x.mean()) / x.std()), "with constants"),
    ("shared front end", lambda: broken(front_end=POCKET.front_end), "is that of 'pocket-amae', but"),
    ("call fails", lambda: broken(tokens=refused), r"shape \(3, 99, 32\) \(RuntimeError: no way\)"),
    ("no encoding", lambda: answering(lambda e: e.tokens), "type Tensor without `tokens`, `cls`, `grid`"),
    ("tokens type", lambda: with_parts(tokens=lambda x: x.long()), "is of type torch.int64"),
    ("tokens type", lambda: with_parts(tokens=lambda x: x.numpy()), "is of type ndarray"),
    ("tokens rank", lambda: with_parts(tokens=lambda x: as_map(x).permute(0, 3, 1, 2)), r"\(3, 16, 6, 4\); it must be"),
    ("tokens clips", lambda: with_parts(tokens=lambda x: x[:1]), r"\(1, 24, 16\) for 3 clips"),
    ("tokens transposed", lambda: with_parts(tokens=lambda x: x.transpose(1, 2)), r"\(3, 16, 24\), which is"),
    ("cls among tokens", lambda: with_parts(tokens=lambda x: torch.cat([x[:, :1], x], 1)), "25 tokens, one more .* 24"),
    ("tokens count", lambda: with_parts(tokens=lambda x: x[:, :20]), "20 tokens, but a grid of 6 x 4 has 24 places"),
    ("encoding grid", lambda: with_parts(grid=lambda g: (4, 6)), r"is \(4, 6\) and .* is \(6, 4\)"),
    ("cls shape", lambda: with_parts(cls=lambda x: x[:, None]), r"\(3, 1, 16\); it must be \(B, D\) = \(3, 16\)"),
    ("cls is a token", lambda: broken(cls=lambda self, tokens: tokens[:, 0]), "take it out of the tokens"),
    ("options", lambda: broken(forward=plain_forward), r"\(TypeError: .*'attention'\)"),
    (
        "attention",
        lambda: with_parts(attention=lambda _: torch.ones(3, 24)),
        r"\(3, 24\); .* = \(3, depth, heads, 24\)",
    ),
    ("values", lambda: with_parts(tokens=lambda x: x / 0), "tokens holds NaN"),
    ("values", lambda: with_parts(cls=lambda x: x - x.sum() / 0), "cls holds NaN"),
    ("too large", lambda: changed(lambda x: 1e5 * x), r"tokens reach \d\.\d\de\+05"),
    ("lost", lambda: changed(lambda x: x + 3e4), r"tokens would be wrong by \d+\.\d%"),
    ("lost", lambda: changed(lambda x: 1e-7 * x), "tiny or far from zero"),
    ("silence fails", lambda: broken(tokens=no_silence), r"\(RuntimeError: no way\)"),
    ("silence values", lambda: broken(normalised=lambda self, x: x / x.std((1, 2), keepdim=True)), "floor under the"),
    ("random", lambda: changed(lambda x: nn.functional.dropout(x, 0.1)), "although the module is in evaluation mode"),
    ("changes itself", counting, "own 'calls'; keep nothing between calls"),
    ("spectrogram changed", lambda: broken(tokens=scaled), "avoid operations in place"),
    ("alone", lambda: broken(forward=squeezed), r"\(24, 16\) instead of \(1, 24, 16\)"),
    ("batch", lambda: changed(lambda x: x - x.mean(0)), "normalise over a clip, never over a batch"),
    ("same clips", lambda: with_parts(tokens=lambda x: FIXED.expand_as(x)), "the same tokens, so"),
    ("same clips", lambda: with_parts(cls=lambda x: torch.ones_like(x)), "the same cls, so"),
    ("same places", lambda: with_parts(tokens=lambda x: x.mean(1, keepdim=True).expand_as(x)), "before it is pooled"),
    ("hears a part", lambda: broken(mel=lambda self, x: Good.mel(self, np.tile(x[:, :4000], 8))), r"over 2 s the enc"),
    ("frequency-major", lambda: changed(frequency_major), r"row by row of frequency \(n = f·S_t \+ t\)"),
    ("grid swapped", lambda: broken(grid=(4, 6)), r"make it \(S_t, S_f\) = \(6, 4\)"),
    ("both swapped", lambda: both_swapped(), r"transpose the map .* = \(6, 4\)"),
    ("time", lambda: changed(lambda x: as_map(x).mean(1, keepdim=True).expand_as(as_map(x)).flatten(1, 2)), "along t;"),
    ("time backwards", lambda: changed(lambda x: as_map(x).flip(1).flatten(1, 2)), "flip the time axis"),
    (
        "frequency",
        lambda: changed(lambda x: as_map(x).mean(2, keepdim=True).expand_as(as_map(x)).flatten(1, 2)),
        "g f;",
    ),
    ("frequency downwards", lambda: changed(lambda x: as_map(x).flip(2).flatten(1, 2)), "flip the frequency axis"),
]


def both_swapped():
    encoder = changed(frequency_major)
    type(encoder).grid = (4, 6)
    return encoder


@pytest.fixture(autouse=True)
def own_names():
    """Leave no name behind."""
    yield
    for name in list(OWN):
        del OWN[name], ENCODERS[name]


# ---- the check -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "make", "says"), BROKEN, ids=[f"{i} {row[0]}" for i, row in enumerate(BROKEN)])
def test_a_broken_encoder_is_told_in_one_sentence_what_is_wrong_with_it_and_nothing_else(key, make, says):
    found = problems_of(make(), SECONDS)
    assert list(found) == [key]
    assert re.search(says, found[key]), found[key]
    assert found[key].endswith(".") and "{" not in found[key]


def test_every_sentence_of_the_check_has_its_broken_encoder():
    assert {key for key, _, _ in BROKEN} == set(SENTENCES)


def test_nothing_is_said_of_an_encoder_with_which_nothing_is_wrong():
    assert check_encoder(Good(), SECONDS) == []
    assert check_encoder(broken(cls=lambda self, tokens: None), SECONDS) == []
    assert check_encoder(broken(grid=[6, 4]), SECONDS) == []


@pytest.mark.parametrize("name", ["pocket-eat", "pocket-beats", "pocket-dasheng", "random-vit", "log-mel"])
def test_nothing_is_said_of_the_encoders_of_the_package(name):
    assert check_encoder(load_encoder(name)) == []


def test_in_training_mode_the_sentences_say_so():
    def bent(self, x):
        return nn.functional.dropout(Good.tokens(self, x), 0.1, self.training)

    def normed(self, x):
        return self.norm(Good.tokens(self, x).transpose(1, 2)).transpose(1, 2)

    (sentence,) = check_encoder(broken(tokens=bent).train(), SECONDS)
    assert sentence == "Two passes of one clip differ; it is in training mode, so call encoder.eval()."
    encoder = broken(tokens=normed)
    encoder.norm = nn.BatchNorm1d(DIM).requires_grad_(False)
    found = problems_of(encoder, SECONDS)
    assert set(found) == {"changes itself", "batch"}
    assert all("training mode" in sentence for sentence in problems_of(encoder.train(), SECONDS).values())
    assert check_encoder(encoder.eval(), SECONDS) == []


def test_two_mistakes_are_two_sentences():
    encoder = broken(normalised=lambda self, x: (x - x.mean()) / x.std(), tokens=lambda self, x: flipped(self, x))
    assert set(problems_of(encoder, SECONDS)) == {"spectrogram batch", "time backwards"}


def flipped(self, spectrogram):
    return as_map(Good.tokens(self, spectrogram)).flip(1).flatten(1, 2)


def test_the_check_changes_nothing_about_the_encoder_or_the_state_of_the_random_generator():
    encoder, before = Good(), torch.random.get_rng_state()
    weights = {name: value.clone() for name, value in encoder.state_dict().items()}
    check_encoder(encoder, SECONDS)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(value, weights[name]) for name, value in encoder.state_dict().items())


# ---- the order -------------------------------------------------------------------------------------------------------


def energies(grid, order=lambda x: x):
    """Return what gives the log energy of each cell of a grid, in two channels."""

    def tokens_of(clips):
        x = log_mel(clips, num_mels=32)  # (B, frames, 32)
        cells = nn.functional.adaptive_avg_pool2d(x, grid)  # (B, S_t, S_f)
        return order(torch.stack([cells, -cells], -1).flatten(1, 2))  # (B, N, 2)

    return tokens_of


@pytest.mark.parametrize("grid", [(12, 4), (4, 12), (2, 2), (5, 5), (30, 1), (1, 8)])
def test_tokens_in_the_order_of_their_grid_are_not_blamed(grid):
    assert misplaced(energies(grid), grid, SECONDS) == []


@pytest.mark.parametrize("grid", [(12, 4), (4, 12), (5, 5), (30, 1), (1, 8)])
def test_tokens_in_a_random_order_are_blamed(grid):
    places = torch.randperm(grid[0] * grid[1], generator=torch.Generator().manual_seed(3))
    assert misplaced(energies(grid, lambda x: x[:, places]), grid, SECONDS)


@pytest.mark.parametrize("grid", [(30, 1), (1, 8)])
def test_a_grid_with_one_axis_that_is_swapped_is_told_apart_from_a_right_one(grid):
    assert misplaced(energies(grid), grid[::-1], SECONDS) == ["grid swapped"]


def test_an_encoder_that_hears_the_first_half_of_a_clip_is_not_blamed():
    tokens_of = energies((12, 4))
    assert misplaced(lambda clips: tokens_of(clips[:, : clips.shape[1] // 2]), (12, 4), SECONDS) == []


def test_the_made_sounds_move_in_time_and_in_pitch_and_stay_below_full_scale():
    late = np.abs(bursts(SECONDS)).argmax(1)
    assert (np.diff(late) > 0.3 * 16_000).all()
    pitch = np.abs(np.fft.rfft(tones(SECONDS))).argmax(1)
    assert (np.diff(pitch) > 0).all()
    assert np.abs(ordinary(SECONDS)).max() < 1 and ordinary(SECONDS).dtype == bursts(SECONDS).dtype == np.float32


# ---- a name, and the way through the pipeline ------------------------------------------------------------------------


@pytest.fixture
def cheap_clips(monkeypatch):
    """Replace clips by noise: rendering them takes longer than all the rest."""
    monkeypatch.setattr(store, "usable_audio", lambda data, split, i, view: noise(i + 100 * len(split)))


def noise(seed):
    return (0.1 * np.random.default_rng(seed).standard_normal(32_000)).astype(np.float32)


def registered(encoder, name="mine", **facts):
    return register(name, encoder, seconds=SECONDS, **facts)


def version(name="mine"):
    return encoder_version(name, load_encoder(name))


def test_a_registered_encoder_is_loaded_by_its_name_and_the_mean_token_stands_for_a_missing_cls():
    registered(Good(), "with-cls", label="With cls", kind="control")
    registered(broken(front_end=("other",), cls=lambda self, tokens: None), "without-cls")
    assert (ENCODERS["with-cls"].label, ENCODERS["with-cls"].kind, ENCODERS["with-cls"].cls) == (
        "With cls",
        "control",
        "native",
    )
    assert (ENCODERS["without-cls"].label, ENCODERS["without-cls"].cls) == ("without-cls", "mean")
    clips = ordinary(SECONDS)
    for name, kept in (("with-cls", lambda x: x.amax(1)), ("without-cls", lambda x: x.mean(1))):
        encoder = load_encoder(name)
        encoding = encoder(encoder.spectrogram(clips, 16_000))
        assert encoding.grid == encoder.grid == GRID and encoder.geometry.dim == DIM
        torch.testing.assert_close(encoding.tokens, Good()(Good().spectrogram(clips, 16_000)).tokens)
        torch.testing.assert_close(encoding.cls, kept(encoding.tokens))


def test_attention_and_layers_pass_through_where_they_are_asked_for():
    def forward(self, spectrogram, attention=False, layers=()):
        encoding = Good.forward(self, spectrogram)
        encoding.attention = torch.ones(len(spectrogram), 1, 1, 24) if attention else None
        encoding.layers = {number: (encoding.tokens, encoding.cls) for number in layers} or None
        return encoding

    encoder = registered(broken(forward=forward))
    spectrogram = encoder.spectrogram(ordinary(SECONDS))
    assert encoder(spectrogram).attention is None and encoder(spectrogram).layers is None
    assert encoder(spectrogram, attention=True).attention.shape == (3, 1, 1, 24)
    assert list(encoder(spectrogram, layers=(0, 2)).layers) == [0, 2]


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"name": "My Model"}, "'My Model' cannot name files; use lower-case"),
        ({"name": "a--b"}, "cannot name files"),
        ({"name": "../mine"}, "cannot name files"),
        ({"name": "pocket-eat"}, "'pocket-eat' is the name of an encoder of the package"),
        ({"kind": "bases"}, "Unknown kind of encoder 'bases'.*Did you mean 'base'"),
    ],
)
def test_what_cannot_be_a_name_or_a_kind_is_refused(facts, message):
    known = dict(ENCODERS)
    with pytest.raises(InputError, match=message):
        registered(Good(), **facts)
    assert known == ENCODERS


def test_a_broken_encoder_is_not_registered_and_the_first_sentence_says_why():
    encoder = broken(tokens=flipped).requires_grad_(True)
    with pytest.raises(
        InputError, match=r"'mine' cannot be registered\. 2 parameter .*\(1 more: `check_encoder` lists"
    ):
        registered(encoder)
    assert "mine" not in ENCODERS and not OWN


def test_one_front_end_key_for_two_different_spectrograms_is_refused_unless_it_is_a_new_version_of_itself():
    registered(Good(), "first")
    other = broken(normalised=lambda self, x: x / 3)
    with pytest.raises(InputError, match="`front_end` is that of 'first', but the spectrogram is another"):
        registered(other, "second")
    registered(Good(), "second")
    del OWN["second"], ENCODERS["second"]
    registered(other, "first")
    assert load_encoder("first").encoder is other


def test_the_version_is_the_same_for_the_same_encoder_and_another_for_other_weights_code_or_constants():
    registered(Good())
    first = version()
    registered(Good())
    assert version() == first

    with torch.no_grad():
        load_encoder("mine").encoder.mix.weight[0, 0] += 1e-3
    assert {key for key in first if version()[key] != first[key]} == {"weights"}

    registered(broken(__qualname__="Good", cls=lambda self, tokens: tokens.max(1).values))  # the same, said otherwise
    assert load_encoder("mine").geometry.heard == registered(Good()).geometry.heard
    codes = {registered(broken(__qualname__="Good", cls=cls)).geometry.code for cls in (one_way, other_way)}
    assert len(codes) == 2

    class Scaled(Good):
        scale = 1.0

        def cls(self, tokens):
            return self.scale * tokens.amax(1)

    scaled = registered(Scaled()).geometry
    Scaled.scale = 1.5
    again = registered(Scaled()).geometry
    assert again.code == scaled.code and again.heard != scaled.heard


def one_way(self, tokens):
    return tokens.amax(1)


def other_way(self, tokens):
    # a comment is no code
    return tokens.amax(dim=1)


def test_embeddings_are_cached_once_and_again_when_the_weights_are_others(cheap_clips):
    registered(Good())
    (line,) = cache("mine", "soundscapes", {"val": 3})
    assert line == "mine / soundscapes / val: not there yet"
    assert cache("mine", "soundscapes", {"val": 3}) == []
    data = load_embeddings("mine", "soundscapes", "val", 3)
    fresh = torch.cat([Good()(Good().spectrogram(noise(i + 300), 16_000)).tokens for i in range(3)])
    torch.testing.assert_close(data.tokens.float(), fresh, atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(data.cls, fresh.amax(1), atol=2e-3, rtol=2e-3)
    assert data.grid == GRID

    with torch.no_grad():
        load_encoder("mine").encoder.mix.bias += 1.0
    (line,) = cache("mine", "soundscapes", {"val": 3})
    assert line == "mine / soundscapes / val: rebuilt because weights changed"
    shifted = load_embeddings("mine", "soundscapes", "val", 3)
    torch.testing.assert_close(shifted.tokens.float(), fresh + 1, atol=4e-3, rtol=2e-3)


def test_a_front_end_that_is_shared_is_computed_once_for_all(cheap_clips, monkeypatch):
    registered(Good(), "first")
    registered(broken(tokens=lambda self, x: 2 * Good.tokens(self, x)), "second")
    calls = []
    monkeypatch.setattr(Good, "mel", lambda self, x: calls.append(len(x)) or log_mel(np.atleast_2d(x), num_mels=32))
    store.build_store(["first", "second"], "soundscapes", {"val": 3}, workers=1)
    assert calls == [3]
    tokens = [load_embeddings(name, "soundscapes", "val", 3).tokens.float() for name in ("first", "second")]
    torch.testing.assert_close(2 * tokens[0], tokens[1], atol=4e-3, rtol=2e-3)


def test_only_an_own_encoder_is_cached_here():
    with pytest.raises(InputError, match="Unknown own encoder 'mine'"):
        cache("mine", "soundscapes", {"val": 3})


def test_heads_are_trained_and_drawn_on_an_own_encoder_like_on_any_other(cheap_clips, monkeypatch):
    registered(Good(), label="My own")
    registered(broken(front_end=("none",), cls=lambda self, tokens: None), "no-cls")
    profile, names = load_profile("smoke"), ("mine", "no-cls")
    cells = [cell for name in names for cell in cells_of(name, dataset_of(profile)).values()]
    for name in names:
        cache(name, "soundscapes", profile.clips)
    with monkeypatch.context() as patch:
        patch.setattr(store, "_build_shard", None)  # would fail if it were called: other processes could not
        assert len(run_cells("smoke", cells, show=False)) == 7  # the two linear heads without a cls are one
    assert run_cells("smoke", cells, show=False) == []

    table = scores("smoke", names)
    rows = table.set_index(["encoder", "head"])
    for name in names:
        for head, cell in cells_of(name, "soundscapes").items():
            final = [row["value"] for row in read_cell(profile, cell).rows if row["split"] == "test"]
            assert rows.loc[(name, head), "mean"] == pytest.approx(np.mean(final))
    assert (table.loc[table["head"] == "linear", "ahead"] == 0).all()
    assert (table.loc[table["encoder"] == "mine", "first"] == 0).all()
    above = rows.loc["mine", "mean"] - rows.loc["no-cls", "mean"]
    np.testing.assert_allclose(rows.loc["no-cls", "first"], above, atol=1e-4)
    labels = [axes.get_title(loc="left") for axes in plot_scores(table).axes]
    assert labels == ["My own", "no-cls"]

    with torch.no_grad():
        load_encoder("mine").encoder.mix.bias += 1.0
    assert len(run_cells("smoke", cells, show=False)) == 4


def test_the_sentences_of_the_notebook_follow_the_intervals():
    columns = ["mean", "ahead", "ahead_low", "ahead_high", "first", "first_low", "first_high"]
    found = {
        ("a", "linear"): (40.0, 0, 0, 0, 0, 0, 0),
        ("a", "protobin"): (50.0, 10.0, 4.0, 15.0, 0, 0, 0),
        ("b", "linear"): (45.0, 0, 0, 0, -5.0, -9.0, -1.0),
        ("b", "protobin"): (44.0, -1.0, -3.0, 2.0, 6.0, 2.0, 9.0),
    }
    table = pd.DataFrame([(*key, key[0].upper(), *row) for key, row in found.items()])
    table.columns = ["encoder", "head", "label", *columns]
    table.attrs["metric"] = "mAP"
    assert in_words(table) == [
        "A: test mAP 40.0 % with linear and 50.0 % with protobin, +10.0 points [+4.0, +15.0]: protobin is ahead.",
        "B: test mAP 45.0 % with linear and 44.0 % with protobin, −1.0 points [−3.0, +2.0]: it cannot be told.",
        "A against B: −5.0 points [−9.0, −1.0] with linear (behind) and +6.0 points [+2.0, +9.0] with protobin "
        "(ahead).",
    ]


def test_one_clip_is_drawn_as_each_encoder_hands_it_over():
    registered(Good(), label="My own")
    clips = np.concatenate([ordinary(SECONDS), bursts(SECONDS)])
    encoding, others = encode("mine", clips[:1]), encode("mine", clips[1:])
    scene = Scene(clips[0], ())
    (axes,) = plot_maps(scene, {"mine": encoding}, {"mine": others}).axes
    drawn = axes.images[0].get_array()  # (S_f, S_t, 3)
    assert drawn.shape == (4, 6, 3) and axes.get_title(loc="left") == "My own"
    expected = pca_colours(encoding.tokens[0], others.tokens).T.reshape(6, 4, 3)  # (N, 3) → (S_t, S_f, 3)
    np.testing.assert_allclose(drawn[1, 2], expected[2, 1])
