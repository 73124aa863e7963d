"""Images come out in the size that was asked for, the way they are seen, or are failures with a reason."""

import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from pydantic import ValidationError
from support.pictures import file_of, gradient, seen

from data_bridge.errors import ConfigError
from data_bridge.model.batch import DictRows, Media
from data_bridge.model.source import Field
from data_bridge.runtime.stage import StageBatch
from data_bridge.stages.images import renamed
from data_bridge.stages.registry import stage_class
from data_bridge.stages.resize import Resize, ResizeOptions

Picture = Image.Image


def run(values: list[Any], **options: Any) -> tuple[list[Any], list[int], dict[int, str]]:
    """What became of each image, the rows they came from, and the reasons of failures."""
    stage = Resize(ResizeOptions.model_validate(options))
    batch = StageBatch(
        DictRows([{"id": n, "image": value} for n, value in enumerate(values)]), np.arange(len(values), dtype=np.int64)
    )
    result = stage.process(batch)
    assert isinstance(result.rows, DictRows)
    assert [row["id"] for row in result.rows.rows] == result.positions.tolist()
    failures = {failure.offset: failure.reason for failure in result.failures}
    return [row["image"] for row in result.rows.rows], result.positions.tolist(), failures


def one(data: bytes, **options: Any) -> Picture:
    (found,), _, failures = run([data], **options)
    assert not failures
    return seen(found)


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"size": 50}, (50, 25)),
        ({"width": 50}, (50, 25)),
        ({"height": 50}, (100, 50)),
        ({"width": 50, "height": 10}, (20, 10)),
        ({"size": 50, "mode": "cover"}, (50, 50)),
        ({"width": 10, "height": 60, "mode": "cover"}, (10, 60)),
        ({"width": 33, "height": 77, "mode": "exact"}, (33, 77)),
        ({"size": 50, "mode": "shorter"}, (100, 50)),
        ({"size": 50, "mode": "longer"}, (50, 25)),
        ({"size": 1, "mode": "longer"}, (1, 1)),
        ({"size": 300}, (200, 100)),
        ({"size": 300, "upscale": True}, (300, 150)),
        ({"size": 300, "mode": "shorter"}, (200, 100)),
        ({"size": 300, "mode": "shorter", "upscale": True}, (600, 300)),
        ({"size": 300, "mode": "cover", "upscale": True}, (300, 300)),
        ({"size": 300, "mode": "exact", "upscale": True}, (300, 300)),
    ],
)
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_every_mode_gives_its_size(options: dict[str, Any], size: tuple[int, int], form: str) -> None:
    found = one(file_of(gradient(200, 100), form), **options)
    assert found.size == size
    assert found.format == form


def test_cover_keeps_the_middle_and_the_shape() -> None:
    found = np.asarray(one(file_of(gradient(400, 100), "PNG"), size=50, mode="cover").convert("RGB"), dtype=int)
    assert abs(found[25, 0, 0] - 255 * 150 / 400) < 4
    assert abs(found[25, 49, 0] - 255 * 250 / 400) < 4
    assert abs(found[0, 25, 1] - 2) < 4
    assert abs(found[49, 25, 1] - 253) < 4


@pytest.mark.parametrize("size", [(1600, 1200), (1601, 1203), (3000, 401)])
@pytest.mark.parametrize("options", [{"size": 96}, {"size": 96, "mode": "cover"}, {"size": 96, "mode": "exact"}])
def test_a_jpeg_decoded_at_a_fraction_looks_as_if_it_had_been_decoded_whole(
    size: tuple[int, int], options: dict[str, Any]
) -> None:
    image = gradient(*size)
    quick = one(file_of(image, quality=95), format="png", **options)
    whole = one(file_of(image, "PNG"), format="png", **options)
    assert quick.size == whole.size
    assert np.abs(np.asarray(quick, dtype=int) - np.asarray(whole, dtype=int)).max() <= 6


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("options", [{"size": 40}, {"width": 30, "height": 40, "mode": "cover"}])
def test_images_stand_the_way_they_are_to_be_seen(orientation: int, options: dict[str, Any]) -> None:
    stored = gradient(400, 200)
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = ImageOps.exif_transpose(seen(file_of(stored, "PNG", exif=exif)))
    assert upright is not None

    found = one(file_of(stored, quality=95, exif=exif), format="png", **options)
    wanted = one(file_of(upright, "PNG"), format="png", **options)

    assert found.size == wanted.size
    assert np.abs(np.asarray(found, dtype=int) - np.asarray(wanted, dtype=int)).max() <= 8


