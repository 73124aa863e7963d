"""Which addresses a URL of somebody else's may lead to: not into our own network, unless that is allowed."""

import ipaddress
import socket
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import urlsplit

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_UNICAST = ipaddress.ip_network("2000::/3")
_RESERVED = (ipaddress.ip_network("3fff::/20"), ipaddress.ip_network("192.88.99.0/24"))
"""Documentation and a relay nobody runs any more, which Python's own registry does not know everywhere."""


class PrivateAddress(OSError):
    """The name leads to an address that is not part of the public internet."""


def is_open(url: str) -> bool:
    """Whether what travels to this URL can be read and changed on the way."""
    parts = urlsplit(url)
    return parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK)


def is_public(address: str) -> bool:
    """Whether a numeric address is one of the public internet, whatever way it is written or wrapped."""
    ip: IPv4Address | IPv6Address = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address) and (inner := _inside(ip)) is not None:
        ip = inner
    elif isinstance(ip, IPv6Address) and ip not in _UNICAST:
        return False
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in _RESERVED)


def _inside(ip: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that an IPv6 address stands for."""
    if ip in _NAT64:
        return IPv4Address(int(ip) & 0xFFFF_FFFF)
    return ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)


def connect(
    host: str,
    port: int,
    deadline_s: float,
    *,
    allow_private: bool,
    opened: Callable[[socket.socket], None] = lambda _: None,
) -> socket.socket:
    """A connection to the first address of the host that answers, by `deadline_s` of the monotonic clock.

    The address that is checked is the one connected to: a name cannot change its mind in between. `opened` is told of
    each socket before it connects, and may refuse it with an OSError. Raises PrivateAddress, TimeoutError, socket.gaierror or another OSError.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    public = [each for each in found if allow_private or is_public(str(each[4][0]))]
    if not public:
        raise PrivateAddress(f"{host} is a private address")
    error: OSError | None = None
    for family, kind, protocol, _, address in public:
        sock = socket.socket(family, kind, protocol)
        try:
            opened(sock)
            sock.settimeout(max(0.001, deadline_s - time.monotonic()))
            sock.connect(address)
        except OSError as raised:
            sock.close()
            error = raised
        else:
            return sock
    assert error is not None, "there was an address to try"
    raise error
