"""Images through Pillow: read with care, written to the same bytes every time. The only module that imports Pillow."""

import io
import warnings
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from data_bridge.errors import ConfigError
from data_bridge.model.batch import Media
from data_bridge.runtime.stage import Skip

if TYPE_CHECKING:
    from PIL.Image import Image

Format: TypeAlias = Literal["jpeg", "png", "webp"]
FORMATS: tuple[Format, ...] = ("jpeg", "png", "webp")
QUALITY = 95
MAX_PIXELS = 89_478_485
"""A gigabyte of RGB in four: Pillow's own mark of a decompression bomb."""
_EXTENSIONS: Mapping[str, str] = {"jpeg": "jpg", "png": "png", "webp": "webp"}
_SAME: Mapping[str, frozenset[str]] = {"jpg": frozenset({"jpg", "jpeg", "jpe", "jfif"})}
_ORIENTATION = 0x0112
_SIDEWAYS = frozenset({5, 6, 7, 8})
_MODES: Mapping[Format, frozenset[str]] = {
    "jpeg": frozenset({"L", "RGB"}),
    "png": frozenset({"L", "LA", "RGB", "RGBA", "I;16"}),
    "webp": frozenset({"RGB", "RGBA"}),
}
_CODECS = ("libjpeg_turbo", "jpg", "zlib", "zlib_ng", "webp")


def demand_pillow() -> None:
    """Raises ConfigError where Pillow is not installed."""
    if find_spec("PIL") is None:
        raise ConfigError("images need Pillow", hint="pip install 'train-data-bridge[image]'")


def versions() -> dict[str, str]:
    """Pillow and the libraries it decodes and encodes with."""
    import PIL
    from PIL import features

    found = {name: features.version(name) for name in _CODECS}
    return {"pillow": PIL.__version__, **{name: version for name, version in found.items() if version}}


def opened(data: bytes, max_pixels: int) -> "Image":
    """The first frame, its pixels not yet read. Raises Skip for what is no image, or a larger one than allowed."""
    pillow = _pillow()
    try:
        image: Image = pillow.open(io.BytesIO(data))
    except (pillow.UnidentifiedImageError, pillow.DecompressionBombError) as error:
        large = isinstance(error, pillow.DecompressionBombError)
        raise Skip(f"more than {max_pixels} pixels" if large else "not an image") from None
    if image.width * image.height > max_pixels:
        raise Skip(f"{image.width} × {image.height} is more than {max_pixels} pixels")
    return image


def shown_size(image: "Image") -> tuple[int, int]:
    """Width and height as the image is to be seen."""
    return (image.height, image.width) if _turned(image) in _SIDEWAYS else image.size


def format_of(image: "Image") -> Format | None:
    """The format it came in, where that is one we write."""
    name = (image.format or "").lower()
    return next((each for each in FORMATS if each == {"mpo": "jpeg"}.get(name, name)), None)


def upright(image: "Image") -> bool:
    """Whether its rows are stored from top to bottom, left to right."""
    return _turned(image) == 1


def decoded(image: "Image", least: tuple[int, int] | None = None) -> "Image":
    """The pixels the way they are to be seen, in a plain mode. At `least` so large: a JPEG may come scaled down."""
    from PIL import ImageOps

    turned = _turned(image)
    if least is not None:
        image.draft(None, least[::-1] if turned in _SIDEWAYS else least)
    image.load()
    if turned != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode in ("P", "PA", "L", "RGB", "1") and "transparency" in image.info:
        image = image.convert("RGBA")
    elif image.mode not in ("L", "LA", "RGB", "RGBA", "I;16"):
        image = image.convert({"1": "L", "La": "LA", "RGBa": "RGBA", "PA": "RGBA"}.get(image.mode, "RGB"))
    return image


def encoded(image: "Image", form: Format, quality: int) -> bytes:
    """A file without metadata. What is transparent stands on white where the format knows no transparency."""
    if image.mode not in _MODES[form]:
        image = _fitting(image, form)
    image.info.clear()
    file = io.BytesIO()
    if form == "png":
        image.save(file, "PNG")
    elif form == "webp":
        image.save(file, "WEBP", quality=quality, method=4)
    else:
        image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def replaced(value: object, change: Callable[[bytes], tuple[bytes, str]]) -> object:
    """A file changed, in the form it came in: Media or bytes. `change` gives the new content and its extension.

    Null stays null. Raises Skip for any other value.
    """
    if value is None:
        return None
    if isinstance(value, Media):
        data, extension = change(value.data)
        return value if data is value.data else Media(data, renamed(value.path, extension))
    if isinstance(value, bytes):
        return change(value)[0]
    raise Skip(f"{type(value).__name__} is no file")


def extension_of(form: Format) -> str:
    return _EXTENSIONS[form]


def renamed(path: str, extension: str) -> str:
    """The path with another extension, unless its own means the same; '' stays ''."""
    folder, slash, name = path.rpartition("/")
    stem, dot, old = name.rpartition(".")
    if not name or (dot and old.lower() in _SAME.get(extension, {extension})):
        return path
    return f"{folder}{slash}{stem if dot and stem else name}.{extension}"


def _turned(image: "Image") -> int:
    found = image.getexif().get(_ORIENTATION, 1)
    return found if found in range(1, 9) else 1


def _fitting(image: "Image", form: Format) -> "Image":
    """In a mode the format knows."""
    pillow = _pillow()
    if image.mode == "I;16":
        image = pillow.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in _MODES[form]:
        return image
    if image.mode in ("LA", "RGBA") and form == "jpeg":
        on_white: Image = pillow.new("RGBA", image.size, (255, 255, 255, 255))
        on_white.alpha_composite(image.convert("RGBA"))
        image = on_white.convert("L" if image.mode == "LA" else "RGB")
    else:
        image = image.convert("RGBA" if image.mode == "LA" else "RGB")
    return image


def _pillow() -> ModuleType:
    from PIL import Image

    # such an image is a failure already
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    return Image