def test_an_image_that_is_as_wanted_keeps_its_bytes() -> None:
    data = file_of(gradient(40, 30), quality=33, comment=b"kept")
    media = Media(data, "a/b.JPEG")
    found, _, _ = run([media, data], size=40)
    assert found == [media, data]
    (other,), _, _ = run([media], size=40, format="webp")
    assert other.path == "a/b.webp"


def test_metadata_are_left_out() -> None:
    exif = Image.Exif()
    exif[0x010E] = "where I live"
    for form in ("JPEG", "PNG", "WEBP"):
        data = file_of(gradient(40, 30), form, exif=exif, icc_profile=b"x" * 200)
        (found,), _, _ = run([data], size=20)
        assert b"where I live" in data
        assert b"where I live" not in found
        assert "icc_profile" not in seen(found).info


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
@pytest.mark.parametrize("form", ["jpeg", "png", "webp"])
def test_every_kind_of_pixels_can_be_written(mode: str, form: str) -> None:
    if mode in ("I", "F", "I;16"):
        image = Image.fromarray((np.arange(60 * 40).reshape(40, 60) * 20).astype(np.uint16))
        image = image if mode == "I;16" else image.convert(mode)
    else:
        image = gradient(60, 40, mode)
    found = one(file_of(image, "TIFF"), size=30, format=form)
    assert found.size == (30, 20)
    assert found.format == form.upper()


def test_what_is_transparent_stands_on_white_in_a_jpeg() -> None:
    image = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    found = one(file_of(image, "PNG"), size=20, format="jpeg")
    assert found.mode == "RGB"
    assert np.asarray(found).min() >= 250
    palette = Image.new("P", (40, 40), 3)
    palette.putpalette([n for n in range(256) for _ in range(3)])
    found = one(file_of(palette, "PNG", transparency=3), size=20, format="jpeg")
    assert np.asarray(found).min() >= 250


