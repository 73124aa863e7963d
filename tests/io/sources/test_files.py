from pathlib import Path

import pytest
from support.folders import PNG, Broken, local, read, remote, served
from support.memory_transport import MemoryTransport
from support.source_contract import Case, SourceContract, good, pieces_of, read_all, samples

from data_bridge.config import PipelineSettings, Settings, SourceOptions
from data_bridge.errors import SourceError
from data_bridge.io.sources.files import Files
from data_bridge.io.transport import Transport
from data_bridge.model.batch import Media, RowFailure
from data_bridge.model.source import FilePiece, SourceFile


class TestFilesContract(SourceContract):
    @pytest.fixture(params=["local", "remote"])
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> Case:
        contents = {f"{'ab'[n % 2]}/{n:04d}.png": PNG + b"%d" % n * (n * 17 % 3000) for n in range(1100)}
        contents |= {"b/0500.png": b"", "a/large.png": bytes(3_000_000)}
        contents = dict(sorted(contents.items()))
        if request.param == "local":
            reader, files = local(tmp_path, contents)
        else:
            reader, files = remote({f"s3://bucket/set/{name}": content for name, content in contents.items()})
        expected = [
            {"path": name, "image": Media(data, name), "label": name[0]} for name, data in contents.items() if data
        ]
        return Case(reader, files, expected, failures=1)

    @pytest.fixture
    def wrong(self, case: Case, tmp_path: Path) -> SourceFile:
        """Any bytes are a file; what cannot be read is one that is no longer there."""
        transport = case.format._transport  # type: ignore[attr-defined]
        if isinstance(transport, Broken):
            transport.broken = "s3://bucket/gone.png"
            return SourceFile(uri=transport.broken, size=48)
        gone = tmp_path / "gone.png"
        gone.write_bytes(PNG)
        file = Transport(Settings(pipeline=PipelineSettings(input_uri=str(gone)))).stat(str(gone))
        gone.unlink()
        return file


class TestReading:
    def test_an_empty_file_is_a_failure_in_its_place(self) -> None:
        reader, files = remote({"s3://b/a.png": PNG, "s3://b/b.png": b"", "s3://b/c.png": PNG})

        every = read(reader, files)

        assert [type(one) for one in every] == [dict, RowFailure, dict]
        assert every[1] == RowFailure(1, "empty file", "s3://b/b.png", b"")

    def test_a_file_that_vanished_since_the_plan_is_an_error_that_names_it(self, tmp_path: Path) -> None:
        reader, files = local(tmp_path, {"a.png": PNG, "b.png": PNG})
        (tmp_path / "b.png").unlink()

        with pytest.raises(SourceError, match=r"b\.png"):
            read(reader, files)

    @pytest.mark.parametrize("content", [PNG + b"more", PNG[:-1], b""], ids=["longer", "shorter", "empty"])
    def test_a_file_that_changed_since_the_plan_is_an_error_that_names_it(self, tmp_path: Path, content: bytes) -> None:
        reader, files = local(tmp_path, {"a.png": PNG, "b.png": PNG})
        (tmp_path / "b.png").write_bytes(content)

        with pytest.raises(SourceError, match=r"b\.png"):
            read(reader, files)

    def test_a_file_too_large_for_memory_is_an_error_before_it_is_read(self) -> None:
        reader, files = remote({"s3://b/a.png": bytes(5_000_000)})
        reader.max_file_bytes = 4_000_000

        with pytest.raises(SourceError, match=r"s3://b/a\.png has 5000000 bytes"):
            read(reader, files)
        assert served(reader) == 0

    def test_a_file_of_unstated_size_is_bounded_too(self) -> None:
        reader, files = remote({"s3://b/a.png": bytes(50_000_000)})
        reader.max_file_bytes = 4_000_000

        with pytest.raises(SourceError, match=r"s3://b/a\.png"):
            read(reader, [file.model_copy(update={"size": None}) for file in files])
        assert served(reader) < 8_000_000

    def test_remote_files_are_not_fetched_far_ahead_of_need(self) -> None:
        reader, files = remote({f"s3://b/{n:03d}.png": bytes(10_000_000) for n in range(20)})
        batches = reader.read(pieces_of(reader, files), None)

        next(batches)

        assert served(reader) <= 80_000_000
        batches.close()  # type: ignore[attr-defined]

    def test_the_error_of_a_remote_file_comes_after_the_samples_before_it(self) -> None:
        reader, files = remote({f"s3://b/{n:03d}.png": bytes(3_000_000) for n in range(9)})
        assert isinstance(reader._transport, Broken)
        reader._transport.broken = files[5].uri
        seen: list[str] = []

        with pytest.raises(SourceError, match=r"005\.png is gone"):
            for batch in reader.read(pieces_of(reader, files), None):
                seen += [row["path"] for row in good(samples(batch))]

        assert seen == [f"{n:03d}.png" for n in range(5)]

    def test_a_resume_reads_no_file_before_the_token(self) -> None:
        reader, files = remote({f"s3://b/{n:03d}.png": bytes(900_000) for n in range(10)})
        pieces = pieces_of(reader, files)
        last = list(reader.read(pieces, None))[-1]
        before = served(reader)

        rest = read_all(reader, pieces, last.start)

        assert [row["path"] for row in good(rest)] == ["009.png"]
        assert served(reader) - before == 900_000

    def test_the_probe_of_large_files_reads_little_and_still_knows_the_fields(self) -> None:
        reader, files = remote({f"s3://b/{n}.mp4": bytes(3_000_000 + n) for n in range(5)})
        huge = [files[0].model_copy(update={"size": 10_000_000_000})]

        probe, none = reader.probe(files), reader.probe(huge)

        assert [len(probe.rows), len(none.rows)] == [1, 0]
        assert probe.fields == none.fields
        assert probe.mean_sample_bytes == 3_000_002
        assert served(reader) == 3_000_000

    def test_unprepared_files_are_read_by_their_own_name(self) -> None:
        transport = MemoryTransport({"s3://b/x/a.wav": b"RIFF"})

        every = read_all(Files(SourceOptions(), transport), [FilePiece(transport.files()[0], 0, 1)])

        assert every == [{"path": "a.wav", "audio": Media(b"RIFF", "a.wav")}]
