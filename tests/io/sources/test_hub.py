"""Datasets of the Hub through the real `datasets` library and a Hub on loopback: pinned, complete, in order."""

import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.fake_hub import FakeHub, session_hub
from support.source_contract import Case, SourceContract, good, pieces_of, read_all

from data_bridge.clients import hub as client
from data_bridge.config import PipelineSettings, Settings, SourceOptions
from data_bridge.errors import BridgeError, ConfigError, RetryableError, SourceError
from data_bridge.io.sources import registry
from data_bridge.io.sources.base import Format
from data_bridge.io.sources.hub import Hub, resolve_source
from data_bridge.io.transport import Transport
from data_bridge.model.batch import Media, Row
from data_bridge.model.source import FilePiece, SourceFile
from data_bridge.utils.retry import Retry

SECRET = "hf_" + "s3cr3t" * 4


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    server = session_hub()
    yield server
    server.faults.clear()
    server.requests.clear()
    server.repos.clear()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    for name in ("READ_RETRY", "READ_SERVER_UNAVAILABLE_RETRY", "READ_RATE_LIMIT_RETRY", "OPEN_RETRY"):
        monkeypatch.setattr(datasets.config, f"STREAMING_{name}_INTERVAL", 0.01)
    monkeypatch.setattr(client, "_RETRY", Retry(tries=3, first_s=0.01))
    client._opened.cache_clear()


def picture(number: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (number % 256, 100, 0)).save(out, "PNG" if number % 2 else "JPEG")
    return out.getvalue()


def parquet(rows: list[Row], schema: pa.Schema | None = None, row_group_size: int = 20) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), out, row_group_size=row_group_size)
    return out.getvalue()


