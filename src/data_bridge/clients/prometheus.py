"""Prometheus: a page it scrapes, and pushes to a gateway. The one module that knows its library, and loads it late."""

import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote, urlsplit, urlunsplit

from data_bridge.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from http.server import HTTPServer

    from prometheus_client.core import Metric
    from prometheus_client.registry import CollectorRegistry

PUSH_TIMEOUT_S = 5.0
CLIENT_TIMEOUT_S = 5.0
"""How long a client of the page may neither send nor take anything."""
JOB = "data_bridge"


class Series(Protocol):
    @property
    def labels(self) -> Mapping[str, str]: ...
    @property
    def value(self) -> float: ...
    @property
    def suffix(self) -> str: ...


class FamilyOfSeries(Protocol):
    """Series of one name: what is offered under it."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def help(self) -> str: ...
    @property
    def samples(self) -> Iterable[Series]: ...


class Exposition:
    """Offers what `collect` returns, asked anew each time."""

    def __init__(
        self, collect: Callable[[], Iterable[FamilyOfSeries]], *, patience_s: float = CLIENT_TIMEOUT_S
    ) -> None:
        self._collect = collect
        self._patience_s = patience_s

    def listen(self, host: str, port: int) -> "Page":
        """A page at `/metrics`, which answers from its `serve` on. Raises ConfigError when the address cannot be had."""
        from socketserver import TCPServer, ThreadingMixIn
        from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

        from prometheus_client import make_wsgi_app

        class Server(ThreadingMixIn, WSGIServer):
            daemon_threads = True
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

            def server_bind(self) -> None:
                # HTTPServer's own would ask the network for the name of this machine
                TCPServer.server_bind(self)
                self.server_name, self.server_port = host, self.server_address[1]
                self.setup_environ()

            def handle_error(self, *_: object) -> None:
                """Whoever is too slow, or leaves in the middle, is no news either."""

        class Handler(WSGIRequestHandler):
            timeout = self._patience_s

            def log_message(self, *_: object) -> None:
                """Whoever looks at metrics is no news."""

        try:
            server = Server((host, port), Handler)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {host}:{port} for metrics: {error.strerror or error}",
                hint="name a free port in metrics.listen; port 0 takes any",
            ) from error
        server.set_app(make_wsgi_app(self._registry()))
        return Page(f"http://{f'[{host}]' if ':' in host else host}:{server.server_port}/metrics", server)

    def push(self, url: str, run: str) -> None:
        """Replace what a pushgateway has of this run. Raises StoreError saying why it could not."""
        from http.client import HTTPException

        from prometheus_client import push_to_gateway
        from prometheus_client.exposition import basic_auth_handler, default_handler

        parts = urlsplit(url)
        handler: Callable[..., Callable[[], None]] = default_handler
        if parts.username is not None:
            user, password = unquote(parts.username), unquote(parts.password or "")
            handler = partial(basic_auth_handler, username=user, password=password)
        bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        try:
            push_to_gateway(
                bare, JOB, self._registry(), grouping_key={"run": run}, timeout=PUSH_TIMEOUT_S, handler=handler
            )
        except (OSError, ValueError, HTTPException) as error:  # refused, timed out; no gateway; no address
            raise StoreError(f"metrics cannot be pushed to {bare}: {error}") from error

    def _registry(self) -> "CollectorRegistry":
        from prometheus_client.registry import CollectorRegistry

        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Collector(self._collect))
        return registry


class Page:
    """An address that is held, and served between `serve` and `close`."""

    def __init__(self, url: str, server: "HTTPServer") -> None:
        self.url = url
        self._server = server
        self._thread: threading.Thread | None = None

    def serve(self) -> None:
        """Answer from now on, in a thread of its own."""
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="page", daemon=True)
        self._thread.start()

    def close(self) -> None:
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


class _Collector:
    def __init__(self, collect: Callable[[], Iterable[FamilyOfSeries]]) -> None:
        self._collect = collect

    def collect(self) -> "Iterable[Metric]":
        from prometheus_client.core import Metric

        for family in self._collect():
            metric = Metric(family.name, family.help, family.kind)
            ending = "_total" if family.kind == "counter" else ""
            for sample in family.samples:
                metric.add_sample(family.name + ending + sample.suffix, dict(sample.labels), sample.value)
            yield metric
