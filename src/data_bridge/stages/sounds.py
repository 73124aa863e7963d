"""Sound through libsndfile: the same bytes every time. The only module that imports soundfile."""

import io
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from data_bridge.errors import ConfigError
from data_bridge.runtime.stage import Skip

Format: TypeAlias = Literal["flac", "wav", "ogg"]
FORMATS: tuple[Format, ...] = ("flac", "wav", "ogg")
_WIDTHS: Mapping[str, int] = {"PCM_S8": 8, "PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32, "ALAC_16": 16,
                              "ALAC_24": 24, "ALAC_32": 32}  # fmt: skip
"""Bits of a sample by libsndfile's name; what is not here is a fraction, of a lossy codec or a float."""
MOST_SAMPLES = 1 << 29
"""Of all channels together: a gigabyte of 16 bits. A few bytes of silence may claim to be any number."""
_SERIAL = 1
_BLOCK = 1 << 16


def demand_soundfile() -> None:
    """Raises ConfigError where soundfile is not installed."""
    if find_spec("soundfile") is None:
        raise ConfigError("sound needs soundfile", hint="pip install 'train-data-bridge[audio]'")


def versions() -> dict[str, str]:
    """soundfile and the library it decodes and encodes with."""
    import soundfile

    return {"soundfile": soundfile.__version__, "libsndfile": soundfile.__libsndfile_version__}


def transcoded(data: bytes, form: Format, quality: int, *, mono: bool) -> bytes:
    """The sound in another format, at its own sample rate and width. Raises Skip for what is no sound."""
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(data)) as sound:
            bits, rate, floats = _WIDTHS.get(sound.subtype), sound.samplerate, sound.subtype in ("FLOAT", "DOUBLE")
            kind = "float32" if bits is None else "int16" if bits <= 16 else "int32"
            if sound.frames * sound.channels > MOST_SAMPLES:
                raise Skip(f"more than {MOST_SAMPLES} samples")
            frames = sound.read(dtype=kind, always_2d=True)
            if bits is not None and sound.frames != len(frames):
                raise Skip(f"the sound ends after {len(frames)} of {sound.frames} frames")
    except soundfile.LibsndfileError as error:
        raise Skip(f"not a sound: {error.error_string}") from None
    channels = 1 if mono else frames.shape[1]
    file = io.BytesIO()
    subtype = _subtype(form, bits, floats=floats)
    more: dict[str, Any] = {"compression_level": 1 - quality / 100} if form == "ogg" else {}
    try:
        with soundfile.SoundFile(file, "w", rate, channels, subtype, format=form.upper(), **more) as made:
            for at in range(0, len(frames), _BLOCK):  # Vorbis needs stack for all that comes at once
                block = frames[at : at + _BLOCK]
                made.write(_mixed(block) if channels < frames.shape[1] else block)
    except soundfile.LibsndfileError as error:
        raise Skip(f"no {form} can hold it: {error.error_string}") from None
    written = file.getvalue()
    return with_serial(written) if form == "ogg" else without_date(written) if form == "wav" else written


def _subtype(form: Format, bits: int | None, *, floats: bool) -> str:
    """Wide enough for every sample; what a lossy codec gave fits 16 bits."""
    if form == "ogg":
        return "VORBIS"
    if floats and form == "wav":
        return "FLOAT"
    if form == "wav" and (bits or 16) > 24:
        return "PCM_32"
    return "PCM_24" if floats or (bits or 16) > 16 else "PCM_16"


def _mixed(frames: NDArray[Any]) -> NDArray[Any]:
    """The mean of the channels, shape (n, 1)."""
    mean: NDArray[np.float64] = frames.mean(axis=1, keepdims=True, dtype=np.float64)
    mixed: NDArray[Any] = (mean if frames.dtype.kind == "f" else np.rint(mean)).astype(frames.dtype)
    return mixed


def without_date(wav: bytes) -> bytes:
    """A WAV file whose PEAK chunk, if it has one, does not tell when it was written."""
    at = 12
    while at + 8 <= len(wav):
        if wav[at : at + 4] == b"PEAK":
            return wav[: at + 12] + bytes(4) + wav[at + 16 :]
        if wav[at : at + 4] == b"data":
            break
        size = int.from_bytes(wav[at + 4 : at + 8], "little")
        at += 8 + size + size % 2
    return wav


def with_serial(ogg: bytes, serial: int = _SERIAL) -> bytes:
    """An Ogg file whose stream has this number instead of a random one, all checksums corrected."""
    data = bytearray(ogg)
    wanted = serial.to_bytes(4, "little")
    at = 0
    while at + 27 <= len(data) and data[at : at + 4] == b"OggS":
        segments = data[at + 26]
        size = 27 + segments + sum(data[at + 27 : at + 27 + segments])
        change = int.from_bytes(data[at + 14 : at + 18], "big") ^ int.from_bytes(wanted, "big")
        # a CRC is linear: the change of four bytes, moved by the bytes behind them, is the change of the sum
        crc = int.from_bytes(data[at + 22 : at + 26], "little") ^ _times(change, _moved(size - 18 + 4))
        data[at + 14 : at + 18] = wanted
        data[at + 22 : at + 26] = crc.to_bytes(4, "little")
        at += size
    return bytes(data)


_POLYNOMIAL = 0x04C11DB7


def _times(left: int, right: int) -> int:
    """Product of two polynomials over GF(2), modulo Ogg's."""
    product = 0
    while right:
        if right & 1:
            product ^= left
        right >>= 1
        left = left << 1 ^ (_POLYNOMIAL | 1 << 32 if left & 1 << 31 else 0)
    return product


def _moved(count: int) -> int:
    """x to the power of eight times `count`: what `count` bytes that follow multiply by."""
    power, base = 1, 1 << 8
    while count:
        if count & 1:
            power = _times(power, base)
        base = _times(base, base)
        count >>= 1
    return power
