"""Images and sounds in another format: all that the format can hold is kept, and the bytes are always the same."""

import sys
import time
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError
from support.pictures import file_of, gradient, heard, seen, sound_of, tones

from data_bridge.errors import ConfigError
from data_bridge.model.batch import DictRows, Media
from data_bridge.runtime.stage import StageBatch
from data_bridge.stages.reencode import Reencode, ReencodeOptions
from data_bridge.stages.registry import stage_class
from data_bridge.stages.sounds import with_serial, without_date


def run(values: list[Any], **options: Any) -> tuple[list[Any], dict[int, str]]:
    stage = Reencode(ReencodeOptions.model_validate({"field": "file", **options}))
    rows = DictRows([{"file": value} for value in values])
    result = stage.process(StageBatch(rows, np.arange(len(values), dtype=np.int64)))
    assert isinstance(result.rows, DictRows)
    return [row["file"] for row in result.rows.rows], {f.offset: f.reason for f in result.failures}


@pytest.mark.parametrize("form", ["jpeg", "png", "webp"])
@pytest.mark.parametrize("came", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_an_image_is_written_in_the_wanted_format(form: str, came: str) -> None:
    image = gradient(60, 40)
    (found,), failures = run([Media(file_of(image, came), "a.x")], format=form)
    assert failures == {}
    assert found.path == f"a.{'jpg' if form == 'jpeg' else form}"
    shown = seen(found.data)
    assert shown.format == form.upper()
    assert np.abs(np.asarray(shown.convert("RGB"), dtype=int) - np.asarray(image, dtype=int)).max() < 40


def test_png_keeps_every_pixel_and_what_is_transparent() -> None:
    image = gradient(60, 40, "RGBA")
    image.putalpha(77)
    (found,), _ = run([file_of(image, "WEBP", lossless=True)], format="png")
    assert np.array_equal(np.asarray(seen(found)), np.asarray(image))


def test_a_sound_that_claims_to_be_endless_is_not_unpacked() -> None:
    flac = bytearray(sound_of(tones(), "FLAC"))
    flac[21] |= 0x0F  # how many frames there are, in 36 bits
    flac[22:26] = b"\xff" * 4
    _, failures = run([bytes(flac)], format="wav")
    assert failures == {0: "more than 536870912 samples"}


def test_an_image_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    (found,), _ = run([file_of(gradient(60, 40), exif=exif)], format="png")
    assert seen(found).size == (40, 60)


def test_what_already_is_of_the_format_is_written_anew() -> None:
    data = file_of(gradient(60, 40), quality=100)
    (found,), _ = run([data], format="jpeg", quality=30)
    assert len(found) < len(data)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24"])
@pytest.mark.parametrize("form", ["flac", "wav"])
def test_a_lossless_format_keeps_every_sample(subtype: str, form: str) -> None:
    data = sound_of(tones(), subtype=subtype)
    (found,), failures = run([Media(data, "a/b.wav")], format=form)
    assert failures == {}
    assert found.path == f"a/b.{form}"
    assert np.array_equal(heard(found.data, "int32")[0], heard(data, "int32")[0])
    assert heard(found.data)[1] == 16_000


@pytest.mark.parametrize("subtype", ["PCM_32", "FLOAT"])
def test_wav_keeps_wide_samples_and_flac_all_that_fits_24_bits(subtype: str) -> None:
    data = sound_of(tones(), subtype=subtype)
    (wav,), _ = run([data], format="wav")
    assert np.array_equal(heard(wav)[0], heard(data)[0])
    (flac,), _ = run([data], format="flac")
    assert np.abs(heard(flac)[0] - heard(data)[0]).max() <= 2**-22


def test_vorbis_sounds_alike_and_quality_decides_its_size() -> None:
    frames = tones(3.0, 44_100)
    data = sound_of(frames, rate=44_100)
    (good,), _ = run([data], format="ogg")
    (bad,), _ = run([data], format="ogg", quality=1)
    assert len(bad) < len(good) < len(data) / 4
    found, rate = heard(good)
    assert rate == 44_100
    assert found.shape == frames.shape
    assert np.abs(found - frames).mean() < 0.01


def test_a_long_sound_becomes_vorbis_too() -> None:
    frames = tones(300.0, channels=1)
    (found,), failures = run([sound_of(frames)], format="ogg", quality=10)
    assert failures == {}
    assert heard(found)[0].shape == frames.shape


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_mono_is_the_mean_of_the_channels(subtype: str) -> None:
    frames = tones(channels=3)
    data = sound_of(frames, subtype=subtype)
    (found,), _ = run([data], format="wav", channels="mono")
    mean = heard(data)[0].mean(axis=1, keepdims=True)
    assert np.abs(heard(found)[0] - mean).max() <= 2**-15


def test_the_bytes_do_not_tell_when_they_were_written() -> None:
    ways = [("wav", "FLOAT"), ("wav", "PCM_16"), ("flac", "PCM_16"), ("ogg", "PCM_16")]

    def written() -> list[bytes]:
        return [run([sound_of(tones(0.2), subtype=subtype)], format=form)[0][0] for form, subtype in ways]

    first, began = written(), int(time.time())
    while int(time.time()) == began:  # libsndfile asks the system, which cannot be told another time
        again = written()
    again = written()
    assert again == first


def checksum(page: bytes) -> int:
    """Ogg's CRC of a page, bit by bit."""
    crc = 0
    for byte in page[:22] + bytes(4) + page[26:]:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ (0x04C11DB7 if crc & 1 << 31 else 0)) & 0xFFFF_FFFF
    return crc


