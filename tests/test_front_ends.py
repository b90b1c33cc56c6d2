"""The front ends of the real encoders: upstream's features, one clip at a time, padding, lengths, bad waveforms."""

import dataclasses

import numpy as np
import pytest
import torch
from reference_encoders import CONFIGS, fixture, random_weights

from lib.audio import log_mel
from lib.encoders import from_upstream
from lib.encoders.front_ends import DecibelMel, KaldiFilterBank, htk_mel_filters, kaldi_mel_filters
from lib.encoders.upstream import FAMILIES
from lib.errors import InputError

HANNING = KaldiFilterBank(128, mean=0.0, std=0.5)  # as it is: (x - 0) / 1
POVEY = dataclasses.replace(HANNING, window="povey", scale=2.0**15, remove_mean=False)
AMAE = KaldiFilterBank(128, -4.2677393, 4.5689974, 128)
BEATS = dataclasses.replace(POVEY, mean=15.41663, std=6.55582)
CLOSE = {"atol": 2e-5, "rtol": 1e-4}
SILENT_BIN = np.log(1.1920929e-7)  # -15.9424


def encoder_of(family, **options):
    config = CONFIGS[family]
    return from_upstream(family, random_weights(family, config), config, **options)


def noise(*shape, seed=0):
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("name", "front_end"),
    [
        ("fbank_hanning", HANNING),
        ("fbank_povey_x32768", POVEY),
        ("audiomae_norm_padded128", AMAE),
        ("eat_norm_padded128", KaldiFilterBank(128, -4.268, 4.569, 128)),
        ("beats_norm", BEATS),
        ("dasheng_mel_db", DecibelMel()),
    ],
)
def test_features_are_upstreams(name, front_end):
    _, data, _ = fixture("frontends")
    features = front_end(data["wav"])
    torch.testing.assert_close(features, data[name].reshape(features.shape), **CLOSE)
    assert front_end.frames_of(16_000) == {128: 98, 98: 98, 64: 101}[data[name].shape[-2]]
    assert features.shape[1:] == front_end.shape_of(data[name].shape[0 if data[name].ndim == 2 else 2])


def test_mel_filters_are_upstreams():
    _, data, _ = fixture("frontends")
    torch.testing.assert_close(kaldi_mel_filters(128)[:256].T, data["kaldi_mel_banks"], atol=1e-7, rtol=0)
    torch.testing.assert_close(htk_mel_filters(64, 512, 0.0, 8000.0), data["dasheng_mel_fb"], atol=1e-7, rtol=0)


def test_the_filter_bank_is_that_of_the_pocket_encoders_but_for_rounding():
    waveform = noise(2, 8000)
    waveform = waveform - waveform.mean(-1, keepdim=True)
    torch.testing.assert_close(HANNING(waveform), log_mel(waveform, 128, 10.0), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("family", "options", "features", "mean", "std"),
    [
        ("audiomae", {}, HANNING, -4.2677393, 4.5689974),
        ("audiomae", {"normalisation": "esc50"}, HANNING, -6.6268077, 5.358466),
        ("audiomae", {"normalisation": "sc2"}, HANNING, -6.845978, 5.5654526),
        ("asit", {}, HANNING, -4.2677393, 4.5689974),
        ("eat", {}, HANNING, -4.268, 4.569),
        ("eat", {"normalisation": "esc50"}, HANNING, -6.627, 5.359),
        ("sslam", {"normalisation": "sc2"}, HANNING, -6.846, 5.565),
        ("sslam", {"normalisation": (-3.0, 2.5)}, HANNING, -3.0, 2.5),
        ("beats", {}, POVEY, 15.41663, 6.55582),
    ],
)
def test_each_family_has_its_window_scale_and_statistics(family, options, features, mean, std):
    waveform = noise(1, 16_000) + 0.05  # an offset, which only BEATs keeps
    plain = dataclasses.replace(features, num_mels=64 if family != "beats" else 128)(waveform)
    spectrogram = encoder_of(family, **options).spectrogram(waveform)
    n = min(96, plain.shape[1])
    torch.testing.assert_close(spectrogram[:, :n], ((plain - mean) / (2 * std))[:, :n], **CLOSE)


def test_dasheng_hears_decibels_unnormalised_with_frequency_before_time():
    spectrogram = encoder_of("dasheng").spectrogram(noise(16_000))
    assert spectrogram.shape == (1, 64, 101)
    assert torch.equal(spectrogram, DecibelMel()(noise(1, 16_000)))


@pytest.mark.parametrize("options", [{}, {"padding": "silence", "frames": 80}])
@pytest.mark.parametrize("family", FAMILIES)
def test_features_of_a_clip_do_not_depend_on_the_rest_of_the_batch(family, options):
    encoder = encoder_of(family, **options)
    quiet, loud = 1e-4 * noise(1, 10_000), 10 * noise(1, 10_000, seed=1) + 1.0
    quiet[:, 5000:] = 0.0
    together = encoder.spectrogram(torch.cat([loud, quiet, torch.zeros(1, 10_000)]))
    torch.testing.assert_close(together[1:2], encoder.spectrogram(quiet), **CLOSE)
    torch.testing.assert_close(together[2:], encoder.spectrogram(torch.zeros(10_000)), **CLOSE)


