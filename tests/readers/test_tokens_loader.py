"""LitData's `TokensLoader` on what `tokenize` and our writer make, and its writer against ours."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.litdata_readers import Reader
from tokenizers import Tokenizer

from data_bridge.api import run_pipeline
from data_bridge.config import Settings
from data_bridge.errors import ConfigError

ROOT = Path(__file__).parents[2]
DATA = ROOT / "configs" / "data"
BLOCK, TOGETHER = 64, 500


def settings(out: Path, **more: Any) -> Settings:
    stage: dict[str, Any] = {"tokenizer": str(DATA / "tokenizer.json"), "dtype": "uint16", "append": "<|endoftext|>"}
    stage |= {"block": BLOCK, "together": TOGETHER, **more.pop("tokenize", {})}
    pipeline: dict[str, Any] = {
        "name": "litdata",
        "input_uri": str(DATA / "text.jsonl"),
        "output_uri": str(out),
        "workers": 0,
    }
    pipeline |= {"samples_per_shard": 700, "litdata_layout": "tokens", "stages": [{"tokenize": stage}]}
    return Settings.model_validate({"pipeline": pipeline | more})


def expected() -> list[list[int]]:
    """Blocks as the options describe them."""
    tokenizer = Tokenizer.from_file(str(DATA / "tokenizer.json"))
    texts = [json.loads(line)["text"] for line in (DATA / "text.jsonl").read_text().splitlines()]
    end, fill = (tokenizer.token_to_id(token) or 0 for token in ("<|endoftext|>", "<pad>"))
    blocks: list[list[int]] = []
    for lo in range(0, len(texts), TOGETHER):
        numbers = [number for text in texts[lo : lo + TOGETHER] for number in [*tokenizer.encode(text).ids, end]]
        numbers += [fill] * (-len(numbers) % BLOCK)
        blocks += [numbers[at : at + BLOCK] for at in range(0, len(numbers), BLOCK)]
    return blocks


@pytest.mark.parametrize("by_index", [False, True])
def test_a_tokens_loader_reads_every_block_in_order(reader: Reader, tmp_path: Path, by_index: bool) -> None:
    report = run_pipeline(settings(tmp_path))
    blocks = expected()
    assert report.samples == len(blocks)
    assert report.shards > 2

    assert [each["items"] for each in reader.read(tmp_path, block_size=BLOCK, by_index=by_index)] == blocks
    half = [block[at : at + BLOCK // 2] for block in blocks for at in (0, BLOCK // 2)]
    assert [each["items"] for each in reader.read(tmp_path, block_size=BLOCK // 2)] == half


def test_chunks_are_those_of_litdata_s_own_writer(current: Reader, tmp_path: Path) -> None:
    run_pipeline(settings(tmp_path, samples_per_shard=100_000))
    theirs = current.ask("write_tokens", rows=expected(), dtype="uint16", chunk_bytes="1GB")
    (ours,) = json.loads((tmp_path / "index.json").read_text())["chunks"]
    (chunk,) = theirs["index"]["chunks"]

    assert (tmp_path / ours["filename"]).read_bytes() == base64.b64decode(theirs["chunks"][chunk["filename"]])
    assert {name: ours[name] for name in ("chunk_size", "dim")} == {name: chunk[name] for name in ("chunk_size", "dim")}
    config = json.loads((tmp_path / "index.json").read_text())["config"]
    for name in ("data_format", "data_spec", "item_loader"):
        assert config[name] == theirs["index"]["config"][name]


def test_texts_each_for_itself_are_arrays_beside_the_other_fields(reader: Reader, tmp_path: Path) -> None:
    options = {"block": None, "together": 1000}
    given = settings(tmp_path, litdata_layout="auto").model_dump(by_alias=True, exclude_unset=True)
    stage = given["pipeline"]["stages"][0]["options"]
    for name in options:
        stage.pop(name)
    run_pipeline(Settings.model_validate(given))

    found = reader.read(tmp_path)

    tokenizer = Tokenizer.from_file(str(DATA / "tokenizer.json"))
    rows = [json.loads(line) for line in (DATA / "text.jsonl").read_text().splitlines()]
    assert [row["text"] for row in found] == [row["text"] for row in rows]
    for row, source in zip(found[:50], rows, strict=False):
        assert row["tokens"]["ndarray"] == "uint16"
        assert row["tokens"]["items"] == [*tokenizer.encode(source["text"]).ids, tokenizer.token_to_id("<|endoftext|>")]


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"stages": []}, "holds one field, and samples have id, story, paragraph, text"),
        ({"compression": "zstd"}, "cannot be compressed"),
        ({"stages": [{"select": {"fields": ["text"]}}]}, "holds lists of numbers, and the field 'text'"),
    ],
)
def test_what_the_layout_cannot_hold_is_refused_when_planned(more: dict[str, Any], text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=text):
        run_pipeline(settings(tmp_path, **more))
    assert not np.any([path.suffix == ".bin" for path in tmp_path.rglob("*")])
