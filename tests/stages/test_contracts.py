"""Every built-in stage keeps the promises of all stages: here those that work on files and tokens."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.http_server import HttpServer
from support.pictures import file_of, gradient, sound_of, tones

from data_bridge.model.batch import Media, Row
from data_bridge.stages.registry import BUILT_IN
from data_bridge.testing import StageContract, run_stage

ROOT = Path(__file__).parents[2]
TOKENIZER = str(ROOT / "configs" / "data" / "tokenizer.json")
JPEG, PNG = file_of(gradient(40, 30)), file_of(gradient(20, 50), "PNG")
FILES: list[Row] = [
    {"image": Media(JPEG, "a.jpg"), "n": 1},
    {"image": PNG, "n": 2},
    {"image": Media(JPEG[:100], "b.jpg"), "n": 3},
    {"image": b"text", "n": 4},
]
TEXTS: list[Row] = [{"text": "It is a capital mistake"}, {"text": ""}, {"text": "to theorize before one has data."}]


class TestDedupe(StageContract):
    kind = "dedupe"
    options = {"fields": ["text"]}
    samples = [{"text": "a"}, {"text": None}, {"text": "a"}]
    refused = [{"fields": ["txt"]}, {"fields": ["text"], "near": "text"}, {"near": "text", "similarity": 2}]

    def test_the_first_of_equal_samples_is_kept(self) -> None:
        run = run_stage({"dedupe": {"fields": ["text"]}}, [{"text": text} for text in "abacb"], batch=2)

        assert run.origins["out"] == [0, 1, 3]


class TestDedupeOfNearlyEqualTexts(StageContract):
    kind = "dedupe"
    options = {"near": "text"}
    samples = [*TEXTS, {"text": 1}]


class TestResize(StageContract):
    kind = "resize"
    options = {"size": 16}
    samples = FILES
    refused = [{}, {"size": 0}, {"size": 16, "mode": "stretch"}, {"size": 16, "field": "picture"}]


class TestReencodeOfImages(StageContract):
    kind = "reencode"
    options = {"format": "webp", "quality": 70}
    samples = FILES
    refused = [{}, {"format": "bmp"}, {"format": "jpeg", "field": "picture"}]


class TestReencodeOfSounds(StageContract):
    kind = "reencode"
    options = {"field": "sound", "format": "ogg", "channels": "mono"}
    samples = [
        {"sound": Media(sound_of(tones(0.2)), "a.wav")},
        {"sound": b"RIFF"},
        {"sound": sound_of(tones(0.1), "FLAC")},
    ]


class TestTokenize(StageContract):
    kind = "tokenize"
    options = {"tokenizer": TOKENIZER}
    samples = TEXTS
    refused = [{}, {"tokenizer": "no/such/tokenizer.json"}, {"tokenizer": TOKENIZER, "field": "texts"}]


class TestTokenizeIntoBlocks(StageContract):
    kind = "tokenize"
    options = {"tokenizer": TOKENIZER, "block": 4, "tail": "drop"}
    samples = TEXTS


class TestFetch(StageContract):
    kind = "fetch"
    options = {"allow_private": True, "retries": 0}
    refused = [{"field": "uri"}, {"timeout_s": 0}, {"user_agent": "two\nlines"}]

    @pytest.fixture(autouse=True)
    def served(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        with HttpServer() as server:
            sites = [server.serve("/a.jpg", JPEG), server.serve("/b.txt", b"text")]
            urls = [*(site.url for site in sites), f"{server.origin}/missing", None]
            type(self).samples = [{"url": url} for url in urls]
            yield


def test_every_kind_is_held_to_the_contract() -> None:
    texts = [path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py")]
    held = {
        kind for text in texts for kind in re.findall(r'(?m)^class Test\w+\(StageContract\):\n    kind = "(\w+)"', text)
    }

    assert set(BUILT_IN) - held == set()
