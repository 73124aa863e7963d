"""Images and sounds made on the spot."""

import io
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray
from PIL import Image


def gradient(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """A smooth picture that shows when it is turned, cut or stretched: red grows to the right, green downwards."""
    across = np.linspace(0, 255, width)[None, :].repeat(height, 0)
    down = np.linspace(0, 255, height)[:, None].repeat(width, 1)
    image = Image.fromarray(np.stack([across, down, 0 * across], 2).astype(np.uint8), "RGB")
    return image if mode == "RGB" else image.convert(mode)


def file_of(image: Image.Image, form: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def seen(data: bytes) -> Image.Image:
    """The image in a file, read to its end."""
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def tones(seconds: float = 1.0, rate: int = 16_000, channels: int = 2) -> NDArray[np.float64]:
    """Sine waves, one a channel, shape (frames, channels)."""
    at = np.arange(round(seconds * rate)) / rate
    return np.stack([0.5 * np.sin(2 * np.pi * 220 * (n + 1) * at) for n in range(channels)], 1)


def sound_of(frames: NDArray[Any], form: str = "WAV", subtype: str = "PCM_16", rate: int = 16_000) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, frames, rate, format=form, subtype=subtype)
    return file.getvalue()


def heard(data: bytes, kind: str = "float64") -> tuple[NDArray[Any], int]:
    """Frames of shape (n, channels), and the sample rate."""
    frames, rate = soundfile.read(io.BytesIO(data), dtype=kind, always_2d=True)
    return frames, rate
