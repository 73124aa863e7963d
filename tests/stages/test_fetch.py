"""Files behind URLs, fetched for many rows at once: what is not the wanted file is a failure with its reason."""

import hashlib
import io
import threading
from collections.abc import Iterator
from http.client import HTTPMessage
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.http_server import HttpServer

from data_bridge.errors import ConfigError, Interrupted
from data_bridge.model.batch import DictRows, Media
from data_bridge.model.source import Field
from data_bridge.runtime.stage import Result, Skip, StageBatch
from data_bridge.runtime.threaded import Threaded
from data_bridge.stages.fetch import DISALLOWING, Fetch, FetchOptions, _name, disallowed
from data_bridge.stages.registry import stage_class

LIMIT_S = 20.0


def picture(kind: str = "JPEG", colour: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (colour, 100, 200)).save(file, kind)
    return file.getvalue()


PHOTO = picture()


@pytest.fixture
def server() -> Iterator[HttpServer]:
    with HttpServer() as server:
        yield server


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def fetch(**options: Any) -> Fetch:
    stage = Fetch(FetchOptions.model_validate({"allow_private": True, "retries": 0, **options}))
    stage.setup()
    return stage


def batch(rows: list[dict[str, Any]]) -> StageBatch:
    return StageBatch(DictRows(rows), np.arange(len(rows), dtype=np.int64))


def run(rows: list[dict[str, Any]], **options: Any) -> tuple[list[dict[str, Any]], dict[int, str]]:
    """The rows that came out, and the reason of each failure by its row."""
    stage = fetch(**options)
    try:
        result = stage.process(batch(rows))
    finally:
        stage.close()
    assert isinstance(result.rows, DictRows)
    assert sorted([*result.positions.tolist(), *(f.offset for f in result.failures)]) == list(range(len(rows)))
    return list(result.rows.rows), {failure.offset: failure.reason for failure in result.failures}


def test_the_registry_knows_it() -> None:
    assert stage_class("fetch") is Fetch


def test_rows_keep_their_order_and_fields_and_get_their_file(server: HttpServer) -> None:
    photos = [picture(colour=n) for n in range(40)]
    rows = [{"id": n, "url": server.serve(f"/p/{n}.jpg", photo).url} for n, photo in enumerate(photos)]

    found, failures = run(rows)

    assert failures == {}
    assert found == [{**row, "jpg": Media(photos[n], f"{n}.jpg")} for n, row in enumerate(rows)]


def test_failures_are_values_with_their_reason(server: HttpServer) -> None:
    rows: list[dict[str, Any]] = [
        {"url": server.serve("/ok.jpg", PHOTO).url},
        {"url": server.origin + "/missing"},
        {"url": server.serve("/page", b"<html>sorry</html>").url},
        {"url": server.serve("/empty", b"").url},
        {"url": server.serve("/slow", PHOTO, stall_after=10).url},
        {"url": server.serve("/noai", PHOTO, headers={"X-Robots-Tag": "noai, nofollow"}).url},
        {"url": None},
        {"url": "not a url"},
        {"other": 1},
        {"url": server.serve("/song", b"OggS" + bytes(20)).url},
    ]

    found, failures = run(rows, timeout_s=1.0)

    assert [row["url"] for row in found] == [rows[0]["url"]]
    assert failures == {
        1: "HTTP 404",
        2: "not image, but something else",
        3: "empty",
        4: "timeout",
        5: "disallowed by X-Robots-Tag",
        6: "no URL",
        7: "not a URL",
        8: "no URL",
        9: "not image, but ogg",
    }


def test_with_a_status_field_no_sample_fails(server: HttpServer) -> None:
    rows = [{"url": server.serve("/ok.jpg", PHOTO).url}, {"url": server.origin + "/missing"}]

    found, failures = run(rows, status="status", to="image")

    assert failures == {}
    assert found == [
        {**rows[0], "image": Media(PHOTO, "ok.jpg"), "status": "ok"},
        {**rows[1], "image": None, "status": "HTTP 404"},
    ]


def test_a_fault_that_passes_is_tried_again_after_the_time_the_server_asks_for(server: HttpServer) -> None:
    site = server.serve("/a.jpg", PHOTO, busy=2, busy_status=503, retry_after="0")
    stage = fetch(retries=2)
    waits: list[float] = []
    stage._retry = type(stage._retry)(tries=3, sleep=waits.append, jitter=lambda: 0.0)
    assert stage.one({"url": site.url})["jpg"].data == PHOTO
    assert waits == [0.5, 1.0]
    site.busy, site.retry_after = 1, "9"
    stage._limits.spare = lambda host, seconds: waits.append(-seconds)  # type: ignore[method-assign]
    assert stage.one({"url": site.url})["jpg"].data == PHOTO
    assert waits == [0.5, 1.0, -9.0, 9.0]
    stage.close()


def test_tries_end(server: HttpServer) -> None:
    site = server.serve("/a.jpg", PHOTO, status=500)
    _, failures = run([{"url": site.url}], retries=1)
    assert failures == {0: "HTTP 500"}
    assert site.asked("GET") == 2
    patient = server.serve("/b.jpg", PHOTO, busy=100, busy_status=429, retry_after="100000")
    _, failures = run([{"url": patient.url}], retries=5)
    assert failures == {0: "HTTP 429"}
    assert patient.asked("GET") == 1


def test_content_must_be_what_the_row_and_the_options_say(server: HttpServer) -> None:
    good = server.serve("/a", PHOTO, headers={"Content-Type": "image/jpeg; charset=x"}).url
    text = server.serve("/b", PHOTO, headers={"Content-Type": "text/html"}).url
    digest = hashlib.sha256(PHOTO).hexdigest()
    rows: list[dict[str, Any]] = [
        {"url": good, "sha": digest.upper()},
        {"url": good, "sha": digest[::-1]},
        {"url": good, "sha": None},
        {"url": text, "sha": digest},
    ]
    _, failures = run(rows, sha256_field="sha", content_types=["image/*"])
    assert failures == {1: "another SHA-256", 2: "another SHA-256", 3: "content type text/html"}


