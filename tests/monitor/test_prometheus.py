"""Prometheus itself takes what a run offers: its own text parser, its gateway, its server."""

import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import quote
from urllib.request import ProxyHandler, build_opener

import pytest
from support.corpus import write_jsonl

from data_bridge.api import run_pipeline
from data_bridge.clients.prometheus import Exposition
from data_bridge.config import MetricsSettings, Settings
from data_bridge.errors import ConfigError
from data_bridge.events import Event, Flushed, Notice, PartitionClaimed, RunPlanned, SamplesPacked, ShardCommitted
from data_bridge.model.metrics import Count, Load, MetricRecord, QueueUse, Statistics
from data_bridge.monitor.folder import latest
from data_bridge.monitor.session import Monitor

RUN = "0123456789abcdef"
WITHIN_S = 30.0
EVENTS: list[Event] = [
    RunPlanned(RUN, "file:///out", 2, 0, 100, 1000, 0, 0),
    PartitionClaimed(0, 0),
    SamplesPacked(0, 30, 300),
    Flushed(
        0,
        (
            MetricRecord(
                'odd "name"\\', "map", (Count("rows_in", 7), Load(busy_s=0.25), Statistics("pixels", 1, 9, 10, 2, 9))
            ),
            MetricRecord("fetch", "fetch", (QueueUse("output", 5, 4, 1, 0, 1.5, 3, 9, 4),)),
        ),
    ),
    ShardCommitted(0, "000000.tar", 30, 1, 4096),
]


