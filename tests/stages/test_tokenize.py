"""Texts become the numbers that the tokenizer itself gives, and blocks hold them all, in order."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError
from support.fake_hub import session_hub
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from data_bridge.errors import BridgeError, ConfigError
from data_bridge.model.batch import ArrowRows, DictRows, LineRows, Rows
from data_bridge.model.source import Field
from data_bridge.rows.decoding import decode
from data_bridge.runtime.stage import Result, StageBatch
from data_bridge.stages.registry import stage_class
from data_bridge.stages.tokenize import Tokenize, TokenizeOptions
from data_bridge.testing import run_stage

ROOT = Path(__file__).parents[2]
BPE = ROOT / "configs" / "data" / "tokenizer.json"
TEXTS = [json.loads(line)["text"] for line in (ROOT / "configs" / "data" / "text.jsonl").read_text().splitlines()][:60]
ENDS = "<|endoftext|>"
FIELDS: dict[str, Any] = {"id": pa.int64(), "text": pa.string()}


def stage(**options: Any) -> Tokenize:
    made = Tokenize(TokenizeOptions.model_validate({"tokenizer": str(BPE), **options}))
    made.setup()
    return made


def reference(text: str) -> list[int]:
    found: list[int] = Tokenizer.from_file(str(BPE)).encode(text).ids
    return found


def lines(rows: list[dict[str, Any]]) -> LineRows:
    texts = [json.dumps(row).encode() for row in rows]
    ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
    return LineRows(b"".join(texts), ends - np.array([len(text) for text in texts], dtype=np.int64), ends)


def run(rows: Rows, **options: Any) -> Result:
    return stage(**options).process(StageBatch(rows, np.arange(len(rows), dtype=np.int64)))


def tokens(result: Result, field: str = "tokens") -> list[list[int]]:
    return [row[field].tolist() for row in decode(result.rows)[0]]


def forms(texts: list[Any]) -> list[Rows]:
    rows = [{"id": n, "text": text} for n, text in enumerate(texts)]
    table = pa.RecordBatch.from_pylist(rows, schema=pa.schema(FIELDS))
    return [DictRows(rows), lines(rows), ArrowRows(table)]


@pytest.mark.parametrize("dtype", ["int32", "uint16"])
@pytest.mark.parametrize("form", range(3))
def test_numbers_are_those_of_the_tokenizer_in_every_form_of_rows(form: int, dtype: str) -> None:
    result = run(forms(TEXTS)[form], dtype=dtype)

    rows, positions, failures = decode(result.rows)
    assert failures == ()
    assert [row["id"] for row in rows] == list(range(len(TEXTS)))
    assert [row["text"] for row in rows] == TEXTS
    assert all(row["tokens"].dtype == dtype for row in rows)
    assert tokens(result) == [reference(text) for text in TEXTS]
    assert positions.tolist() == result.positions.tolist()


def test_columns_stay_columns() -> None:
    result = run(forms(TEXTS)[2])
    assert isinstance(result.rows, ArrowRows)
    assert result.rows.batch.schema.names == ["id", "text", "tokens"]
    assert result.rows.batch.schema.field("tokens").type == pa.large_list(pa.int32())


@pytest.mark.parametrize("form", range(3))
def test_rows_without_a_text_are_failures_and_the_others_keep_their_places(form: int) -> None:
    result = run(forms(["a", None, "b", "", None])[form])
    assert result.positions.tolist() == [0, 2, 3]
    assert tokens(result) == [reference("a"), reference("b"), []]
    assert [(f.offset, f.reason) for f in result.failures] == [(n, "field 'text' is missing or null") for n in (1, 4)]


def test_a_value_that_is_no_text_is_a_failure() -> None:
    result = run(DictRows([{"text": 5}, {"text": "a"}, {}]))
    assert [f.reason for f in result.failures] == ["field 'text' is int, not text", "field 'text' is missing or null"]
    assert result.positions.tolist() == [1]


def test_long_texts_are_cut_and_a_token_may_stand_behind_each() -> None:
    end = reference(ENDS)[0]
    result = run(DictRows([{"text": text} for text in TEXTS]), max_length=10, append=ENDS)
    assert tokens(result) == [[*reference(text)[:10], end] for text in TEXTS]


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """A tokenizer of words that adds special tokens, cuts, pads and cannot say words it does not know."""
    vocabulary = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "a": 3, "b": 4}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 1), ("[SEP]", 2)])
    made.enable_truncation(3)
    made.enable_padding(pad_id=0, length=50)
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_what_the_file_says_of_cutting_and_padding_does_not_count_and_special_tokens_may_be_left_out(
    bert: Path,
) -> None:
    rows = DictRows([{"text": "a b a b a b"}, {"text": "a"}])
    assert tokens(run(rows, tokenizer=str(bert))) == [[1, 3, 4, 3, 4, 3, 4, 2], [1, 3, 2]]
    assert tokens(run(rows, tokenizer=str(bert), special_tokens=False)) == [[3, 4, 3, 4, 3, 4], [3]]
    assert tokens(run(rows, tokenizer=str(bert), max_length=4)) == [[1, 3, 4, 2], [1, 3, 2]]


def test_a_text_the_tokenizer_refuses_fails_alone(bert: Path) -> None:
    rows = DictRows([{"text": "a"}, {"text": "unknown"}, {"text": "b"}])
    result = run(rows, tokenizer=str(bert))
    assert result.positions.tolist() == [0, 2]
    assert tokens(result) == [[1, 3, 2], [1, 4, 2]]
    (failure,) = result.failures
    assert failure.offset == 1
    assert "UNK" in failure.reason


@pytest.mark.parametrize("tail", ["pad", "drop"])
@pytest.mark.parametrize("size", [1, 7, 128, 100_000])
def test_blocks_hold_every_token_in_order_and_the_tail_is_padded_or_dropped(size: int, tail: str) -> None:
    end, fill = reference(ENDS)[0], reference("<pad>")[0]
    wanted = [number for text in TEXTS for number in [*reference(text), end]]
    result = run(
        DictRows([{"id": n, "text": text} for n, text in enumerate(TEXTS)]), block=size, append=ENDS, tail=tail
    )

    rows = decode(result.rows)[0]
    assert all(row.keys() == {"tokens"} for row in rows)
    assert {len(row["tokens"]) for row in rows} <= {size}
    found = [number for row in tokens(result) for number in row]
    if tail == "drop":
        assert found == wanted[: len(wanted) // size * size]
    else:
        assert found == wanted + [fill] * (-len(wanted) % size)


@pytest.mark.parametrize("tail", ["pad", "drop"])
def test_samples_of_which_a_token_is_in_a_block_are_used(tail: str) -> None:
    texts = [*TEXTS[:6], "", "a"]
    lengths = [len(reference(text)) for text in texts]
    origin = [n for n, length in enumerate(lengths) for _ in range(length)]
    size = sum(lengths[:5]) // 2  # no more fits in twice, but for the tail
    kept = origin if tail == "pad" else origin[: len(origin) // size * size]

    result = run(DictRows([{"text": text} for text in texts]), block=size, tail=tail)

    assert result.used is not None
    assert result.used.tolist() == sorted(set(kept))
    assert len(set(kept)) > len(set(result.positions.tolist()))


def test_every_block_comes_from_the_sample_of_its_first_token() -> None:
    texts = ["", TEXTS[0], "", "a", TEXTS[1]]
    lengths = [len(reference(text)) for text in texts]
    origin = [n for n, length in enumerate(lengths) for _ in range(length)]
    result = run(DictRows([{"text": text} for text in texts]), block=5, tail="drop")
    assert result.positions.tolist() == origin[::5][: sum(lengths) // 5]


def test_blocks_of_no_text_are_none_and_bad_rows_are_left_out() -> None:
    assert len(run(DictRows([]), block=4).rows) == 0
    result = run(DictRows([{"text": ""}, {"text": None}]), block=4)
    assert len(result.rows) == 0
    assert [f.offset for f in result.failures] == [1]


def test_packing_sees_whole_blocks_of_the_source() -> None:
    assert stage(block=8, together=77).block == 77
    assert stage().block == 0
    assert stage(block=8).multiplies
    assert stage(block=8).drops
    assert not stage().multiplies
    assert not stage().drops


def test_padding_needs_a_token(tmp_path: Path) -> None:
    plain = tmp_path / "t.json"
    Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a")).save(str(plain))
    with pytest.raises(ConfigError, match="which token fills up"):
        stage(tokenizer=str(plain), block=4)
    stage(tokenizer=str(plain), block=4, tail="drop")
    result = run(DictRows([{"text": "b"}]), tokenizer=str(plain), block=3, pad_token="b")
    assert tokens(result) == [[1, 1, 1]]
    with pytest.raises(ConfigError, match="no token 'x'"):
        stage(tokenizer=str(plain), block=4, pad_token="x")


def test_numbers_that_do_not_fit_the_type_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "t.json"
    Tokenizer(models.WordLevel({"a": 65_536}, unk_token="a")).save(str(file))
    with pytest.raises(ConfigError, match="numbers up to 65536"):
        stage(tokenizer=str(file), dtype="uint16")
    assert tokens(run(DictRows([{"text": "a"}]), tokenizer=str(file))) == [[65_536]]


def test_fields_say_what_is_made() -> None:
    fields = (Field(name="id", type="int64"), Field(name="text", type="string"))
    made = Field(name="tokens", type="list<int32>", nullable=False)
    assert stage().fields(fields) == (*fields, made)
    assert stage(block=8).fields(fields) == (made,)
    assert stage(to="text", dtype="uint16").fields(fields)[1].type == "list<uint16>"
    with pytest.raises(ConfigError, match="'id' is int64, not string"):
        stage(field="id").fields(fields)


def test_a_plan_names_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    good = stage_class("tokenize")(TokenizeOptions(tokenizer=str(BPE.parent)))
    good.check()
    assert good.libraries().keys() == {"tokenizers", "tokenizer.json"}
    with pytest.raises(ConfigError, match="there is no file"):
        Tokenize(TokenizeOptions(tokenizer=str(tmp_path / "none.json"))).check()
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(ConfigError, match="is no tokenizer"):
        Tokenize(TokenizeOptions(tokenizer=str(tmp_path / "bad.json"))).check()
    with pytest.raises(ConfigError, match="no token 'END'"):
        Tokenize(TokenizeOptions(tokenizer=str(BPE), append="END")).check()
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ConfigError) as error:
        good.check()
    assert "train-data-bridge[text]" in error.value.hint


@pytest.mark.parametrize("options", [{"tail": "drop"}, {"together": 5}, {"pad_token": "x"}, {"block": 0}, {"max_length": 0}])  # fmt: skip
def test_options_without_a_meaning_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TokenizeOptions.model_validate({"tokenizer": "x", **options})


def test_a_tokenizer_of_the_hub_is_read_at_its_commit_and_then_without_the_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub = session_hub()
    monkeypatch.setattr(hub, "cdn", False)  # the real one is another host, which the library asks otherwise
    old = hub.push("org/tokens", {"tokenizer.json": BPE.read_bytes()})
    hub.push("org/tokens", {"tokenizer.json": b"another"})

    made = stage(tokenizer=f"hf://org/tokens@{old}")
    assert tokens(made.process(StageBatch(DictRows([{"text": TEXTS[0]}]), np.zeros(1, np.int64)))) == [
        reference(TEXTS[0])
    ]
    asked = len(hub.requests)
    stage(tokenizer=f"hf://org/tokens@{old}")
    assert len(hub.requests) == asked
    assert made.libraries() == stage().libraries()


@pytest.mark.parametrize("revision", ["", "@main"])
def test_a_branch_of_the_hub_is_refused_with_its_commit_of_today(revision: str) -> None:
    commit = session_hub().push("org/moving", {"tokenizer.json": BPE.read_bytes()})
    with pytest.raises(ConfigError, match="names no commit") as error:
        stage(tokenizer=f"hf://org/moving{revision}")
    assert f"hf://org/moving@{commit}" in error.value.hint


@pytest.mark.parametrize("uri", ["hf://org", "hf://datasets/a/b/c@x", f"hf://org/none@{'0' * 40}"])
def test_what_is_not_there_is_an_error_that_says_so(uri: str) -> None:
    with pytest.raises(BridgeError, match=r"no model of the Hub|does not exist|no such revision"):
        stage(tokenizer=uri)


@pytest.mark.parametrize("form", range(3))
@pytest.mark.parametrize("options", [{}, {"block": 2, "tail": "drop"}])
def test_its_report_has_the_number_of_tokens_of_each_text(form: int, options: dict[str, Any]) -> None:
    texts = ["one two three", "", "one"]
    found = run_stage(stage(**options), forms(texts)[form]).report

    assert found == [{"index": at, "tokens": len(reference(text))} for at, text in enumerate(texts)]
