"""`resize`: images of the size that training needs."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from pydantic import model_validator

from data_bridge.config.fields import Count
from data_bridge.model.batch import DictRows, Row
from data_bridge.runtime.stage import Fields, Result, Skip, Stage, StageBatch, StageOptions, option
from data_bridge.stages import images
from data_bridge.stages.columns import FILE_TYPES, demand

if TYPE_CHECKING:
    from PIL.Image import Image

GAP = 2.0
"""A JPEG may be decoded at a fraction that leaves this many times the wanted size: what is lost cannot be seen."""


class ResizeOptions(StageOptions):
    field: str = option("image", description="field with the image")
    size: Count | None = option(None, gt=0, description="width and height, or the side that `mode` names, in pixels")
    width: Count | None = option(None, gt=0, description="instead of `size`")
    height: Count | None = option(None, gt=0, description="instead of `size`")
    mode: Literal["fit", "cover", "exact", "shorter", "longer"] = option(
        "fit",
        description="`fit` into width × height; `cover` them and cut off the rest evenly; `exact`: do not keep the "
        "shape; the `shorter` or `longer` side becomes `size`",
    )
    upscale: bool = option(
        False, description="also enlarge; else a smaller image stays, or fails where it must fill a size"
    )
    format: Literal["keep", "jpeg", "png", "webp"] = option(
        "keep", description="what is written; `keep` = as it came, or PNG where that is none of these"
    )
    quality: Count = option(images.QUALITY, ge=1, le=100, description="of JPEG and WebP")
    min_side: Count = option(0, ge=0, description="drop images with a side shorter than this")
    max_pixels: Count = option(
        images.MAX_PIXELS, gt=0, description="an image that is larger, or would become so, is a failure"
    )

    @model_validator(mode="after")
    def _sized(self) -> Self:
        width, height = self.box
        if self.size is not None and (self.width is not None or self.height is not None):
            raise ValueError("`size` excludes `width` and `height`")
        if self.mode in ("shorter", "longer") and self.size is None:
            raise ValueError(f"`mode: {self.mode}` needs `size`")
        if self.mode in ("cover", "exact") and None in (width, height):
            raise ValueError(f"`mode: {self.mode}` needs `size`, or `width` and `height`")
        if width is None and height is None:
            raise ValueError("give `size`, `width` or `height`")
        return self

    @property
    def box(self) -> tuple[int | None, int | None]:
        return (self.size, self.size) if self.size is not None else (self.width, self.height)


class Resize(Stage[ResizeOptions]):
    """Images of another size, the way they are to be seen (the EXIF orientation is applied), without metadata.

    An image that already has its size, its format and its orientation passes with its bytes as they are.
    """

    kind = "resize"
    Options = ResizeOptions

    @property
    def drops(self) -> bool:
        return self.options.min_side > 0

    def check(self) -> None:
        images.demand_pillow()

    def fields(self, fields: Fields) -> Fields:
        demand(fields, self.options.field, "field", FILE_TYPES)
        return fields

    def libraries(self) -> Mapping[str, str]:
        return images.versions()

    def process(self, batch: StageBatch) -> Result:
        found, positions, failures = batch.apply(self._row)
        kept = [(row, position) for row, position in zip(found, positions, strict=True) if row is not None]
        rows = DictRows([row for row, _ in kept])
        return Result(rows, np.array([position for _, position in kept], dtype=np.int64), tuple(failures))

    def _row(self, row: Row) -> Row | None:
        name = self.options.field
        if name not in row:
            raise Skip(f"there is no field {name!r}")
        try:
            return {**row, name: images.replaced(row[name], self._resized)}
        except _TooSmall:
            return None

    def _resized(self, data: bytes) -> tuple[bytes, str]:
        options = self.options
        image = images.opened(data, options.max_pixels)
        size = images.shown_size(image)
        if min(size) < options.min_side:
            raise _TooSmall
        scaled, wanted = target(options, size)
        came = images.format_of(image)
        form = options.format if options.format != "keep" else came or "png"
        extension = images.extension_of(form)
        if wanted == size and came == form and images.upright(image):
            image.load()  # is it whole?
            return data, extension
        # Pillow scales across first: for a moment it has the old height, of what is not cut off
        height = max(wanted[1], round(wanted[1] / scaled[1] * size[1]))
        if wanted[0] * height > options.max_pixels:
            raise Skip(f"{wanted[0]} × {height} is more than {options.max_pixels} pixels")
        least = (round(scaled[0] * GAP), round(scaled[1] * GAP)) if scaled[0] < size[0] else None
        return images.encoded(_cut(images.decoded(image, least), scaled, wanted), form, options.quality), extension


class _TooSmall(Exception):
    """The image is to be left out."""


def target(options: ResizeOptions, size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """What an image of this width and height is scaled to, and what is cut out of the middle of that.

    Raises Skip for an image that would have to be enlarged.
    """
    width, height = size
    to_width, to_height = options.box
    ratios = (None if to_width is None else to_width / width, None if to_height is None else to_height / height)
    given = [ratio for ratio in ratios if ratio is not None]
    if options.mode in ("cover", "exact"):
        assert to_width is not None and to_height is not None, "the options demand both"
        if max(given) > 1 and not options.upscale:
            raise Skip(f"{width} × {height} is smaller than {to_width} × {to_height}, and `upscale` is off")
        if options.mode == "exact":
            return (to_width, to_height), (to_width, to_height)
        scale = max(given)
        scaled = (max(to_width, round(width * scale)), max(to_height, round(height * scale)))
        return scaled, (to_width, to_height)
    side = {"shorter": min(size), "longer": max(size)}.get(options.mode)
    scale = min(given) if side is None else (options.size or 0) / side
    if scale > 1 and not options.upscale:
        return size, size
    scaled = (max(1, round(width * scale)), max(1, round(height * scale)))
    return scaled, scaled


def _cut(image: "Image", scaled: tuple[int, int], wanted: tuple[int, int]) -> "Image":
    """The image scaled, and the middle of it."""
    if scaled == wanted == image.size:
        return image
    width, height = image.size
    # of the image as it is now, which may have come scaled down already
    across, down = wanted[0] / scaled[0] * width, wanted[1] / scaled[1] * height
    left, top = (width - across) / 2, (height - down) / 2
    return image.resize(wanted, _BICUBIC, box=(left, top, left + across, top + down))


_BICUBIC = 3
"""Pillow's number for it, which must not be imported here."""