def binary(name: str) -> str:
    """A program of Debian's `prometheus` and `prometheus-pushgateway`; the test is skipped where it is not installed."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed (apt-get install prometheus prometheus-pushgateway)")
    return path


def settings(**metrics: Any) -> Settings:
    return Settings.model_validate({"pipeline": {"input_uri": "x"}, "metrics": metrics})


def get(url: str) -> str:
    with build_opener(ProxyHandler({})).open(url, timeout=10) as answer:
        return str(answer.read().decode())


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def until(ready: Callable[[], Any]) -> Any:
    for _ in range(int(WITHIN_S / 0.05)):
        try:
            if found := ready():
                return found
        except (URLError, ConnectionError):
            pass
        threading.Event().wait(0.05)
    raise AssertionError("did not come about")


@contextmanager
def program(*command: str | Path) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(WITHIN_S)


@contextmanager
def monitored(tmp_path: Path, told: list[Event], **metrics: Any) -> Iterator[Monitor]:
    with Monitor(told.append, settings(**metrics), place=tmp_path.joinpath, pace_s=0.05, push_s=0.1) as monitor:
        yield monitor


def test_what_is_served_passes_prometheuses_own_check(tmp_path: Path) -> None:
    promtool = binary("promtool")
    told: list[Event] = []
    with monitored(tmp_path, told, listen=0) as monitor:
        for event in EVENTS:
            monitor(event)
        assert monitor.url is not None
        page = get(monitor.url)

    checked = subprocess.run([promtool, "check", "metrics"], input=page, text=True, capture_output=True, check=False)
    # opinions on names, not on the format, are no errors
    assert "error" not in checked.stderr, checked.stderr
    assert f'data_bridge_samples_committed_total{{run="{RUN}"}} 30.0' in page
    assert 'stage="odd \\"name\\"\\\\"' in page
    assert f"metrics at {monitor.url}" in [e.message for e in told if isinstance(e, Notice)]


def test_the_page_is_served_on_the_loopback_while_the_run_lasts(tmp_path: Path) -> None:
    with monitored(tmp_path, [], listen=f":{free_port()}") as monitor:
        assert monitor.url is not None
        assert monitor.url.startswith("http://127.0.0.1:")
        monitor(PartitionClaimed(0, 0))
        assert "data_bridge_run_seconds" in get(monitor.url)
    with pytest.raises(URLError):
        get(monitor.url)


def test_an_address_that_is_taken_is_refused_before_any_work(tmp_path: Path) -> None:
    with (
        monitored(tmp_path, [], listen=0) as monitor,
        pytest.raises(ConfigError, match=r"cannot listen on 127\.0\.0\.1"),
    ):
        assert monitor.url is not None
        with monitored(tmp_path, [], listen=int(monitor.url.split(":")[2].split("/")[0])):
            pass


@pytest.mark.parametrize(
    ("given", "host", "port"),
    [(9464, "127.0.0.1", 9464), (":9464", "127.0.0.1", 9464), ("0.0.0.0:80", "0.0.0.0", 80), ("[::1]:9", "::1", 9)],
)
def test_a_port_alone_means_the_loopback(given: object, host: str, port: int) -> None:
    assert MetricsSettings.model_validate({"listen": given}).address == (host, port)


@pytest.mark.parametrize("given", ["localhost", "localhost:x", "1:70000", True, 1.5, ""])
def test_what_is_no_address_is_refused(given: object) -> None:
    with pytest.raises(ValueError, match=r"is no address|number"):
        MetricsSettings.model_validate({"listen": given})


@pytest.mark.parametrize("given", ["localhost:9091", "ftp://host", "http://"])
def test_what_is_no_gateway_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match="pushgateway"):
        MetricsSettings.model_validate({"pushgateway_url": given})


def test_the_gateway_has_the_run_meanwhile_and_at_the_end(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    with program(binary("prometheus-pushgateway"), f"--web.listen-address={address}"):
        until(lambda: get(f"http://{address}/-/ready"))
        with monitored(tmp_path, [], pushgateway_url=f"http://{address}/") as monitor:
            for event in EVENTS:
                monitor(event)
            until(lambda: "data_bridge_samples_committed_total" in get(f"http://{address}/metrics"))
            monitor(ShardCommitted(0, "000001.tar", 12, 0, 1))
        (group,) = json.loads(get(f"http://{address}/api/v1/metrics"))["data"]

    assert group["labels"] == {"job": "data_bridge", "run": RUN}
    (sample,) = group["data_bridge_samples_committed_total"]["metrics"]
    assert sample["value"] == "42"


@contextmanager
def prometheus_of(tmp_path: Path, target: str) -> Iterator[Callable[[str], Any]]:
    """The real one, scraping that address; gives what answers a query."""
    server, address = binary("prometheus"), f"127.0.0.1:{free_port()}"
    config = tmp_path / "prometheus.yml"
    config.write_text(
        "scrape_configs:\n- job_name: data_bridge\n  scrape_interval: 1s\n"
        f"  static_configs:\n  - targets: ['{target}']\n"
    )
    with program(
        server,
        f"--config.file={config}",
        f"--storage.tsdb.path={tmp_path / 'tsdb'}",
        f"--web.listen-address={address}",
    ):
        until(lambda: get(f"http://{address}/-/ready"))
        yield lambda query: json.loads(get(f"http://{address}/api/v1/query?query=" + quote(query)))["data"]["result"]


def test_prometheus_scrapes_a_run(tmp_path: Path) -> None:
    with monitored(tmp_path, [], listen=0) as monitor:
        for event in EVENTS:
            monitor(event)
        assert monitor.url is not None
        target = monitor.url.removeprefix("http://").removesuffix("/metrics")
        with prometheus_of(tmp_path, target) as ask:
            found = until(lambda: ask('data_bridge_rows_in_total{type="map"}'))

    assert found[0]["metric"]["stage"] == 'odd "name"\\'
    assert found[0]["metric"]["run"] == RUN
    assert found[0]["value"][1] == "7"


@pytest.mark.parametrize("workers", [0, 2])
def test_prometheus_has_of_a_real_run_what_its_report_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    write_jsonl(tmp_path / "source.jsonl", 1000)
    port = free_port()
    pipeline = {
        "input_uri": str(tmp_path / "source.jsonl"),
        "output_uri": str(tmp_path / "out"),
        "samples_per_shard": 50,
        "on_error": "skip",
        "stages": [{"map": {"call": "support.stages:stamped"}, "name": "stamped"}],
    }
    configured = Settings.model_validate({"pipeline": pipeline, "metrics": {"listen": port}})
    scraped: dict[str, float] = {}
    recorded = 0

    with prometheus_of(tmp_path, f"127.0.0.1:{port}") as ask:

        def total(name: str) -> float:
            return sum(float(series["value"][1]) for series in ask(f"data_bridge_{name}_total"))

        def hold_at_the_last_shard(event: Event, /) -> None:
            """The run is held open, with nothing left to do, until it has been scraped."""
            nonlocal recorded
            if not isinstance(event, ShardCommitted):
                return
            recorded += event.samples + event.failed
            if recorded == 1000:
                until(lambda: total("samples_committed") + total("samples_failed") == 1000)
                names = ("samples_committed", "shards_committed", "bytes_committed", "samples_failed")
                scraped.update({name: total(name) for name in names})

        report = run_pipeline(configured, workers=workers, observer=hold_at_the_last_shard)

    assert report.samples + report.failed == 1000
    assert report.failed > 0
    assert scraped == {
        "samples_committed": report.samples,
        "shards_committed": report.shards,
        "bytes_committed": report.bytes,
        "samples_failed": report.failed,
    }


def test_a_gateway_that_is_not_there_is_told_once_and_stops_nothing(tmp_path: Path) -> None:
    told: list[Event] = []
    url = f"http://someone:hush-hush@127.0.0.1:{free_port()}"
    with monitored(tmp_path, told, pushgateway_url=url) as monitor:
        for event in EVENTS:
            monitor(event)

    (notice,) = [e.message for e in told if isinstance(e, Notice)]
    assert "metrics cannot be pushed" in notice
    assert "the run goes on" in notice
    assert "hush" not in notice
    assert [e for e in told if not isinstance(e, Notice)] == EVENTS


def test_name_and_password_of_a_gateway_are_sent_as_such(tmp_path: Path) -> None:
    seen: list[str | None] = []

    class Gateway(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            seen.append(self.headers["Authorization"])
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Gateway) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://me:p%40ss@127.0.0.1:{server.server_port}"
        with monitored(tmp_path, [], pushgateway_url=url) as monitor:
            monitor(EVENTS[0])
        server.shutdown()
        thread.join()

    assert set(seen) == {"Basic bWU6cEBzcw=="}


def test_a_run_is_seen_by_others_while_it_works_and_afterwards(tmp_path: Path) -> None:
    with monitored(tmp_path, []) as monitor:
        for event in EVENTS:
            monitor(event)
        seen = until(lambda: (s := latest(tmp_path / RUN)) and s.last and s)
        assert seen.state == "running"
        assert [slot.partition for slot in seen.slots] == [0]
    ended = latest(tmp_path / RUN)

    assert ended is not None
    assert (ended.state, ended.amount("run", "samples_committed")) == ("ended", 30)


def test_a_folder_that_cannot_be_written_is_told_and_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / RUN).write_text("a file is in the way")
    told: list[Event] = []
    with monitored(tmp_path, told) as monitor:
        for event in EVENTS:
            monitor(event)

    (notice,) = [e.message for e in told if isinstance(e, Notice)]
    assert "will not see this run" in notice
    assert [e for e in told if not isinstance(e, Notice)] == EVENTS


def test_workers_can_begin_as_copies_of_the_run_that_is_monitored(tmp_path: Path) -> None:
    before = threading.active_count()
    with monitored(tmp_path, [], listen=0, pushgateway_url="http://127.0.0.1:1") as monitor:
        monitor(EVENTS[0])
        planned = threading.active_count()
        monitor(EVENTS[1])
        working = threading.active_count()

    assert (planned, working - before) == (before, 3)
    assert threading.active_count() == before


@pytest.mark.parametrize("sent", [b"", b"GET /met", b"GET /metrics HTTP/1.1\r\nHost: a\r\n"])
def test_a_client_that_sends_no_whole_request_is_let_go_without_a_word(
    capfd: pytest.CaptureFixture[str], sent: bytes
) -> None:
    page = Exposition(list, patience_s=0.2).listen("127.0.0.1", 0)
    page.serve()
    port = int(page.url.split(":")[2].split("/")[0])

    with socket.create_connection(("127.0.0.1", port), timeout=30) as slow:
        slow.sendall(sent)
        assert slow.recv(1) == b""

    page.close()
    assert capfd.readouterr().err == ""