def test_the_range_of_decibels_is_each_clips_own():
    """With the loudest value of the batch, as a plain call upstream takes, the quiet clip would change."""
    quiet, loud = 1e-5 * noise(1, 16_000), 100 * noise(1, 16_000)
    quiet[:, 8000:] = 0.0
    levels = DecibelMel()(torch.cat([quiet, loud]))
    assert levels[0].max() - levels[0].min() <= 120 and levels[0].min() < levels[1].max() - 120
    torch.testing.assert_close(levels[0].min(), levels[0].max().sub(120).clamp_min(-100))


@pytest.mark.parametrize("family", ["audiomae", "asit", "eat", "sslam"])
def test_zero_padding_is_louder_than_silence(family):
    clip = noise(1, 5200)  # 31 frames of 96
    upstream = encoder_of(family).spectrogram(clip)
    silence = encoder_of(family, padding="silence").spectrogram(clip)
    assert upstream.shape == silence.shape == (1, 96, 64)
    assert upstream[0, 31:].unique().tolist() == pytest.approx([0.467], abs=5e-4)
    assert silence[0, 34:].unique().tolist() == pytest.approx([-1.278], abs=5e-4)
    torch.testing.assert_close(upstream[:, :31], silence[:, :31])


def test_clips_of_beats_and_dasheng_stay_short_unless_silence_is_asked_for():
    clip = noise(1, 5200)
    for family, axis, short in (("beats", 1, 31), ("dasheng", 2, 33)):
        assert encoder_of(family, frames=100).spectrogram(clip).shape[axis] == short
        assert encoder_of(family).spectrogram(clip).shape[axis] == short
        silent = encoder_of(family, frames=100, padding="silence").spectrogram(clip)
        assert silent.shape[axis] == 100
        assert silent.select(axis, 99).unique().tolist() == pytest.approx(
            [-2.392 if family == "beats" else -100], abs=1e-3
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_long_clip_is_cropped_to_the_length_that_is_asked_for(family):
    clip, axis = noise(1, 32_000), 2 if family == "dasheng" else 1
    cropped = encoder_of(family, frames=48).spectrogram(clip)
    assert cropped.shape[axis] == 48
    whole = encoder_of(family).spectrogram(clip)
    torch.testing.assert_close(cropped.narrow(axis, 0, 46), whole.narrow(axis, 0, 46), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("family", "seconds", "frames", "grid"),
    [
        ("audiomae", 0.5, 48, (3, 4)),
        ("eat", 1.0, 112, (7, 4)),
        ("asit", 1.0, 112, (7, 4)),
        ("beats", 1.0, 98, (6, 8)),
        ("beats", 5.0, 498, (31, 8)),
        ("dasheng", 1.0, 101, (25, 1)),
        ("dasheng", 5.0, 501, (125, 1)),
    ],
)
def test_a_length_in_seconds_covers_the_clip_in_whole_patches_where_upstream_pads(family, seconds, frames, grid):
    encoder = encoder_of(family, seconds=seconds)
    assert encoder.geometry.front_end.frames == frames and encoder.grid == grid
    spectrogram = encoder.spectrogram(noise(2, round(16_000 * seconds)))
    assert spectrogram.shape[2 if family == "dasheng" else 1] == frames
    assert encoder(spectrogram).grid == grid


@pytest.mark.parametrize("family", FAMILIES)
def test_numpy_and_torch_alone_or_in_a_batch_are_one(family):
    encoder, clips = encoder_of(family), noise(2, 16_000)
    expected = encoder.spectrogram(clips)
    torch.testing.assert_close(encoder.spectrogram(clips.double().numpy()), expected, **CLOSE)
    torch.testing.assert_close(encoder.spectrogram(clips[1]), expected[1:], **CLOSE)
    flipped = encoder.spectrogram(clips[1].numpy()[::-1][::-1])
    torch.testing.assert_close(flipped, expected[1:], **CLOSE)
    assert expected.dtype == torch.float32 and torch.isfinite(expected).all()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("waveform", "rate", "message"),
    [
        (np.zeros(16_000), 32_000, "listens at 16000 Hz, the waveform has 32000 Hz; resample"),
        (np.full(16_000, np.nan), 16_000, "NaN or infinite"),
        (np.array([0.0] * 999 + [np.inf]), 16_000, "NaN or infinite"),
        (np.zeros(0), 16_000, r"shape is \(0,\)"),
        (np.zeros((0, 16_000)), 16_000, r"shape is \(0, 16000\)"),
        (np.zeros((1, 2, 16_000)), 16_000, r"shape is \(1, 2, 16000\)"),
        (np.zeros(16_000, dtype=np.int16), 16_000, "is of int16; floating point within -1 and 1"),
        (np.zeros(200), 16_000, "A waveform of 200 samples"),
    ],
)
def test_an_unusable_waveform_is_one_clear_sentence(family, waveform, rate, message):
    with pytest.raises(InputError, match=message) as raised:
        encoder_of(family).spectrogram(waveform, rate)
    assert str(raised.value).count(". ") == 0


def test_filter_3_of_the_filter_bank_is_empty():
    assert not kaldi_mel_filters(128)[:, 3].any()
    assert HANNING(noise(1, 4000))[..., 3].unique().tolist() == pytest.approx([SILENT_BIN], abs=1e-4)
