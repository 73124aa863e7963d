"""One certificate authority per test process, and contexts of loopback servers it vouches for."""

import atexit
import functools
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Authority:
    """A throw-away CA with one leaf for `localhost` and 127.0.0.1."""

    ca_file: Path
    cert_file: Path
    key_file: Path

    def server_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert_file, self.key_file)
        return context

    def client_context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.ca_file))


@functools.cache
def authority() -> Authority:
    """The authority of this process; its files vanish with it."""
    folder = tempfile.TemporaryDirectory(prefix="bridge-ca-", ignore_cleanup_errors=True)
    atexit.register(folder.cleanup)
    place = Path(folder.name)
    ca = trustme.CA()
    leaf = ca.issue_cert("localhost", "127.0.0.1")
    ca.cert_pem.write_to_path(str(place / "ca.pem"))
    leaf.private_key_pem.write_to_path(str(place / "key.pem"))
    for blob in leaf.cert_chain_pems:
        blob.write_to_path(str(place / "cert.pem"), append=True)
    return Authority(place / "ca.pem", place / "cert.pem", place / "key.pem")