@pytest.mark.parametrize(
    ("accept", "fails"), [(["image"], False), (["jpeg"], True), ([".PNG"], False), ([], False), (["audio"], True)]
)
def test_kinds_are_told_by_their_first_bytes_and_give_the_name(
    server: HttpServer, accept: list[str], fails: bool
) -> None:
    site = server.serve("/really%20a.jpg?x=/y.gif", picture("PNG"))
    found, failures = run([{"url": site.url}], accept=accept)
    assert bool(failures) == fails
    assert [row["jpg"].path for row in found] == ([] if fails else ["really a.png"])


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://a.org/x/b%20c.jpg?d=/e#f", "b c.jpg"),
        (" HTTP://a.org/x\n/b#/c?d", "b.jpg"),
        ("http://a.org", "file.jpg"),
        ("http://a.org?x=/y.png", "file.jpg"),
        ("http://me:word@[x/b.jpg", "b.jpg"),
    ],
)
def test_a_file_has_a_name_whatever_the_address_looks_like(url: str, name: str) -> None:
    assert _name(url, "jpg") == name


def test_any_file_is_taken_where_nothing_is_demanded(server: HttpServer) -> None:
    found, failures = run([{"url": server.serve("/a.txt", b"hello").url}], accept=[], to="txt")
    assert failures == {}
    assert found[0]["txt"] == Media(b"hello", "a.txt")


def test_private_addresses_are_refused_unless_allowed(server: HttpServer) -> None:
    site = server.serve("/a.jpg", PHOTO)
    _, failures = run([{"url": site.url}], allow_private=False)
    assert failures == {0: "private address"}
    assert site.requests == []


def test_servers_are_told_who_asks(server: HttpServer) -> None:
    site = server.serve("/a.jpg", PHOTO)
    run([{"url": site.url}], user_agent="corpus/1.0 (+https://example.org)")
    assert site.requests[0][1]["user-agent"] == "corpus/1.0 (+https://example.org)"


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([], False),
        (["noai"], True),
        (["nofollow, NoImageAI"], True),
        (["nofollow"], False),
        (["googlebot: noai"], False),
        (["corpus: noai"], True),
        (["*: noai"], True),
        (["unavailable_after: 25 Jun 2030 15:00:00 PST, noindex"], True),
        (["max-snippet: 5", "noindex"], True),
        (["noarchive:"], False),
    ],
)
def test_robots_tags_for_everybody_and_for_this_agent_count(values: list[str], found: bool) -> None:
    assert disallowed(values, "corpus", frozenset(DISALLOWING)) == found


def test_the_robots_tag_may_be_ignored(server: HttpServer) -> None:
    site = server.serve("/a.jpg", PHOTO, headers={"X-Robots-Tag": "noai"})
    _, failures = run([{"url": site.url}], disallow=[])
    assert failures == {}


def test_fields_say_what_is_added_and_mistakes_are_named() -> None:
    fields = (Field(name="url", type="string"), Field(name="n", type="int64"))
    assert fetch().fields(fields) == (*fields, Field(name="jpg", type="media", nullable=False))
    assert fetch(to="n", status="s").fields(fields) == (
        fields[0],
        Field(name="n", type="media", nullable=True),
        Field(name="s", type="string", nullable=False),
    )
    with pytest.raises(ConfigError, match="no field 'link'"):
        fetch(field="link").fields(fields)
    with pytest.raises(ConfigError, match="field 'n' is int64, not string"):
        fetch(field="n").fields(fields)


def until_stopped(coming: Iterator[Any]) -> None:
    with pytest.raises(Interrupted):
        next(coming)


def test_no_host_is_asked_harder_than_its_limit_and_others_go_on(server: HttpServer) -> None:
    with HttpServer() as other:
        hung = [server.serve(f"/{n}.jpg", PHOTO, stall_after=10) for n in range(6)]
        quick = [other.serve(f"/{n}.jpg", PHOTO) for n in range(20)]
        stage = fetch(per_host=2, timeout_s=1000)
        rows = [{"url": site.url} for site in hung]
        rows += [{"url": site.url.replace("127.0.0.1", "localhost")} for site in quick]
        done = threading.Semaphore(0)
        with Threaded[StageBatch](stage, workers=8, window=2, alive=done.release) as threaded:
            coming = threaded.map([batch([]), batch(rows)], lambda each: each)
            first = next(coming)
            assert isinstance(first.result, Result)
            reader = threading.Thread(target=until_stopped, args=(coming,))
            reader.start()
            for _ in quick:
                assert done.acquire(timeout=LIMIT_S)
            assert sum(site.asked("GET") for site in hung) == 2
            threaded.close()
            reader.join(LIMIT_S)
            assert not reader.is_alive()
        stage.close()


def test_it_may_start_anew_after_an_interruption(server: HttpServer) -> None:
    stage = fetch()
    stage.interrupt()
    with pytest.raises(Skip, match="stopped"):
        stage.one({"url": server.serve("/a.jpg", PHOTO).url})
    stage.setup()
    assert stage.one({"url": server.origin + "/a.jpg"})["jpg"].data == PHOTO
    stage.close()


def test_one_of_several_headers_is_enough() -> None:
    headers = HTTPMessage()
    headers["X-Robots-Tag"] = "otherbot: noai"
    headers["X-Robots-Tag"] = "noai"
    assert disallowed(headers.get_all("X-Robots-Tag", []), "corpus", frozenset(DISALLOWING))
