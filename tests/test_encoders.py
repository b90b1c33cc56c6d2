"""The ViT, the registry, the pocket encoders with their shipped weights, and the controls."""

import hashlib
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lib import arms
from lib.encoders import ENCODERS, SHIPPED, encoder_version, load_encoder, pocket
from lib.encoders.pocket import FULL_BAND, GEOMETRIES, POCKET, WITHOUT_CLS, load_pocket, new_vit, save_encoder
from lib.encoders.vit import Encoding, patchify, sincos_positions
from lib.errors import InputError
from lib.files import digest, sha256
from lib.provenance import _collect, code_version

WITH_WEIGHTS = [name for name in GEOMETRIES if (pocket.WEIGHTS / f"{name}.safetensors").is_file()]
LOADABLE = [name for name in SHIPPED if name in WITH_WEIGHTS or name not in GEOMETRIES]


def noise(clips=2, samples=160_000, seed=0):
    return 0.1 * torch.randn(clips, samples, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", LOADABLE)
def test_every_encoder_hands_over_tokens_cls_and_grid(name):
    encoder = load_encoder(name)
    with torch.inference_mode():
        encoding = encoder(encoder.spectrogram(noise()))
    steps, rows = GEOMETRIES.get(name, POCKET).grid
    assert encoding.grid == encoder.grid == (steps, rows)
    assert encoding.tokens.shape == (2, steps * rows, 128) and encoding.cls.shape == (2, 128)
    assert torch.isfinite(encoding.tokens).all() and encoding.tokens.std() > 0.1
    assert not any(p.requires_grad for p in encoder.parameters())
    is_mean = torch.allclose(encoding.cls, encoding.tokens.mean(1), atol=1e-4)
    assert is_mean == (ENCODERS[name].cls == "mean")


def test_the_repository_has_six_base_encoders_three_supervised_ones_and_two_controls():
    entries = {name: ENCODERS[name] for name in SHIPPED}
    kinds = [entry.kind for entry in entries.values()]
    assert (kinds.count("base"), kinds.count("supervised"), kinds.count("control")) == (6, 3, 2)
    assert [name for name in ENCODERS if name in GEOMETRIES] == [n for n in ENCODERS if n.startswith("pocket-")]
    for name, entry in entries.items():
        if entry.kind == "supervised":
            assert name == f"{entry.base}-plus" and entry.label == ENCODERS[entry.base].label.replace(" (", "+ (")
            assert GEOMETRIES[name] == GEOMETRIES[entry.base] and entry.cls == ENCODERS[entry.base].cls
        else:
            assert entry.base == ""
    without_cls = {name for name, entry in entries.items() if entry.cls == "mean"}
    assert without_cls == {"pocket-beats", "pocket-beats-plus", "pocket-dasheng", "log-mel"}


@pytest.mark.parametrize("name", ["pocket-eat", "random-vit", "log-mel"])
def test_the_version_of_a_shipped_encoder_has_the_form_on_which_committed_results_depend(name):
    encoder = load_encoder(name)
    sums = {key: hashlib.sha256(value.numpy().tobytes()).hexdigest() for key, value in encoder.state_dict().items()}
    assert encoder_version(name, encoder) == {
        "encoder": name,
        "weights": digest(sums),
        "geometry": digest(repr(encoder.geometry)),
        "encoder_code": code_version("lib.audio", "lib.encoders.vit", "lib.encoders.pocket"),
        "torch": torch.__version__.split("+")[0],
    }


def test_no_committed_result_depends_on_the_published_encoders():
    """Else adding one, or mending one, would send every cell of the pocket to be computed again."""
    for features in arms.FEATURES.values():
        seen = {}
        _collect(features.__module__, features.__name__, seen)
        used = {module for module, _ in seen if module.startswith("lib.encoders")}
        assert used <= {"lib.encoders", "lib.encoders.pocket", "lib.encoders.vit"}, features


def test_each_entry_loads_its_own_weights(monkeypatch):
    from lib.encoders import pocket as module

    for name in GEOMETRIES:
        monkeypatch.setattr(module, "WEIGHTS", module.WEIGHTS / "nowhere")
        with pytest.raises(InputError, match=f"The weights of '{name}' are missing"):
            ENCODERS[name].load()


@pytest.mark.parametrize("geometry", [WITHOUT_CLS, FULL_BAND])
def test_an_encoder_without_cls_gives_the_mean_token_and_no_attention_map(geometry):
    vit = new_vit(torch.Generator().manual_seed(0), geometry)
    assert not any("cls" in key for key in vit.state_dict())
    encoding = vit(torch.randn(2, 499, 64), attention=True, layers=(2,))
    assert encoding.tokens.shape == (2, geometry.grid[0] * geometry.grid[1], 128) and encoding.attention is None
    torch.testing.assert_close(encoding.cls, encoding.tokens.mean(1))
    torch.testing.assert_close(encoding.layers[2][1], encoding.layers[2][0].mean(1))


def test_a_part_of_the_patches_is_encoded_as_by_the_whole_network():
    vit = new_vit(torch.Generator().manual_seed(0))
    spectrogram = torch.randn(2, 499, 64, generator=torch.Generator().manual_seed(1))
    tokens, cls = vit.encode(vit.embed_patches(spectrogram))
    encoding: Encoding = vit(spectrogram)
    assert torch.equal(tokens, encoding.tokens) and torch.equal(cls, encoding.cls)


def test_tokens_are_time_major():
    spectrogram = torch.zeros(1, 499, 64)
    spectrogram[0, 5 * 16 : 6 * 16, 3 * 8 : 4 * 8] = 1.0  # the patch at t = 5, f = 3
    assert patchify(spectrogram, (16, 8)).sum(-1).nonzero().tolist() == [[0, 5 * 8 + 3]]


def test_positions_tell_frequency_in_the_first_half_and_time_in_the_second():
    table = sincos_positions((31, 8), 128).reshape(31, 8, 128)
    assert torch.equal(table[0, 3, :64], table[9, 3, :64]) and torch.equal(table[4, 0, 64:], table[4, 7, 64:])
    assert len(table.reshape(-1, 128).unique(dim=0)) == 248


def test_attention_of_cls_is_given_for_each_layer_and_head_and_sums_to_less_than_one():
    encoder = load_encoder("pocket-amae")
    encoding = encoder(encoder.spectrogram(noise()), attention=True)
    assert encoding.attention.shape == (2, 6, 4, 248)
    total = encoding.attention.sum(-1)  # the rest goes to [cls] itself
    assert (total > 0).all() and (total < 1).all()


def test_other_layers_are_given_where_asked_for():
    encoder = load_encoder("pocket-amae")
    encoding = encoder(encoder.spectrogram(noise()), layers=(0, 5))
    assert set(encoding.layers) == {0, 5} and encoding.layers[0][0].shape == (2, 248, 128)
    torch.testing.assert_close(encoder.vit.norm(encoding.layers[5][0]), encoding.tokens)


def test_a_clip_is_encoded_alike_alone_and_in_a_batch():
    encoder = load_encoder("pocket-amae")
    spectrogram = encoder.spectrogram(noise(4))
    torch.testing.assert_close(encoder(spectrogram).tokens[2:3], encoder(spectrogram[2:3]).tokens, atol=1e-4, rtol=1e-4)


def test_a_short_clip_is_padded_with_silence_and_a_long_one_cropped():
    encoder = load_encoder("log-mel")
    short, long = encoder.spectrogram(noise(1, 40_000)), encoder.spectrogram(noise(1, 200_000))
    assert short.shape == long.shape == (1, 499, 64)
    silence = encoder.spectrogram(torch.zeros(160_000))
    torch.testing.assert_close(short[0, 200:], silence[0, 200:])


def test_building_another_encoder_first_changes_no_weight():
    first = load_encoder("random-vit").state_dict()
    torch.manual_seed(99), torch.rand(7), load_encoder("pocket-amae")
    again = load_encoder("random-vit").state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)


