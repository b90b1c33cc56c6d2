"""Audio in, filter bank out: read, mix down, resample, pad or crop, and the Kaldi log-mel filter bank in torch.

A waveform is mono float32 in [-1, 1], a spectrogram is ``(frames, mel bands)``, both with any leading batch axes.
"""

import functools
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch

from lib.errors import InputError

SAMPLE_RATE = 16_000  # Hz, of everything after `read_audio`
LOG_FLOOR = 1.1920928955078125e-07  # Kaldi's floor, the epsilon of float32


def read_audio(path: str | Path, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Read a WAV, FLAC or OGG file as a mono waveform at `sample_rate`.

    Parameters
    ----------
    path : str or Path
        The file. Channels are averaged; any rate is resampled (soxr, high quality).
    sample_rate : int
        Rate of the result in Hz.

    Returns
    -------
    numpy.ndarray
        float32 ``(samples,)``.

    Raises
    ------
    InputError
        If the file is missing, unreadable or empty, or holds NaN or infinite samples.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no audio file '{path}'; check the path, or fetch the data with `make data`.")
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)  # (samples, channels)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise InputError(
            f"'{path}' cannot be read as WAV, FLAC or OGG audio ({error}); replace or remove the file."
        ) from error
    if len(samples) == 0:
        raise InputError(f"'{path}' holds no samples; replace or remove the file.")
    if not np.isfinite(samples).all():
        raise InputError(f"'{path}' holds NaN or infinite samples; replace or remove the file.")
    mono = samples.mean(axis=1)  # (samples,)
    if rate != sample_rate:
        mono = soxr.resample(mono, rate, sample_rate)
    return mono.astype(np.float32)


def check_waveform(waveform: np.ndarray, where: str, min_samples: int = 400, silence: bool = False) -> None:
    """Refuse a waveform that no encoder can use.

    Parameters
    ----------
    waveform : numpy.ndarray
        ``(samples,)`` at 16 kHz.
    where : str
        What the waveform is, for the message ("clip 12 of train", a file name).
    min_samples : int
        Fewest samples; 400 is one analysis window of 25 ms.
    silence : bool
        Whether a waveform of zeros is allowed.

    Raises
    ------
    InputError
        If it is not mono, too short, not finite, or silent.
    """
    waveform = np.asarray(waveform)
    if waveform.ndim != 1:
        raise InputError(
            f"The waveform of {where} has shape {waveform.shape}; a mono waveform (samples,) is expected, "
            "average the channels first."
        )
    if len(waveform) < min_samples:
        raise InputError(
            f"The waveform of {where} has {len(waveform)} samples; at least {min_samples} "
            f"({1000 * min_samples / SAMPLE_RATE:.0f} ms at 16 kHz) are needed, pad it or leave it out."
        )
    if not np.isfinite(waveform).all():
        raise InputError(f"The waveform of {where} holds NaN or infinite samples; repair it or leave it out.")
    if not silence and not np.any(waveform):
        raise InputError(f"The waveform of {where} is silent (all zeros); leave it out.")


def fit_length(waveform: np.ndarray, samples: int) -> np.ndarray:
    """Pad with zeros at the end, or crop at the end, to exactly `samples` samples."""
    waveform = np.asarray(waveform, dtype=np.float32)
    if len(waveform) >= samples:
        return waveform[:samples]
    return np.pad(waveform, (0, samples - len(waveform)))


@functools.cache
def mel_filters(num_mels: int, fft_size: int, sample_rate: int, low_hz: float = 20.0) -> torch.Tensor:
    """Return Kaldi's triangular mel filters, ``(fft_size // 2 + 1, num_mels)`` float32.

    Filters are equally spaced in mel = 1127 ln(1 + f / 700) from `low_hz` to half the rate, and the triangles
    are straight in mel, not in Hz.
    """
    low, high = (1127.0 * np.log1p(f / 700.0) for f in (low_hz, sample_rate / 2))
    edges = low + (high - low) / (num_mels + 1) * np.arange(num_mels + 2)
    bins = 1127.0 * np.log1p(np.arange(fft_size // 2 + 1) * sample_rate / fft_size / 700.0)
    up = (bins[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    down = (edges[2:] - bins[:, None]) / (edges[2:] - edges[1:-1])
    filters = np.maximum(0.0, np.minimum(up, down))
    filters[-1] = 0.0  # Kaldi leaves the Nyquist bin out
    return torch.from_numpy(filters.astype(np.float32))


def mel_centres(num_mels: int, sample_rate: int = SAMPLE_RATE, low_hz: float = 20.0) -> np.ndarray:
    """Return the centre frequencies of the mel filters in Hz, ``(num_mels,)``."""
    low, high = (1127.0 * np.log1p(f / 700.0) for f in (low_hz, sample_rate / 2))
    centres = low + (high - low) / (num_mels + 1) * np.arange(1, num_mels + 1)
    return 700.0 * np.expm1(centres / 1127.0)


def log_mel(
    waveform: np.ndarray | torch.Tensor,
    num_mels: int = 64,
    hop_ms: float = 20.0,
    length_ms: float = 25.0,
    sample_rate: int = SAMPLE_RATE,
    window: str = "hanning",
) -> torch.Tensor:
    """Compute Kaldi's log-mel filter bank (no dither, no energy, frames that fit only).

    Parameters
    ----------
    waveform : array or tensor
        ``(..., samples)`` at `sample_rate`.
    num_mels : int
        Mel bands.
    hop_ms, length_ms : float
        Hop and length of a frame in milliseconds.
    sample_rate : int
        Hz.
    window : {"hanning", "povey"}
        Symmetric Hann window, or the same to the power 0.85.

    Returns
    -------
    torch.Tensor
        float32 ``(..., frames, num_mels)``, natural logarithm of power;
        ``frames = (samples - length) // hop + 1``.

    Raises
    ------
    InputError
        If the waveform is shorter than one frame or the window is unknown.

    References
    ----------
    .. [1] Kaldi's ``compute-fbank-feats``; the test compares with kaldi-native-fbank.
    """
    waveform = torch.as_tensor(waveform, dtype=torch.float32)
    length, hop = round(sample_rate * length_ms / 1000), round(sample_rate * hop_ms / 1000)
    if waveform.shape[-1] < length:
        raise InputError(
            f"A waveform of {waveform.shape[-1]} samples is shorter than one frame of {length}; pad it first."
        )
    fft_size = 1 << (length - 1).bit_length()
    frames = waveform.unfold(-1, length, hop)  # (..., frames, length)
    frames = frames - frames.mean(-1, keepdim=True)
    previous = torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)  # the first sample is its own predecessor
    frames = (frames - 0.97 * previous) * _window(window, length)
    power = torch.fft.rfft(frames, n=fft_size).abs().square()  # (..., frames, fft_size // 2 + 1)
    mel = power @ mel_filters(num_mels, fft_size, sample_rate)  # (..., frames, num_mels)
    return mel.clamp_min(LOG_FLOOR).log()


def _window(name: str, length: int) -> torch.Tensor:
    """Return the analysis window ``(length,)``."""
    hann = torch.hann_window(length, periodic=False)
    if name == "hanning":
        return hann
    if name == "povey":
        return hann**0.85
    raise InputError(f"Unknown window '{name}'; choose 'hanning' or 'povey'.")
