"""Recordings as a model of sound reads them."""

from __future__ import annotations

import math
from importlib import import_module
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.io import wavfile

from hetexp.errors import ConfigError, DataError


def read_sound(path: Path, rate: int) -> NDArray[np.float32]:
    """A recording as one channel in -1..1, at a sampling rate in Hz.

    WAV files are read with scipy, others (FLAC, Ogg, MP3) with the optional package soundfile. Channels are averaged.

    Raises:
        ConfigError: if there is no such file, or soundfile is needed and not installed.
        DataError: if it is no recording, or holds no sample.
    """
    if not path.is_file():
        raise ConfigError(f"audio {str(path)!r} does not exist: give the path of a recording, e.g. audio=speech.wav")
    own, samples = _read_wav(path) if path.suffix.lower() in (".wav", ".wave") else _read_other(path)
    if not samples.size:
        raise DataError(f"{path} holds no sound: give a recording of some length")
    mono = samples.mean(1) if samples.ndim > 1 else samples
    if own == rate:
        return mono.astype(np.float32)
    from scipy.signal import resample_poly  # half a second to load, which explaining a picture need not wait for

    common = math.gcd(own, rate)
    return np.asarray(resample_poly(mono, rate // common, own // common), dtype=np.float32)


def _read_wav(path: Path) -> tuple[int, NDArray[np.float64]]:
    try:
        rate, samples = wavfile.read(path)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read as a WAV file ({error}): save it again as WAV") from error
    if samples.dtype.kind == "f":
        return int(rate), samples.astype(np.float64)
    half = 2.0 ** (8 * samples.dtype.itemsize - 1)  # 8-bit samples are unsigned, others are not
    centre = half if samples.dtype.kind == "u" else 0.0
    return int(rate), (samples.astype(np.float64) - centre) / half


def _read_other(path: Path) -> tuple[int, NDArray[np.float64]]:
    try:
        soundfile = import_module("soundfile")
    except ImportError:
        raise ConfigError(
            f"audio={path} is no WAV file, and the package soundfile, which reads others, is not installed: save it as "
            "WAV, or pip install soundfile"
        ) from None
    try:
        samples, rate = soundfile.read(path, dtype="float64")
    except (OSError, RuntimeError) as error:
        raise DataError(f"{path} cannot be read as a recording ({error}): save it as WAV") from error
    return int(rate), samples