@pytest.mark.parametrize(
    ("waveform", "rate", "message"),
    [
        (np.zeros(16_000), 44_100, "listens at 16000 Hz, the waveform has 44100 Hz; resample"),
        (np.zeros((1, 2, 16_000)), 16_000, r"shape is \(1, 2, 16000\)"),
        (np.full(16_000, np.nan), 16_000, "NaN or infinite"),
        (np.zeros(0), 16_000, r"shape is \(0,\)"),
    ],
)
def test_an_unusable_waveform_is_one_clear_sentence(waveform, rate, message):
    with pytest.raises(InputError, match=message):
        load_encoder("log-mel").spectrogram(waveform, rate)


def test_a_wrong_spectrogram_says_what_was_expected():
    with pytest.raises(InputError, match="gives 80 patches, the encoder expects 31 x 8"):
        load_encoder("pocket-amae")(torch.zeros(1, 160, 64))
    with pytest.raises(InputError, match=r"\(B, frames, mel\) is expected"):
        load_encoder("pocket-amae")(torch.zeros(499, 64))


def test_an_unknown_encoder_names_the_known_ones():
    with pytest.raises(InputError, match="Unknown encoder 'pocket-mae'.*Did you mean 'pocket-amae'"):
        load_encoder("pocket-mae")
    with pytest.raises(InputError, match="Unknown pocket encoder 'random-vit'"):
        load_pocket("random-vit")


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Copies of the weights and the manifests of the encoders, to be damaged."""
    weights, manifests = tmp_path / "weights", tmp_path / "manifests"
    shutil.copytree(pocket.WEIGHTS, weights)
    shutil.copytree(pocket.MANIFESTS / "encoders", manifests / "encoders")
    monkeypatch.setattr(pocket, "WEIGHTS", weights)
    monkeypatch.setattr(pocket, "MANIFESTS", manifests)
    return weights, manifests / "encoders"


def test_a_single_changed_byte_in_the_weights_is_noticed(folders):
    path = folders[0] / "pocket-amae.safetensors"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"pocket-amae\.safetensors' is damaged.*restore the file"):
        load_pocket("pocket-amae")


@pytest.mark.parametrize(("which", "suffix"), [(0, "safetensors"), (1, "json")])
def test_missing_weights_or_a_missing_manifest_are_one_clear_sentence(folders, which, suffix):
    (folders[which] / f"pocket-amae.{suffix}").unlink()
    with pytest.raises(InputError, match=rf"weights of 'pocket-amae' are missing \('pocket-amae\.{suffix}'\)"):
        load_pocket("pocket-amae")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"geometry": {"colour": 3}, "sha256": ""}'])
def test_a_damaged_manifest_is_one_clear_sentence(folders, text):
    (folders[1] / "pocket-amae.json").write_text(text)
    with pytest.raises(InputError, match=r"manifest 'pocket-amae\.json' is damaged"):
        load_pocket("pocket-amae")


def test_the_weights_of_another_encoder_are_refused(folders):
    weights, manifests = folders
    save_encoder("pocket-eat", new_vit(torch.Generator().manual_seed(4)), {})
    assert load_pocket("pocket-eat").grid == (31, 8)
    shutil.copy(weights / "pocket-amae.safetensors", weights / "pocket-eat.safetensors")
    with pytest.raises(InputError, match=r"pocket-eat\.safetensors' is damaged"):
        load_pocket("pocket-eat")
    shutil.copy(manifests / "pocket-amae.json", manifests / "pocket-eat.json")
    with pytest.raises(InputError, match=r"pocket-eat\.json' describes the encoder 'pocket-amae'"):
        load_pocket("pocket-eat")


def rewritten(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_manifest_with_another_geometry_is_refused(folders):
    path = folders[1] / "pocket-amae.json"
    rewritten(path, geometry=json.loads(path.read_text())["geometry"] | {"patch": [4, 64], "grid": [124, 1]})
    with pytest.raises(InputError, match=r"patches \(4, 64\) on a grid \(124, 1\), which is not 'pocket-amae'"):
        load_pocket("pocket-amae")


@pytest.mark.parametrize("change", ["one tensor less", "one tensor more", "another shape", "no safetensors"])
def test_weights_that_do_not_fit_are_refused_even_when_the_checksum_is_right(folders, change):
    path = folders[0] / "pocket-amae.safetensors"
    tensors = load_file(path)
    if change == "one tensor less":
        del tensors["norm.bias"]
    elif change == "one tensor more":
        tensors["spare"] = torch.zeros(3)
    elif change == "another shape":
        tensors["norm.bias"] = torch.zeros(3)
    save_file(tensors, path)
    if change == "no safetensors":
        path.write_bytes(b"not weights")
    rewritten(folders[1] / "pocket-amae.json", sha256=sha256(path))
    with pytest.raises(InputError, match=r"pocket-amae\.safetensors' does not fit the pocket network"):
        load_pocket("pocket-amae")


def test_saved_weights_come_back_in_the_geometry_of_their_encoder(folders):
    vit = new_vit(torch.Generator().manual_seed(4), FULL_BAND)
    save_encoder("pocket-dasheng", vit, {"steps": 3})
    loaded = load_pocket("pocket-dasheng")
    assert loaded.grid == (124, 1) and loaded.geometry == FULL_BAND
    for key, value in vit.state_dict().items():
        torch.testing.assert_close(loaded.vit.state_dict()[key], value, atol=1e-3, rtol=1e-3)
    manifest = json.loads((folders[1] / "pocket-dasheng.json").read_text())
    assert manifest["steps"] == 3 and manifest["sha256"] == sha256(folders[0] / "pocket-dasheng.safetensors")


def test_shipped_weights_are_small_and_in_half_precision():
    paths = [pocket.WEIGHTS / f"{name}.safetensors" for name in WITH_WEIGHTS]
    assert all(path.stat().st_size < 4 * 2**20 for path in paths) and len(paths) > 0
    assert sum(path.stat().st_size for path in paths) < 36 * 2**20
    assert {tensor.dtype for path in paths for tensor in load_file(path).values()} == {torch.float16}


def test_the_normalisation_constants_fit_the_sounds():
    from lib.data.datasets import load_dataset

    data, encoder = load_dataset("soundscapes"), load_encoder("log-mel")
    spectrogram = encoder.spectrogram(np.stack([data.scene("train", i).audio for i in range(8)]))
    assert abs(spectrogram.mean()) < 0.4 and 0.7 < spectrogram.std() < 1.3
    assert POCKET.mel_std > 0
