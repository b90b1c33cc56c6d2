"""The front ends of the real encoders: Kaldi's filter bank in two windows, and Dasheng's mel spectrogram in dB.

Both make of each clip what they would make of it alone, whatever else is in the batch. Filters are computed in single
precision and in the order of operations of the authors' library (torchaudio), to give the features to the last bit.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lib.audio import LOG_FLOOR, SAMPLE_RATE
from lib.errors import InputError

FRAME, HOP, KALDI_FFT = 400, 160, 512  # samples: 25 ms, 10 ms at 16 kHz, and the next power of two


def checked_waveform(waveform: np.ndarray | Tensor, sample_rate: int) -> Tensor:
    """Return a waveform ``(samples,)`` or a batch of them as float32 ``(B, samples)``.

    Raises
    ------
    InputError
        If the rate is not 16 kHz, the shape is neither of the two, it is empty or not of floating point, or a sample
        is NaN or infinite.
    """
    if sample_rate != SAMPLE_RATE:
        raise InputError(
            f"The encoder listens at {SAMPLE_RATE} Hz, the waveform has {sample_rate} Hz; resample it first."
        )
    waveform = waveform if isinstance(waveform, Tensor) else torch.from_numpy(np.array(waveform))
    if waveform.ndim not in (1, 2) or waveform.numel() == 0:
        raise InputError(
            f"A waveform (samples,) or a batch (B, samples) is expected, but the shape is {tuple(waveform.shape)}."
        )
    if not waveform.is_floating_point():
        raise InputError(
            f"The waveform is of {str(waveform.dtype).removeprefix('torch.')}; floating point within -1 and 1 is "
            "expected, divide by the largest integer first."
        )
    if not torch.isfinite(waveform).all():
        raise InputError("The waveform holds NaN or infinite samples; repair it or leave the clip out.")
    return torch.atleast_2d(waveform).to("cpu", torch.float32)  # (B, samples)


@dataclass(frozen=True)
class KaldiFilterBank:
    """Kaldi's log-mel filter bank (25 ms frames every 10 ms, from 20 Hz), padded and normalised.

    Attributes
    ----------
    num_mels : int
        Mel bands.
    mean, std : float
        Of the features; the result is ``(x - mean) / (2 std)``.
    frames : int or None
        Length of the result; None for what the clip gives.
    padding : {"zeros", "silence", "none"}
        A clip that is too short gets zeros in the filter bank, before it is normalised, which are louder than most
        sounds; or digital silence in the waveform; or nothing, and the result is shorter.
    window : {"hanning", "povey"}
        Analysis window.
    scale : float
        By which the waveform is multiplied.
    remove_mean : bool
        Whether the waveform's mean is subtracted.
    """

    num_mels: int
    mean: float
    std: float
    frames: int | None = None
    padding: str = "zeros"
    window: str = "hanning"
    scale: float = 1.0
    remove_mean: bool = True

    def frames_of(self, samples: int) -> int:
        """Return how many frames fit into a number of samples."""
        return max(0, (samples - FRAME) // HOP + 1)

    def shape_of(self, frames: int) -> tuple[int, int]:
        """Return ``(frames, mel)``."""
        return frames, self.num_mels

    def __call__(self, waveform: Tensor) -> Tensor:
        """Map ``(B, samples)`` to normalised ``(B, frames, mel)``."""
        if self.remove_mean:
            waveform = waveform - waveform.mean(-1, keepdim=True)
        if self.frames is not None:
            waveform = _cropped(waveform, (self.frames - 1) * HOP + FRAME, self.padding == "silence")
        features = self._log_mel(waveform * self.scale)
        if self.frames is not None and self.padding == "zeros":
            features = F.pad(features, (0, 0, 0, self.frames - features.shape[1]))  # (B, frames, mel)
        return (features - self.mean) / (2 * self.std)

    def _log_mel(self, waveform: Tensor) -> Tensor:
        """Map ``(B, samples)`` to the natural logarithm of power ``(B, frames, mel)``; only whole frames count."""
        if waveform.shape[1] < FRAME:
            raise InputError(
                f"A waveform of {waveform.shape[1]} samples is shorter than one frame of {FRAME}; pad it first."
            )
        frames = waveform.unfold(1, FRAME, HOP)  # (B, frames, FRAME)
        frames = frames - frames.mean(-1, keepdim=True)
        previous = torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)  # the first sample is its own predecessor
        hann = torch.hann_window(FRAME, periodic=False)
        frames = (frames - 0.97 * previous) * (hann if self.window == "hanning" else hann**0.85)
        power = torch.fft.rfft(frames, n=KALDI_FFT).abs().square()  # (B, frames, bins)
        return (power @ kaldi_mel_filters(self.num_mels)).clamp_min(LOG_FLOOR).log()


@dataclass(frozen=True)
class DecibelMel:
    """Mel spectrogram of power in dB, within `top_db` of the loudest value of its own clip.

    Attributes
    ----------
    num_mels : int
        Mel bands.
    n_fft, hop : int
        Length of a frame (periodic Hann window, the clip reflected at its ends) and hop in samples.
    low_hz, high_hz : float
        Range of the mel bands.
    top_db : float
        Range of the result.
    frames : int or None
        Length to which a longer clip is cropped, and a shorter one padded where `padding` says so.
    padding : {"silence", "none"}
        Whether a clip that is too short gets digital silence in the waveform, or stays short.
    """

    num_mels: int = 64
    n_fft: int = 512
    hop: int = HOP
    low_hz: float = 0.0
    high_hz: float = 8000.0
    top_db: float = 120.0
    frames: int | None = None
    padding: str = "none"

    def frames_of(self, samples: int) -> int:
        """Return how many frames a number of samples gives."""
        return samples // self.hop + 1

    def shape_of(self, frames: int) -> tuple[int, int]:
        """Return ``(mel, frames)``."""
        return self.num_mels, frames

    def __call__(self, waveform: Tensor) -> Tensor:
        """Map ``(B, samples)`` to ``(B, mel, frames)`` in dB."""
        if self.frames is not None:
            waveform = _cropped(waveform, (self.frames - 1) * self.hop, self.padding == "silence")
        if waveform.shape[1] <= self.n_fft // 2:
            raise InputError(
                f"A waveform of {waveform.shape[1]} samples cannot be reflected at its ends; at least "
                f"{self.n_fft // 2 + 1} are needed, pad it first."
            )
        window = torch.hann_window(self.n_fft)
        spectrum = torch.stft(waveform, self.n_fft, self.hop, window=window, return_complex=True)  # (B, bins, frames)
        filters = htk_mel_filters(self.num_mels, self.n_fft, self.low_hz, self.high_hz)  # (bins, mel)
        power = (spectrum.abs().square().transpose(1, 2) @ filters).transpose(1, 2)  # (B, mel, frames)
        decibel = 10.0 * power.clamp_min(1e-10).log10()
        return decibel.maximum(decibel.amax((1, 2), keepdim=True) - self.top_db)


def _cropped(waveform: Tensor, samples: int, pad: bool) -> Tensor:
    """Return the first `samples` of each clip; where there are fewer, add zeros if `pad` says so."""
    waveform = waveform[:, :samples]
    return F.pad(waveform, (0, samples - waveform.shape[1])) if pad else waveform


@functools.cache
def kaldi_mel_filters(num_mels: int, low_hz: float = 20.0) -> Tensor:
    """Return triangular filters ``(bins, num_mels)`` up to 8 kHz, straight and spaced in mel = 1127 ln(1 + f / 700)."""
    low, high = (1127.0 * math.log(1.0 + f / 700.0) for f in (low_hz, SAMPLE_RATE / 2))
    width, number = (high - low) / (num_mels + 1), torch.arange(num_mels)
    left, centre, right = (low + (number + k) * width for k in (0.0, 1.0, 2.0))  # mel
    # Processors differ in the last digit of a float32 logarithm, and a narrow filter shows it: rounded from float64.
    bins = 1127.0 * (1.0 + SAMPLE_RATE / KALDI_FFT * torch.arange(KALDI_FFT // 2) / 700.0).double().log().float()  # mel
    up, down = (bins[:, None] - left) / (centre - left), (right - bins[:, None]) / (right - centre)
    return F.pad(up.minimum(down).clamp_min(0.0), (0, 0, 0, 1))  # Kaldi leaves the Nyquist bin out


@functools.cache
def htk_mel_filters(num_mels: int, n_fft: int, low_hz: float, high_hz: float) -> Tensor:
    """Return triangular filters ``(bins, num_mels)``, straight in Hz but spaced in mel = 2595 lg(1 + f / 700)."""
    low, high = (2595.0 * math.log10(1.0 + f / 700.0) for f in (low_hz, high_hz))
    edges = 700.0 * (10.0 ** (torch.linspace(low, high, num_mels + 2) / 2595.0) - 1.0)  # Hz
    bins = torch.linspace(0.0, SAMPLE_RATE // 2, n_fft // 2 + 1)  # Hz
    distance, width = edges - bins[:, None], edges.diff()  # (bins, mel + 2), (mel + 1,)
    up, down = -distance[:, :-2] / width[:-1], distance[:, 2:] / width[1:]
    return up.minimum(down).clamp_min(0.0)