def test_sixteen_bits_stay_sixteen_in_png_and_become_eight_elsewhere() -> None:
    image = Image.fromarray(np.full((40, 40), 40_000, np.uint16))
    assert np.asarray(one(file_of(image, "PNG"), size=20)).tolist() == [[40_000] * 20] * 20
    assert abs(int(np.asarray(one(file_of(image, "PNG"), size=20, format="jpeg"))[5, 5]) - 40_000 // 256) <= 1


def test_other_kinds_of_file_become_png() -> None:
    for form in ("GIF", "BMP", "TIFF"):
        (found,), _, _ = run([Media(file_of(gradient(40, 30), form), f"x.{form.lower()}")], size=100)
        assert found.path == "x.png"
        assert seen(found.data).format == "PNG"


def test_bad_images_are_failures_of_their_samples() -> None:
    photo = file_of(gradient(200, 100))
    values = [photo, b"no image", photo[:-500], b"", "text", None, file_of(gradient(20, 300), "PNG")]
    found, rows, failures = run(values, size=50, mode="cover")
    assert rows == [0, 5]
    assert found[1] is None
    assert failures.keys() == {1, 2, 3, 4, 6}
    assert failures[1] == failures[3] == "not an image"
    assert "truncated" in failures[2]
    assert failures[4] == "str is no file"
    assert failures[6] == "20 × 300 is smaller than 50 × 50, and `upscale` is off"
    _, rows, failures = run([photo, photo[:-500]], size=200)
    assert rows == [0]
    assert "truncated" in failures[1]


def test_a_row_without_the_field_is_a_failure() -> None:
    _, _, failures = run([b""], size=50, field="photo")
    assert failures == {0: "there is no field 'photo'"}


def test_a_decompression_bomb_is_not_unpacked() -> None:
    small = file_of(Image.new("1", (20_000, 20_000)), "PNG")
    medium = file_of(gradient(100, 100))
    _, _, failures = run([small, medium], size=50, max_pixels=9_999)
    assert failures == {0: "more than 9999 pixels", 1: "100 × 100 is more than 9999 pixels"}


def test_no_image_grows_beyond_what_it_may_be() -> None:
    line = file_of(Image.new("L", (1, 60_000)), "PNG")
    for options in ({"mode": "shorter", "size": 512}, {"mode": "exact", "width": 20_000, "height": 10}):
        _, _, failures = run([line], upscale=True, **options)
        assert "is more than 89478485 pixels" in failures[0]
    assert one(line, size=512, mode="cover", upscale=True).size == (512, 512)


def test_images_with_a_short_side_are_dropped() -> None:
    values = [file_of(gradient(*size)) for size in ((100, 50), (49, 200), (50, 50))]
    _, rows, failures = run(values, size=32, min_side=50)
    assert rows == [0, 2]
    assert failures == {}
    assert Resize(ResizeOptions(size=1, min_side=50)).drops
    assert not Resize(ResizeOptions(size=1)).drops


def test_the_same_image_gives_the_same_bytes() -> None:
    for form in ("jpeg", "png", "webp"):
        data = file_of(gradient(300, 200))
        first, _, _ = run([data, data], size=64, format=form)
        again, _, _ = run([data], size=64, format=form)
        assert {*first, *again} == {first[0]}


def test_quality_decides_the_size() -> None:
    noise = file_of(Image.fromarray(np.random.default_rng(1).integers(0, 255, (200, 200, 3), dtype=np.uint8)), "PNG")
    for form in ("jpeg", "webp"):
        (good,), _, _ = run([noise], size=100, format=form)
        (bad,), _, _ = run([noise], size=100, format=form, quality=20)
        assert len(bad) < len(good) / 2


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "give `size`, `width` or `height`"),
        ({"size": 1, "width": 2}, "excludes"),
        ({"width": 5, "mode": "cover"}, "needs `size`, or"),
        ({"width": 5, "mode": "shorter"}, "`mode: shorter` needs `size`"),
        ({"size": 0}, "greater than 0"),
        ({"size": 5, "quality": 101}, "less than or equal to 100"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        ResizeOptions.model_validate(options)


def test_the_plan_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = stage_class("resize")(ResizeOptions(size=5))
    stage.check()
    fields = (Field(name="image", type="media"), Field(name="n", type="int64"))
    assert stage.fields(fields) == fields
    assert {"pillow", "libjpeg_turbo", "webp"} <= stage.libraries().keys()
    with pytest.raises(ConfigError, match="field 'n' is int64, not media"):
        Resize(ResizeOptions(size=5, field="n")).fields(fields)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ConfigError, match="Pillow") as error:
        stage.check()
    assert "train-data-bridge[image]" in error.value.hint


@pytest.mark.parametrize(
    ("path", "extension", "wanted"),
    [
        ("", "jpg", ""),
        ("a/b.png", "jpg", "a/b.jpg"),
        ("a/b.JPEG", "jpg", "a/b.JPEG"),
        ("a.b/c", "png", "a.b/c.png"),
        (".png", "jpg", ".png.jpg"),
        ("a/", "jpg", "a/"),
    ],
)
def test_paths_get_the_extension_of_what_is_written(path: str, extension: str, wanted: str) -> None:
    assert renamed(path, extension) == wanted
