"""Row groups of several files read in any order: what that costs a server."""

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.http_server import HttpServer, Site, http_server

from data_bridge.config import Settings, SourceOptions
from data_bridge.io.sources import registry
from data_bridge.io.transport import Transport
from data_bridge.model.batch import ArrowRows
from data_bridge.model.source import FilePiece

__all__ = ["http_server"]
FILES = 3
GROUPS = 8
ROWS = 8


def write(path: Path, number: int) -> None:
    rows = GROUPS * ROWS
    chance = random.Random(number)
    table = pa.table(
        {
            "n": list(range(number * rows, (number + 1) * rows)),
            "bin": pa.array([chance.randbytes(128 << 10) for _ in range(rows)], pa.binary()),
        }
    )
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=ROWS, compression="none", use_dictionary=False)
    else:
        with pa.ipc.new_file(str(path), table.schema) as file:
            file.write_table(table, max_chunksize=ROWS)


def starts(site: Site) -> list[int]:
    return [int((wanted or "bytes=0-").removeprefix("bytes=").partition("-")[0]) for wanted in site.ranges]


@pytest.mark.parametrize("name", ["parquet", "arrow"])
def test_a_shuffled_partition_opens_each_remote_file_once_and_reads_its_bytes_about_once(
    http_server: HttpServer, tmp_path: Path, name: str
) -> None:
    sites = []
    for number in range(FILES):
        write(tmp_path / f"{number}.{name}", number)
        sites.append(http_server.serve(f"/{number}.{name}", (tmp_path / f"{number}.{name}").read_bytes()))
    transport = Transport(
        Settings.model_validate({"pipeline": {"input_uri": sites[0].url, "output_uri": str(tmp_path)}})
    )
    planned = registry.make(name, SourceOptions(), transport).prepare(  # type: ignore[attr-defined]
        transport.expand([site.url for site in sites])
    )
    pieces = [FilePiece(file, at * ROWS, (at + 1) * ROWS) for file in planned for at in range(GROUPS)]
    random.Random(5).shuffle(pieces)
    for site in sites:
        site.requests.clear()
        site.sent = 0

    found: list[int | None] = []
    for batch in registry.make(name, SourceOptions(), transport).read(pieces, None):
        assert isinstance(batch.rows, ArrowRows)
        found += batch.rows.batch.column("n").to_pylist()

    assert found == [
        planned.index(piece.file) * GROUPS * ROWS + row
        for piece in pieces
        for row in range(piece.start, piece.end or 0)
    ]
    for site in sites:
        end = len(site.content)
        footers = [start for start in starts(site) if start > end - (64 << 10) - 16]
        heads = [start for start in starts(site) if start == 0]
        assert (len(footers) if name == "parquet" else len(heads)) == 1
        assert site.sent < 1.5 * end
