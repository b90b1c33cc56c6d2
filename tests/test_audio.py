"""Reading audio and the filter bank."""

import kaldi_native_fbank as knf
import numpy as np
import pytest
import soundfile
import torch

from lib.audio import check_waveform, fit_length, log_mel, mel_centres, read_audio
from lib.errors import InputError


def tone(seconds=1.0, rate=16_000, hz=440.0):
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_every_format_and_rate_comes_back_mono_at_16_khz(tmp_path, suffix, rate):
    path = tmp_path / f"tone.{suffix}"
    stereo = np.stack([tone(rate=rate), tone(rate=rate)], axis=1)
    soundfile.write(path, stereo, rate)
    waveform = read_audio(path)
    assert waveform.dtype == np.float32 and waveform.ndim == 1
    assert abs(len(waveform) - 16_000) <= 2
    spectrum = np.abs(np.fft.rfft(waveform[2000:14_000]))
    assert abs(np.argmax(spectrum) * 16_000 / 12_000 - 440) < 2


def test_channels_are_averaged(tmp_path):
    path = tmp_path / "opposite.wav"
    soundfile.write(path, np.stack([tone(), -tone()], axis=1), 16_000)
    assert np.abs(read_audio(path)).max() < 1e-3


def test_a_missing_file_is_one_clear_sentence(tmp_path):
    with pytest.raises(InputError, match="There is no audio file .*nothing.wav.*make data"):
        read_audio(tmp_path / "nothing.wav")


def test_an_unreadable_file_is_one_clear_sentence(tmp_path):
    path = tmp_path / "noise.wav"
    path.write_bytes(b"this is no audio" * 20)
    with pytest.raises(InputError, match="noise.wav' cannot be read as WAV, FLAC or OGG"):
        read_audio(path)


def test_an_empty_file_and_nan_samples_are_clear_errors(tmp_path):
    empty, broken = tmp_path / "empty.wav", tmp_path / "nan.wav"
    soundfile.write(empty, np.zeros(0, dtype=np.float32), 16_000)
    soundfile.write(broken, np.full(500, np.nan, dtype=np.float32), 16_000, subtype="FLOAT")
    with pytest.raises(InputError, match=r"empty\.wav' holds no samples"):
        read_audio(empty)
    with pytest.raises(InputError, match=r"nan\.wav' holds NaN"):
        read_audio(broken)


@pytest.mark.parametrize(
    ("waveform", "message"),
    [
        (np.zeros((2, 800)), r"shape \(2, 800\); a mono waveform"),
        (np.ones(100), "has 100 samples; at least 400"),
        (np.zeros(0), "has 0 samples"),
        (np.full(800, np.nan), "NaN or infinite"),
        (np.zeros(800), "is silent"),
    ],
)
def test_a_useless_waveform_is_refused_in_one_sentence(waveform, message):
    with pytest.raises(InputError, match=f"clip 7.*{message}"):
        check_waveform(waveform, "clip 7")


def test_length_is_padded_with_zeros_or_cropped_at_the_end():
    assert fit_length(np.ones(3), 5).tolist() == [1, 1, 1, 0, 0]
    assert fit_length(np.arange(5), 3).tolist() == [0, 1, 2]


@pytest.mark.parametrize("window", ["hanning", "povey"])
@pytest.mark.parametrize(("num_mels", "hop_ms"), [(64, 20.0), (128, 10.0)])
def test_the_filter_bank_equals_kaldi(num_mels, hop_ms, window):
    rng = np.random.default_rng(3)
    waveform = (tone(2.0) + 0.1 * rng.standard_normal(32_000)).astype(np.float32)
    options = knf.FbankOptions()
    options.frame_opts.dither = 0.0
    options.frame_opts.frame_shift_ms = hop_ms
    options.frame_opts.window_type = window
    options.mel_opts.num_bins = num_mels
    options.use_energy = False
    fbank = knf.OnlineFbank(options)
    fbank.accept_waveform(16_000, waveform.tolist())
    expected = np.stack([fbank.get_frame(i) for i in range(fbank.num_frames_ready)])
    ours = log_mel(waveform, num_mels=num_mels, hop_ms=hop_ms, window=window).numpy()
    assert ours.shape == expected.shape
    np.testing.assert_allclose(ours, expected, atol=2e-3)
    assert np.abs(ours - expected).mean() < 1e-5


def test_ten_seconds_give_499_frames_and_batches_change_nothing():
    waveforms = torch.randn(3, 160_000, generator=torch.Generator().manual_seed(0)) * 0.1
    batch = log_mel(waveforms)
    assert batch.shape == (3, 499, 64)
    torch.testing.assert_close(batch[1], log_mel(waveforms[1]))


def test_a_tone_lights_the_band_whose_centre_is_nearest():
    spectrogram = log_mel(tone(hz=2000.0)).mean(0)
    assert abs(mel_centres(64)[int(spectrogram.argmax())] - 2000) < 120


def test_a_clip_shorter_than_one_frame_and_an_unknown_window_are_clear_errors():
    with pytest.raises(InputError, match="399 samples is shorter than one frame of 400"):
        log_mel(np.ones(399))
    with pytest.raises(InputError, match="Unknown window 'hamming'"):
        log_mel(np.ones(800), window="hamming")
