"""The server behind `benchmarks.sink`: as much of S3 as the clients measured here speak, one thread a connection."""

import hashlib
import json
import re
import ssl
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from benchmarks.sink_store import Refusal, Store, Stored, check_sums, unchunked

BLOCK = 1 << 20
PAGE = 1_000
WHEN = "2024-01-01T00:00:00.000Z"
WHEN_HTTP = "Mon, 01 Jan 2024 00:00:00 GMT"


def serve(certificate: Path, folder: Path | None, keep: int) -> None:
    """Serve on a free port, printed first, until killed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    store = Store(folder, keep)

    class Handler(_Handler):
        pass

    Handler.store = store
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    # the handshake happens in the connection's own thread, with its first read
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    print(server.server_address[1], flush=True)
    server.serve_forever()


class _Handler(BaseHTTPRequestHandler):
    store: Store
    protocol_version = "HTTP/1.1"
    rbufsize = 1 << 16
    wbufsize = 1 << 16  # headers and a small body in one packet
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it
        pass

    def handle(self) -> None:
        try:
            super().handle()
        except (ConnectionError, ssl.SSLError):
            return  # clients hang up as they like

    def handle_expect_100(self) -> bool:
        going_on = super().handle_expect_100()
        self.wfile.flush()
        return going_on

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_HEAD(self) -> None:
        self._answer(self._get)

    def do_PUT(self) -> None:
        self._answer(self._put)

    def do_POST(self) -> None:
        self._answer(self._post)

    def do_DELETE(self) -> None:
        self._answer(self._delete)

    def _answer(self, way: Any) -> None:
        split = urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(split.query, keep_blank_values=True).items()}
        self.key = unquote(split.path).lstrip("/")
        self.bucket, _, self.name = self.key.partition("/")
        try:
            size, body = self._body()
            way(size, body)
        except Refusal as refusal:
            self._xml(f"<Error><Code>{refusal.code}</Code><Message>{refusal.code}</Message></Error>", refusal.status)

    # ---- what is asked

    def _get(self, _size: int, _body: bytes | None) -> None:
        if self.key == "_objects":
            self._send(200, json.dumps({key: there.size for key, there in self.store.objects.items()}).encode())
        elif not self.name:
            self._bucket()
        else:
            there = self._there()
            if self.headers.get("If-Match", f'"{there.etag}"').strip('"') != there.etag:
                raise Refusal(412, "PreconditionFailed")
            self._give(there)

    def _bucket(self) -> None:
        if self.command == "HEAD":
            self._send(200, b"")
        elif "location" in self.query:
            self._xml("<LocationConstraint/>")
        elif not self.bucket:
            self._xml("<ListAllMyBucketsResult><Buckets/></ListAllMyBucketsResult>")
        else:
            self._listing()

    def _listing(self) -> None:
        prefix, after = (
            self.query.get("prefix", ""),
            self.query.get("continuation-token") or self.query.get("marker", ""),
        )
        most = int(self.query.get("max-keys", PAGE))
        found = [(key, there) for key, there in self.store.list(self.bucket, prefix) if key > after]
        page = found[:most]
        items = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{there.size}</Size><ETag>&quot;{there.etag}&quot;</ETag>"
            f"<LastModified>{WHEN}</LastModified><StorageClass>STANDARD</StorageClass></Contents>"
            for key, there in page
        )
        more = len(found) > most
        token = f"<NextContinuationToken>{escape(page[-1][0])}</NextContinuationToken>" if more else ""
        self._xml(
            f"<ListBucketResult><Name>{self.bucket}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(page)}</KeyCount>"
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{items}</ListBucketResult>"
        )

    def _put(self, size: int, body: bytes | None) -> None:
        if not self.name:
            return self._send(200, b"")
        stored = Stored(size, hashlib.md5(body).hexdigest() if body is not None else f"discarded-{size:x}", body)
        with self.store.lock:
            if "uploadId" in self.query:
                self.store.uploads[self.query["uploadId"]][int(self.query["partNumber"])] = stored
            elif self.headers.get("If-None-Match") == "*" and self.key in self.store.objects:
                raise Refusal(412, "PreconditionFailed")
            else:
                self.store.objects[self.key] = stored
        return self._send(200, b"", {"ETag": f'"{stored.etag}"'})

    def _post(self, _size: int, _body: bytes | None) -> None:
        named = f"<Bucket>{self.bucket}</Bucket><Key>{escape(self.name)}</Key>"
        with self.store.lock:
            if "uploads" in self.query:
                upload = f"upload{len(self.store.uploads)}"
                self.store.uploads[upload] = {}
                answer = f"<InitiateMultipartUploadResult>{named}<UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
            else:
                parts = [part for _, part in sorted(self.store.uploads[self.query["uploadId"]].items())]
                bodies = [part.body for part in parts]
                whole = b"".join(b for b in bodies if b is not None) if None not in bodies else None
                stored = Stored(sum(part.size for part in parts), f"parts-{len(parts)}", whole)
                self.store.objects[self.key] = stored
                answer = f"<CompleteMultipartUploadResult>{named}<ETag>&quot;{stored.etag}&quot;</ETag></CompleteMultipartUploadResult>"
        self._xml(answer)

    def _delete(self, _size: int, _body: bytes | None) -> None:
        with self.store.lock:
            if self.key == "_objects":
                self.store.objects.clear()
            elif "uploadId" not in self.query:
                self.store.objects.pop(self.key, None)
        self._send(204, b"")

    # ---- bodies in

    def _body(self) -> tuple[int, bytes | None]:
        """Size of the request's body, and the body itself where it is to be kept."""
        headers = self.headers
        encoded = "aws-chunked" in headers.get("Content-Encoding", "") or headers.get(
            "x-amz-content-sha256", ""
        ).startswith("STREAMING-")
        length = int(headers.get("Content-Length") or 0)
        size = int(headers["x-amz-decoded-content-length"]) if encoded else length
        blocks = self._chunks() if headers.get("Transfer-Encoding") == "chunked" else self._plain(length)
        if size > self.store.keep:
            for _ in blocks:
                pass
            return size, None
        body = b"".join(bytes(block) for block in blocks)
        body = unchunked(body) if encoded else body
        check_sums(body, headers)
        return len(body), body

    def _plain(self, left: int) -> Iterator[memoryview]:
        buffer = memoryview(bytearray(min(left, BLOCK)))
        while left:
            got = self.rfile.readinto(buffer[: min(left, BLOCK)])
            if not got:
                raise ConnectionError("the body was cut")
            left -= got
            yield buffer[:got]

    def _chunks(self) -> Iterator[memoryview]:
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield from self._plain(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass

    # ---- answers out

    def _there(self) -> Stored:
        there = self.store.find(self.key)
        if there is None:
            raise Refusal(404, "NoSuchKey")
        return there

    def _give(self, there: Stored) -> None:
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        start, end = 0, there.size
        if asked and (asked[1] or asked[2]):
            start = int(asked[1]) if asked[1] else max(0, there.size - int(asked[2]))
            end = min(int(asked[2]) + 1, there.size) if asked[1] and asked[2] else there.size
            if start >= there.size:
                raise Refusal(416, "InvalidRange")
        headers = {"ETag": f'"{there.etag}"', "Accept-Ranges": "bytes", "Last-Modified": WHEN_HTTP}
        if asked:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{there.size}"
        if self.command == "GET" and there.path is None and there.body is None:
            raise Refusal(410, "Discarded")
        self._head(206 if asked else 200, end - start, headers)
        if self.command == "HEAD":
            return
        if there.path is None:
            self.wfile.write((there.body or b"")[start:end])
            return
        with there.path.open("rb", buffering=0) as file:
            file.seek(start)
            while start < end and (block := file.read(min(BLOCK, end - start))):
                self.wfile.write(block)
                start += len(block)

    def _xml(self, text: str, status: int = 200) -> None:
        self._send(
            status, f'<?xml version="1.0" encoding="UTF-8"?>{text}'.encode(), {"Content-Type": "application/xml"}
        )

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self._head(status, len(body), headers or {})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(self, status: int, length: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "x-amz-request-id": "0"}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