def json_lines(rows: list[Row]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def numbered(start: int, count: int) -> list[Row]:
    return [{"id": i, "text": f"row {i} ü"} for i in range(start, start + count)]


def opened(uri: str, **options: Any) -> tuple[str, Format, list[SourceFile]]:
    chosen = SourceOptions(**options)
    transport = Transport(Settings(pipeline=PipelineSettings(input_uri=uri, source_options=chosen)))
    name, files = resolve_source(uri, chosen, transport)
    return name, registry.make(name, chosen, transport), files


def rows_of(uri: str, **options: Any) -> tuple[str, list[Row]]:
    name, format_, files = opened(uri, **options)
    return name, good(read_all(format_, pieces_of(format_, files)))


def refusal(uri: str, **options: Any) -> BridgeError:
    with pytest.raises(BridgeError) as caught:
        opened(uri, **options)
    assert SECRET not in caught.value.message + caught.value.hint
    return caught.value


class TestStreamedParquet(SourceContract):
    """Every row group is a table of its own, so batches and states fall differently."""

    @pytest.fixture
    def case(self, hub: FakeHub) -> Case:
        files = {f"data/train-{i}.parquet": parquet(numbered(i * 900, 900), row_group_size=370) for i in range(3)}
        hub.push("org/streamed", files)
        _, format_, parts = opened("hf://org/streamed", streaming="always")
        return Case(format_, parts, numbered(0, 2700))

    @pytest.fixture
    def wrong(self) -> SourceFile:
        return SourceFile(uri="hf://datasets/org/other@abc/data.parquet")


class TestStreamedJson(SourceContract):
    @pytest.fixture
    def case(self, hub: FakeHub) -> Case:
        hub.push("org/array", {"train.json": json.dumps(numbered(0, 2345)).encode()})
        name, format_, parts = opened("hf://org/array")
        assert name == "huggingface"
        return Case(format_, parts, numbered(0, 2345))

    @pytest.fixture
    def wrong(self) -> SourceFile:
        return SourceFile(uri="hf://datasets/org/other@abc/data.json")


def test_parquet_files_are_read_at_the_commit_that_was_pinned_even_when_main_moves(hub: FakeHub) -> None:
    first = hub.push("org/moving", {"train.parquet": parquet(numbered(0, 50))})
    name, format_, files = opened("hf://org/moving")

    second = hub.push("org/moving", {"train.parquet": parquet(numbered(1000, 50))})
    hub.requests.clear()

    assert name == "parquet"
    assert first != second
    assert [f.uri for f in files] == [f"hf://datasets/org/moving@{first}/train.parquet"]
    assert good(read_all(format_, pieces_of(format_, files))) == numbered(0, 50)
    assert rows_of("hf://org/moving")[1] == numbered(1000, 50)
    assert rows_of(f"hf://org/moving@{first}")[1] == numbered(0, 50)


def test_streaming_stays_at_the_pinned_commit_too(hub: FakeHub) -> None:
    first = hub.push("org/moving2", {"train.parquet": parquet(numbered(0, 50))})
    _, format_, files = opened("hf://org/moving2", streaming="always")
    hub.push("org/moving2", {"train.parquet": parquet(numbered(1000, 50))})
    client._opened.cache_clear()
    hub.requests.clear()

    assert files[0].uri == f"hf://datasets/org/moving2@{first}#default/train/part-0-of-1"
    assert good(read_all(format_, pieces_of(format_, files))) == numbered(0, 50)
    assert not [request for request in hub.requests if "/main" in request]


def test_files_carry_size_and_hash_and_resume_at_every_batch(hub: FakeHub) -> None:
    content = {f"data/train-0000{i}.parquet": parquet(numbered(i * 40, 40)) for i in range(3)}
    hub.push("org/sizes", content)

    _, format_, files = opened("hf://org/sizes")
    pieces = pieces_of(format_, files)
    batches = list(format_.read(pieces, None))

    assert [f.size for f in files] == [len(c) for c in content.values()]
    assert all(f.sha256 and len(f.sha256) == 64 for f in files)
    done = 0
    for batch in batches:
        assert good(read_all(format_, pieces, batch.start)) == numbered(done, 120 - done)
        done += batch.count


@pytest.mark.parametrize("streaming", ["auto", "always"])
def test_images_come_as_the_bytes_that_were_stored(hub: FakeHub, streaming: str) -> None:
    from datasets import Features, Value
    from datasets import Image as ImageFeature

    schema = Features({"image": ImageFeature(), "id": Value("int64")}).arrow_schema
    rows = [{"image": {"bytes": picture(i), "path": f"{i}.png"}, "id": i} for i in range(150)]
    hub.push("org/images", {"data/train-0.parquet": parquet(rows, schema)})

    name, format_, files = opened("hf://org/images", streaming=streaming)
    probe = format_.probe(files)

    assert name == ("parquet" if streaming == "auto" else "huggingface")
    assert good(read_all(format_, pieces_of(format_, files))) == rows
    assert [(f.name, f.type) for f in probe.fields] == [("image", "media"), ("id", "int64")]
    assert probe.rows[7] == {"image": Media(picture(7), "7.png"), "id": 7}


def test_an_image_folder_gives_bytes_names_and_labels(hub: FakeHub) -> None:
    names = [f"train/{'cat' if i % 3 else 'dog'}/im{i:03d}.{'png' if i % 2 else 'jpg'}" for i in range(100)]
    hub.push("org/folder", {name: picture(i) for i, name in enumerate(names)})

    name, format_, files = opened("hf://org/folder")
    rows = good(read_all(format_, pieces_of(format_, files)))

    assert name == "huggingface"
    by_name = {Path(n).name: (picture(i), int("dog" in n)) for i, n in enumerate(names)}
    assert {r["image"]["path"]: (r["image"]["bytes"], r["label"]) for r in rows} == by_name
    assert len(rows) == 100
    pieces = pieces_of(format_, files)
    done = 0
    for batch in format_.read(pieces, None):
        assert good(read_all(format_, pieces, batch.start)) == rows[done:]
        done += batch.count


def test_a_dataset_cannot_make_us_open_a_local_file(hub: FakeHub, tmp_path: Path) -> None:
    from datasets import Features
    from datasets import Image as ImageFeature

    (tmp_path / "private").write_bytes(b"secret")
    schema = Features({"image": ImageFeature()}).arrow_schema
    paths = [str(tmp_path / "private"), f"file://{tmp_path}/private", "https://169.254.169.254/x"]
    hub.push("org/evil", {"t.parquet": parquet([{"image": {"bytes": None, "path": p}} for p in paths], schema)})

    _, rows = rows_of("hf://org/evil", streaming="always")

    assert [r["image"] for r in rows] == [{"bytes": None, "path": p} for p in paths]


def test_json_lines_are_read_by_our_own_reader(hub: FakeHub) -> None:
    rows = numbered(0, 300)
    hub.push("org/lines", {"train.jsonl.gz": gzip.compress(json_lines(rows)), "test.jsonl": json_lines(rows[:9])})

    assert rows_of("hf://org/lines", split="train") == ("jsonl", rows)
    assert rows_of("hf://org/lines", split="test") == ("jsonl", rows[:9])
    assert rows_of("hf://org/lines", split="test+train") == ("jsonl", rows[:9] + rows)
    assert rows_of("hf://org/lines", split="test+train", streaming="always") == ("huggingface", rows[:9] + rows)


def test_text_is_read_by_our_own_reader(hub: FakeHub) -> None:
    hub.push("org/text", {"train.txt": b"one\ntwo\n"})

    assert rows_of("hf://org/text") == ("text", [{"text": "one"}, {"text": "two"}])


def test_tars_are_read_by_our_own_reader(hub: FakeHub) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for i in range(6):
            for extension, content in (("jpg", picture(i * 2)), ("json", json.dumps({"n": i}).encode())):
                member = tarfile.TarInfo(f"{i:04d}.{extension}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    hub.push("org/tars", {"train-0.tar": out.getvalue()})

    name, rows = rows_of("hf://org/tars")

    assert name == "tar"
    assert [row["jpg"] for row in rows] == [picture(i * 2) for i in range(6)]


@pytest.mark.parametrize(
    ("file", "content", "card", "name"),
    [
        ("t.csv", b"id,text\n1,a\n2,b\n", "", "csv"),
        ("t.tsv", b"id\ttext\n1\ta\n2\tb\n", "", "tsv"),
        (
            "t.csv",
            b"id;text\n1;a\n",
            "configs:\n- config_name: default\n  data_files: t.csv\n  sep: ;\n",
            "huggingface",
        ),
        ("t.jsonl", b'{"a": 1}\n', "", "jsonl"),
        ("t.json", b'[{"a": 1}]', "", "huggingface"),
        ("t.json", b'{\n  "a": 1\n}\n', "", "huggingface"),
        (
            "t.jsonl",
            b'{"label": "cat"}\n',
            "dataset_info:\n  features:\n  - name: label\n    dtype:\n      class_label:\n        names:\n          '0': cat\n",
            "huggingface",
        ),
    ],
)
def test_our_reader_is_chosen_only_where_it_gives_the_same_samples(
    hub: FakeHub, file: str, content: bytes, card: str, name: str
) -> None:
    hub.push("org/choice", {file: content, **({"README.md": f"---\n{card}---\n".encode()} if card else {})})
    options = SourceOptions()
    transport = Transport(Settings(pipeline=PipelineSettings(input_uri="hf://org/choice")))

    assert resolve_source("hf://org/choice", options, transport)[0] == name


def test_what_datasets_makes_of_a_card_is_what_comes_out(hub: FakeHub) -> None:
    card = "---\nconfigs:\n- config_name: default\n  data_files: t.csv\n  sep: ;\n---\n"
    hub.push("org/semicolon", {"t.csv": b"id;text\n1;a\n2;b,c\n", "README.md": card.encode()})

    assert rows_of("hf://org/semicolon")[1] == [{"id": 1, "text": "a"}, {"id": 2, "text": "b,c"}]


def test_configurations_are_chosen_by_name_and_listed_when_they_are_not(hub: FakeHub) -> None:
    card = (
        "---\nconfigs:\n- config_name: en\n  data_files: en.parquet\n- config_name: fr\n"
        "  data_files:\n  - split: train\n    path: fr-a.parquet\n  - split: dev\n    path: fr-b.parquet\n---\n"
    )
    hub.push(
        "org/langs",
        {
            "README.md": card.encode(),
            "en.parquet": parquet(numbered(0, 3)),
            "fr-a.parquet": parquet(numbered(10, 3)),
            "fr-b.parquet": parquet(numbered(20, 3)),
        },
    )

    assert rows_of("hf://org/langs", config="en")[1] == numbered(0, 3)
    assert rows_of("hf://org/langs", config="fr", split="dev")[1] == numbered(20, 3)
    for error in (refusal("hf://org/langs"), refusal("hf://org/langs", config="de")):
        assert isinstance(error, ConfigError)
        assert "en, fr" in error.hint
    for error in (refusal("hf://org/langs", config="fr"), refusal("hf://org/langs", config="fr", split="test")):
        assert isinstance(error, ConfigError)
        assert "train, dev" in error.hint


def test_a_slice_of_a_split_is_refused_with_the_way_out(hub: FakeHub) -> None:
    hub.push("org/slice", {"train.parquet": parquet(numbered(0, 3))})

    error = refusal("hf://org/slice", split="train[:10]")

    assert isinstance(error, ConfigError)
    assert "pipeline.limit" in error.hint


def test_missing_datasets_and_revisions_are_config_errors(hub: FakeHub) -> None:
    hub.push("org/here", {"train.parquet": parquet(numbered(0, 3))})

    missing, revision = refusal("hf://org/nowhere"), refusal("hf://org/here@v9")

    assert isinstance(missing, ConfigError)
    assert "org/nowhere" in missing.message
    assert isinstance(revision, ConfigError)
    assert "v9" in revision.message


def test_a_dataset_without_data_files_is_a_config_error(hub: FakeHub) -> None:
    hub.push("org/bare", {"README.md": b"# nothing here\n"})

    assert isinstance(refusal("hf://org/bare"), ConfigError)


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("token", [None, SECRET + "-wrong"])
def test_gated_and_private_datasets_say_so_without_the_token(hub: FakeHub, gated: bool, token: str | None) -> None:
    hub.push("org/closed", {"t.parquet": parquet(numbered(0, 3))}, tokens=frozenset({SECRET}), gated=gated)

    error = refusal("hf://org/closed", load_kwargs={"token": token} if token else {})

    assert isinstance(error, ConfigError)
    assert "HF_TOKEN" in error.hint
    assert ("gated" in error.message) == gated


@pytest.mark.parametrize("streaming", ["auto", "always"])
def test_a_token_opens_a_gated_dataset(hub: FakeHub, streaming: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.push("org/gated", {"t.parquet": parquet(numbered(0, 30))}, tokens=frozenset({SECRET}), gated=True)

    given = rows_of("hf://org/gated", streaming=streaming, load_kwargs={"token": SECRET})[1]
    monkeypatch.setenv("HF_TOKEN", SECRET)
    logged_in = rows_of("hf://org/gated", streaming=streaming)[1]

    assert given == logged_in == numbered(0, 30)


def test_no_token_is_written_into_the_files_of_the_plan(hub: FakeHub) -> None:
    hub.push("org/gated2", {"t.parquet": parquet(numbered(0, 30))}, tokens=frozenset({SECRET}))

    for streaming in ("auto", "always"):
        _, _, files = opened("hf://org/gated2", streaming=streaming, load_kwargs={"token": SECRET})
        assert SECRET not in "".join(f.model_dump_json() for f in files)


@pytest.mark.parametrize("streaming", ["auto", "always"])
@pytest.mark.parametrize("kind", ["503", "429", "cut"])
def test_a_passing_fault_costs_no_sample(hub: FakeHub, kind: str, streaming: str) -> None:
    hub.push("org/faulty", {"train.parquet": parquet(numbered(0, 2000), row_group_size=500)})
    _, format_, files = opened("hf://org/faulty", streaming=streaming)
    client._opened.cache_clear()
    hub.fault("/cdn/" if kind == "cut" else r"train\.parquet|/cdn/", kind, times=2)

    assert good(read_all(format_, [FilePiece(f) for f in files])) == numbered(0, 2000)
    assert hub.faults[0].times == 0


def test_a_hub_that_stays_down_is_worth_another_try_later(hub: FakeHub) -> None:
    hub.push("org/down", {"train.parquet": parquet(numbered(0, 3))})
    hub.fault("/api/datasets/org/down", "503", times=100)

    error = refusal("hf://org/down")

    assert isinstance(error, RetryableError)
    assert hub.faults[0].times == 97


def test_a_renamed_dataset_is_read_under_its_new_name(hub: FakeHub) -> None:
    sha = hub.push("org/new-name", {"train.parquet": parquet(numbered(0, 3))})
    hub.push("old-name", {"train.parquet": parquet(numbered(0, 3))}, aka="org/new-name", refs={"main": sha})
    hub.repos["old-name"].commits[sha] = hub.repos["org/new-name"].commits[sha]
    hub.repos["old-name"].refs["main"] = sha

    _, _, files = opened("hf://old-name")

    assert files[0].uri == f"hf://datasets/org/new-name@{sha}/train.parquet"


def test_data_that_does_not_fit_is_an_error_that_names_the_part(hub: FakeHub) -> None:
    hub.push("org/drift", {"a.parquet": parquet(numbered(0, 3)), "b.parquet": parquet([{"id": "x", "other": 1}])})

    own = refusal("hf://org/drift")
    _, format_, files = opened("hf://org/drift", streaming="always")
    with pytest.raises(SourceError, match="shard 1 of 2"):
        read_all(format_, pieces_of(format_, files))

    assert isinstance(own, SourceError)
    assert "b.parquet" in own.message


def test_a_folder_of_that_name_beside_us_is_not_taken_for_the_dataset(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.push("org/local", {"train.jsonl": json_lines(numbered(0, 3))})
    (tmp_path / "org/local").mkdir(parents=True)
    (tmp_path / "org/local/train.jsonl").write_bytes(json_lines(numbered(100, 3)))
    monkeypatch.chdir(tmp_path)

    assert rows_of("hf://datasets/org/local")[1] == numbered(0, 3)
    assert rows_of("hf://org/local", streaming="always")[1] == numbered(0, 3)


def test_a_split_of_very_many_shards_is_read_in_fewer_parts(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_bridge.io.sources.hub.MOST_PARTS", 3)
    content = {f"train-{i}.parquet": parquet(numbered(i * 5, 5)) for i in range(7)}
    hub.push("org/many", content)

    _, format_, files = opened("hf://org/many", streaming="always")
    sizes = [len(c) for c in content.values()]

    assert [f.extra["bytes"] for f in files] == [sum(sizes[:3]), sum(sizes[3:5]), sum(sizes[5:])]
    assert good(read_all(format_, pieces_of(format_, files))) == numbered(0, 35)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"trust_remote_code": True}, "trust_remote_code"),
        ({"split": "train"}, "source_options.split"),
        ({"name": "x"}, "source_options.config"),
        ({"no_such_option": 1}, "no_such_option"),
        ({"features": object()}, "plain values"),
    ],
)
def test_arguments_with_a_place_of_their_own_or_none_are_refused(
    hub: FakeHub, kwargs: dict[str, Any], words: str
) -> None:
    hub.push("org/kwargs", {"train.parquet": parquet(numbered(0, 3))})

    error = refusal("hf://org/kwargs", load_kwargs=kwargs)

    assert isinstance(error, ConfigError)
    assert words in error.message + error.hint


def test_data_files_are_passed_on(hub: FakeHub) -> None:
    hub.push("org/pick", {"a.parquet": parquet(numbered(0, 3)), "b.parquet": parquet(numbered(10, 3))})

    assert rows_of("hf://org/pick", load_kwargs={"data_files": "b.parquet"})[1] == numbered(10, 3)


def test_columns_are_chosen_in_both_ways_of_reading(hub: FakeHub) -> None:
    hub.push("org/cols", {"a.parquet": parquet(numbered(0, 3))})

    for streaming in ("auto", "always"):
        assert rows_of("hf://org/cols", streaming=streaming, columns=("id",))[1] == [{"id": i} for i in range(3)]


@pytest.mark.parametrize("uri", ["hf://", "hf://models/org/name", "hf://a/b/c"])
def test_uris_that_name_no_dataset_are_refused(uri: str) -> None:
    with pytest.raises(ConfigError, match="no dataset"):
        client.parse(uri, None)


def test_two_different_revisions_are_refused() -> None:
    assert client.parse("hf://datasets/a/b@refs%2Fpr%2F1", None) == ("a/b", "refs/pr/1")
    with pytest.raises(ConfigError, match="v1"):
        client.parse("hf://a/b@v1", "v2")


def test_the_stream_is_made_once_for_all_parts(hub: FakeHub) -> None:
    hub.push("org/once", {f"train-{i}.parquet": parquet(numbered(i, 1)) for i in range(4)})
    _, format_, files = opened("hf://org/once", streaming="always")
    assert isinstance(format_, Hub)
    hub.requests.clear()

    read_all(format_, pieces_of(format_, files))

    assert not [r for r in hub.requests if "README" in r]


def test_an_unreachable_hub_is_worth_another_try_later(tmp_path: Path) -> None:
    script = (
        "from data_bridge.clients import hub\n"
        "from data_bridge.errors import RetryableError\n"
        "from data_bridge.utils.retry import Retry\n"
        "hub._RETRY = Retry(tries=2, first_s=0.01)\n"
        "try:\n"
        "    hub.resolve('hf://a/b', config=None, split=None, revision=None, kwargs={}, token=None)\n"
        "except RetryableError as error:\n"
        "    print('later:', error)\n"
    )
    env = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}

    done = subprocess.run(
        [sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=60, check=True
    )

    assert done.stdout.startswith("later: hf://a/b: the Hub cannot be reached")
