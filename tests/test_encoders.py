"""The ViT, the pocket encoder with its shipped weights, the controls, and pretraining."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lib.encoders import ENCODERS, load_encoder, pocket, pretrain
from lib.encoders.objectives import MaskedAutoencoder, normalised_patches
from lib.encoders.pocket import POCKET, load_pocket, new_vit
from lib.encoders.vit import patchify, sincos_positions
from lib.errors import InputError


def noise(clips=2, samples=160_000, seed=0):
    return 0.1 * torch.randn(clips, samples, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", list(ENCODERS))
def test_every_encoder_hands_over_tokens_cls_and_grid(name):
    encoder = load_encoder(name)
    with torch.inference_mode():
        encoding = encoder(encoder.spectrogram(noise()))
    assert encoding.grid == (31, 8)
    assert encoding.tokens.shape == (2, 248, 128) and encoding.cls.shape == (2, 128)
    assert torch.isfinite(encoding.tokens).all() and encoding.tokens.std() > 0.1
    assert not any(p.requires_grad for p in encoder.parameters())


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


@pytest.fixture
def copied_weights(tmp_path, monkeypatch):
    folder = tmp_path / "weights"
    shutil.copytree(pocket.WEIGHTS, folder)
    monkeypatch.setattr(pocket, "WEIGHTS", folder)
    return folder / "pocket-amae.safetensors"


def test_a_single_changed_byte_in_the_weights_is_noticed(copied_weights):
    content = bytearray(copied_weights.read_bytes())
    content[-100] ^= 1
    copied_weights.write_bytes(content)
    with pytest.raises(InputError, match=r"pocket-amae\.safetensors' is damaged.*restore the file"):
        load_pocket("pocket-amae")


def test_missing_weights_are_one_clear_sentence(copied_weights):
    copied_weights.unlink()
    with pytest.raises(InputError, match="weights of 'pocket-amae' are missing"):
        load_pocket("pocket-amae")


def test_shipped_weights_are_small_and_in_half_precision():
    path = pocket.WEIGHTS / "pocket-amae.safetensors"
    assert path.stat().st_size < 4 * 2**20
    assert {tensor.dtype for tensor in load_file(path).values()} == {torch.float16}


def test_the_reconstruction_target_is_each_patch_normalised():
    patches = normalised_patches(torch.randn(2, 499, 64, generator=torch.Generator().manual_seed(1)), (16, 8))
    torch.testing.assert_close(patches.mean(-1), torch.zeros(2, 248), atol=1e-5, rtol=0)
    torch.testing.assert_close(patches.var(-1), torch.ones(2, 248), atol=1e-3, rtol=0)


def test_the_masked_autoencoder_hides_four_fifths_and_sees_no_hidden_patch():
    generator = torch.Generator().manual_seed(0)
    objective = MaskedAutoencoder(new_vit(generator), generator)
    spectrogram = torch.randn(1, 499, 64, generator=generator)
    inputs = []
    objective.vit.blocks[0].register_forward_pre_hook(lambda _module, arguments: inputs.append(arguments[0]))

    def seen_by_the_encoder(x):
        objective(x, torch.Generator().manual_seed(1))  # the same mask each time
        return inputs[-1]

    leaf = spectrogram.clone().requires_grad_()
    seen = seen_by_the_encoder(leaf)
    (gradient,) = torch.autograd.grad(seen.sum(), leaf)
    visible = patchify(gradient, (16, 8)).abs().sum(-1)[0] > 0  # (N,)
    assert visible.sum() == 50 and seen.shape == (1, 1 + 50, 128)

    frames = visible.reshape(31, 8).repeat_interleave(16, 0).repeat_interleave(8, 1)  # (496, mel)
    frames = torch.nn.functional.pad(frames, (0, 0, 0, 3))  # (499, mel); the spare frames are in no patch
    with torch.no_grad():
        assert torch.equal(seen_by_the_encoder(spectrogram + 1.0 * ~frames), seen)
        changed = (seen_by_the_encoder(spectrogram + 1.0 * frames) != seen).any(-1)[0]  # (1 + V,)
    assert changed[1:].all() and not changed[0]


def small_pool():
    return torch.randn(12, 499, 64, generator=torch.Generator().manual_seed(3)).half()


def settings(steps):
    return pretrain.Pretraining(clips=12, steps=steps, batch_size=4, warmup=2)


def test_a_stopped_pretraining_resumes_to_the_same_weights(monkeypatch, tmp_path):
    shipped = []
    monkeypatch.setattr(pretrain, "ship", lambda *arguments: shipped.append(arguments))
    unbroken = pretrain.pretrain(settings(6), small_pool(), minutes_between_checkpoints=99)

    monkeypatch.setenv("UNMUTE_CACHE", str(tmp_path / "other"))
    saves = []
    real_save = pretrain._save

    def save_then_die(*arguments):
        real_save(*arguments)
        saves.append(arguments)
        if len(saves) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(pretrain, "_save", save_then_die)
    with pytest.raises(KeyboardInterrupt):
        pretrain.pretrain(settings(6), small_pool(), minutes_between_checkpoints=0)
    resumed = pretrain.pretrain(settings(6), small_pool(), minutes_between_checkpoints=99)
    assert len(shipped) == 2
    for ours, theirs in zip(unbroken.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_normalisation_constants_fit_the_sounds():
    from lib.data.datasets import load_dataset

    data, encoder = load_dataset("soundscapes"), load_encoder("log-mel")
    spectrogram = encoder.spectrogram(np.stack([data.scene("train", i).audio for i in range(8)]))
    assert abs(spectrogram.mean()) < 0.4 and 0.7 < spectrogram.std() < 1.3
    assert POCKET.mel_std > 0
