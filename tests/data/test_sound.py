"""Recordings: sample formats, channels, sampling rates, and files that are none."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile

from hetexp.data.sound import read_sound
from hetexp.errors import ConfigError, DataError

WAVE = 0.5 * np.sin(2 * np.pi * 440 * np.arange(1600) / 16000)


@pytest.mark.parametrize(
    ("samples", "error"),
    [
        (WAVE.astype(np.float32), 1e-6),
        ((WAVE * 2**15).astype(np.int16), 1e-4),
        ((WAVE * 2**31).astype(np.int32), 1e-6),
        ((WAVE * 2**7 + 2**7).astype(np.uint8), 1e-2),
        (np.stack([WAVE * 2, WAVE * 0], 1).astype(np.float32), 1e-6),
    ],
    ids=["float", "int16", "int32", "uint8", "stereo"],
)
def test_formats(samples: np.ndarray, error: float, tmp_path: Path) -> None:
    wavfile.write(tmp_path / "a.wav", 16000, samples)
    found = read_sound(tmp_path / "a.wav", 16000)
    assert found.dtype == np.float32
    assert np.abs(found - WAVE).max() <= error


def test_another_rate(tmp_path: Path) -> None:
    fine = 0.5 * np.sin(2 * np.pi * 440 * np.arange(4410) / 44100)
    wavfile.write(tmp_path / "a.wav", 44100, fine.astype(np.float32))
    found = read_sound(tmp_path / "a.wav", 16000)
    assert len(found) == 1600
    assert np.abs(found - WAVE)[100:-100].max() < 5e-3  # the ends ring


def test_what_is_no_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        read_sound(tmp_path / "none.wav", 16000)
    (tmp_path / "text.wav").write_text("no sound")
    with pytest.raises(DataError, match=r"text\.wav cannot be read as a WAV file"):
        read_sound(tmp_path / "text.wav", 16000)
    wavfile.write(tmp_path / "empty.wav", 16000, np.zeros(0, np.float32))
    with pytest.raises(DataError, match="holds no sound"):
        read_sound(tmp_path / "empty.wav", 16000)
    (tmp_path / "a.flac").write_bytes(b"fLaC")
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(ConfigError, match="soundfile"):
        read_sound(tmp_path / "a.flac", 16000)
