"""`reencode`: images and sounds in another format."""

from collections.abc import Mapping
from typing import Literal, Self, get_args

from pydantic import model_validator

from data_bridge.config.fields import Count
from data_bridge.model.batch import Row
from data_bridge.runtime.stage import Fields, Result, Skip, Stage, StageBatch, StageOptions, option
from data_bridge.stages import images, sounds
from data_bridge.stages.columns import FILE_TYPES, demand


class ReencodeOptions(StageOptions):
    field: str = option("image", description="field with the file")
    format: images.Format | sounds.Format = option(
        description="image: `jpeg`, `png`, `webp`; sound: `flac`, `wav`, `ogg` (Vorbis)"
    )
    quality: Count | None = option(
        None, ge=1, le=100, description=f"of JPEG and WebP (default {images.QUALITY}) and of Vorbis (default 60)"
    )
    channels: Literal["keep", "mono"] = option("keep", description="sound: `mono` = the mean of all channels")
    max_pixels: Count = option(images.MAX_PIXELS, gt=0, description="a larger image is a failure")

    @model_validator(mode="after")
    def _of_one_kind(self) -> Self:
        if self.quality is not None and self.format in ("png", "flac", "wav"):
            raise ValueError(f"`quality` has no meaning for {self.format}, which loses nothing")
        if self.channels != "keep" and self.format in images.FORMATS:
            raise ValueError(f"`channels` has no meaning for {self.format}")
        return self


_VORBIS_QUALITY = 60


class Reencode(Stage[ReencodeOptions]):
    """The same image or sound as a file of another format, without metadata.

    An image stands upright; a sound keeps its sample rate. A file that already is of the format is written anew: only
    so do all have the quality that was asked for.
    """

    kind = "reencode"
    Options = ReencodeOptions

    @property
    def _visual(self) -> bool:
        return self.options.format in get_args(images.Format)

    def check(self) -> None:
        if self._visual:
            images.demand_pillow()
        else:
            sounds.demand_soundfile()

    def fields(self, fields: Fields) -> Fields:
        demand(fields, self.options.field, "field", FILE_TYPES)
        return fields

    def libraries(self) -> Mapping[str, str]:
        return images.versions() if self._visual else sounds.versions()

    def process(self, batch: StageBatch) -> Result:
        return batch.each(self._row)

    def _row(self, row: Row) -> Row:
        name = self.options.field
        if name not in row:
            raise Skip(f"there is no field {name!r}")
        return {**row, name: images.replaced(row[name], self._written)}

    def _written(self, data: bytes) -> tuple[bytes, str]:
        options = self.options
        form = options.format
        if form == "jpeg" or form == "png" or form == "webp":  # noqa: PLR1714 - mypy narrows this alone
            image = images.decoded(images.opened(data, options.max_pixels))
            return images.encoded(image, form, options.quality or images.QUALITY), images.extension_of(form)
        quality = options.quality or _VORBIS_QUALITY
        return sounds.transcoded(data, form, quality, mono=options.channels == "mono"), form
