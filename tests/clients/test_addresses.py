"""What counts as an address of the public internet, and what is connected to."""

import socket
import time

import pytest

from data_bridge.clients.addresses import PrivateAddress, connect, is_public


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.64.0.1", "224.0.0.1",
        "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:127.0.0.1",
        "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2001:db8::1",
        "fec0::1", "64:ff9b:1::7f00:1", "64:ff9b:1::808:808", "::127.0.0.1", "::8.8.8.8", "::ffff:0:127.0.0.1", "192.88.99.1",
        "2002:c058:6301::", "5f00::1", "3fff::1", "4000::1", "100::1",
    ],
)  # fmt: skip
def test_what_is_not_on_the_internet_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "8.8.8.8", "2606:4700:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"]
)
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f.1"])
def test_a_private_address_is_not_connected_to_however_it_is_written(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(PrivateAddress):
            connect(host, port, time.monotonic() + 5, allow_private=False)
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()
        connect(host, port, time.monotonic() + 5, allow_private=True).close()
        server.settimeout(5)
        server.accept()[0].close()


def test_a_socket_that_is_not_wanted_any_more_is_closed() -> None:
    made: list[socket.socket] = []

    def stopped(sock: socket.socket) -> None:
        made.append(sock)
        raise ConnectionAbortedError("stopped")

    with pytest.raises(ConnectionAbortedError):
        connect("127.0.0.1", 9, time.monotonic() + 5, allow_private=True, opened=stopped)

    assert [sock.fileno() for sock in made] == [-1]