def test_every_page_of_an_ogg_file_has_the_new_serial_and_a_right_checksum() -> None:
    ogg = with_serial(sound_of(tones(), "OGG", "VORBIS"), 0x01020304)
    at = pages = 0
    while at < len(ogg):
        segments = ogg[at + 26]
        page = ogg[at : at + 27 + segments + sum(ogg[at + 27 : at + 27 + segments])]
        assert page[14:18] == b"\x04\x03\x02\x01"
        assert int.from_bytes(page[22:26], "little") == checksum(page)
        at += len(page)
        pages += 1
    assert pages > 2


def test_a_wav_file_without_a_date_stays_as_it_is() -> None:
    for data in (sound_of(tones(0.1)), b"RIFF", b""):
        assert without_date(data) == data


def test_bad_files_are_failures_of_their_samples() -> None:
    sound, photo = sound_of(tones(), "FLAC"), file_of(gradient(60, 40))
    found, failures = run([sound, b"no sound", sound[:500], photo, None], format="wav")
    assert len(found) == 2
    assert found[1] is None
    assert failures.keys() == {1, 2, 3}
    assert all(failures[n].startswith(("not a sound", "the sound ends")) for n in failures)
    _, failures = run([photo, sound, photo[:300]], format="png")
    assert failures.keys() == {1, 2}
    assert failures[1] == "not an image"
    _, failures = run([sound_of(tones(channels=12))], format="flac")
    assert failures.keys() == {0}
    assert failures[0].startswith("no flac can hold it")


@pytest.mark.parametrize(
    "options", [{"format": "png", "quality": 5}, {"format": "jpeg", "channels": "mono"}, {"format": "mp3"}, {}]
)
def test_options_without_a_meaning_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ReencodeOptions.model_validate(options)


@pytest.mark.parametrize(("form", "module", "extra"), [("png", "PIL", "image"), ("flac", "soundfile", "audio")])
def test_the_plan_names_the_missing_extra(form: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = stage_class("reencode")(ReencodeOptions.model_validate({"format": form}))
    stage.check()
    assert stage.libraries()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError) as error:
        stage.check()
    assert f"train-data-bridge[{extra}]" in error.value.hint
