"""The client against the fake: every oddity of the service is met, and no rental is ever repeated."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fake_vast.faults import Fault, Kind
from fake_vast.offers import offer
from fake_vast.server import Server, serving
from fake_vast.world import World

from data_bridge.clients.vast import Busy, OfferGone, RentalUnclear, VastClient
from data_bridge.errors import ConfigError, FatalError
from data_bridge.utils.retry import Retry

REQUEST = {"image": "python:3.12", "disk": 20, "label": "data-bridge:x", "cancel_unavail": True}


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(World([offer(dph_base=0.1 * (n + 1)) for n in range(70)])) as running:
        yield running


def client(server: Server, key: str | None = None, **options: Any) -> VastClient:
    quick = Retry(tries=4, first_s=0.001, sleep=lambda _: None)
    return VastClient(key or server.world.account_key, server.url, pace_s={}, retry=quick, **options)


def search(vast: VastClient, **filters: Any) -> list[int]:
    return [o.id for o in vast.offers(filters, bid=False, disk_gb=20)]


def test_offers_come_cheapest_first_and_are_found_by_their_number(server: Server) -> None:
    vast, rows = client(server), server.world.offers

    assert search(vast) == [row["id"] for row in rows[:64]]
    assert search(vast, inet_down={"gte": 5000}) == []
    found = vast.offer(rows[69]["id"], bid=False, disk_gb=20)
    assert found is not None
    assert found.usd_hour(20) == pytest.approx(7.0 + 0.15 * 20 / 720)
    assert vast.offer(1, bid=False, disk_gb=20) is None


def test_a_machine_is_rented_seen_and_destroyed(server: Server) -> None:
    vast = client(server)

    made = vast.rent(server.world.offers[0]["id"], REQUEST)

    assert made.key == server.world.instances[made.id].key
    assert [i.id for i in vast.instances()] == [made.id]
    seen = vast.instance(made.id)
    assert seen is not None
    assert seen.label == "data-bridge:x"
    vast.destroy(made.id)
    assert vast.instance(made.id) is None
    vast.destroy(made.id)
    assert server.world.grows_by() == 0


def test_the_list_goes_over_all_pages(server: Server) -> None:
    vast = client(server)
    made = [vast.rent(row["id"], REQUEST).id for row in server.world.offers[:60]]

    assert [i.id for i in vast.instances()] == made


@pytest.mark.parametrize(
    "kind", ["drop_before", "drop_after", "error_before", "error_after", "no_id", "error_with_contract"]
)
def test_a_rental_whose_answer_is_lost_or_strange_is_unclear_and_not_repeated(server: Server, kind: Kind) -> None:
    server.world.faults.plan(Fault("create", kind, times=9))

    with pytest.raises(RentalUnclear) as raised:
        client(server).rent(server.world.offers[0]["id"], REQUEST)

    assert len(server.world.calls("create")) == 1
    assert raised.value.contract == (server.world.living[0].id if kind == "error_with_contract" else None)


def test_a_bid_that_is_too_low_names_the_machine_it_made(server: Server) -> None:
    with pytest.raises(RentalUnclear) as raised:
        client(server).rent(server.world.offers[0]["id"], {**REQUEST, "price": 0.01})

    assert raised.value.contract == server.world.living[0].id


@pytest.mark.parametrize(
    ("kind", "error"),
    [("taken", OfferGone), ("no_credit", ConfigError), ("refused", FatalError), ("auth_as_404", ConfigError),
     ("too_often_text", Busy), ("too_often_json", Busy)],
)  # fmt: skip
def test_a_rental_that_was_clearly_refused_is_not_unclear(server: Server, kind: Kind, error: type[Exception]) -> None:
    server.world.faults.plan(Fault("create", kind, 9))

    with pytest.raises(error) as raised:
        client(server).rent(server.world.offers[0]["id"], REQUEST)

    assert not isinstance(raised.value, RentalUnclear)
    assert server.world.living == []


def test_an_offer_taken_by_another_is_gone_in_every_form_the_service_says_it(server: Server) -> None:
    vast, number = client(server), server.world.offers[0]["id"]
    vast.rent(number, REQUEST)

    for _ in range(3):
        with pytest.raises(OfferGone):
            vast.rent(number, REQUEST)


@pytest.mark.parametrize("operation", ["list", "show", "destroy", "search", "user", "attach"])
@pytest.mark.parametrize("kind", ["drop_before", "error_after", "too_often_text", "too_often_json"])
def test_all_other_calls_are_tried_again(server: Server, operation: str, kind: Kind) -> None:
    vast = client(server)
    made = vast.rent(server.world.offers[0]["id"], REQUEST)
    calls: dict[str, Callable[[], object]] = {
        "list": vast.instances,
        "show": lambda: vast.instance(made.id),
        "destroy": lambda: vast.destroy(made.id),
        "search": lambda: search(vast),
        "user": vast.account,
        "attach": lambda: vast.attach_key(made.id, "ssh-ed25519 AAAA"),
    }
    server.world.faults.plan(Fault(operation, kind, times=2))

    calls[operation]()

    assert server.world.faults.happened[f"{operation}:{kind}"] == 2


@pytest.mark.parametrize("kind", ["error_before", "refused", "auth_as_404", "drop_before"])
def test_a_list_that_fails_is_an_error_and_never_empty(server: Server, kind: Kind) -> None:
    server.world.faults.plan(Fault("list", kind, times=99))

    with pytest.raises((FatalError, ConfigError, Busy)):
        client(server).instances()


@pytest.mark.parametrize("kind", ["auth_as_404", "refused"])
def test_a_destruction_that_was_refused_is_not_taken_for_done(server: Server, kind: Kind) -> None:
    vast = client(server)
    made = vast.rent(server.world.offers[0]["id"], REQUEST)
    server.world.faults.plan(Fault("destroy", kind, times=99))

    with pytest.raises((FatalError, ConfigError)):
        vast.destroy(made.id)


def test_searches_that_are_used_up_are_not_repeated(server: Server) -> None:
    server.world.faults.plan(Fault("search", "quota", times=9))

    with pytest.raises(FatalError, match="this day"):
        search(client(server))

    assert len(server.world.calls("search")) == 1


def test_a_wrong_key_is_told_and_no_error_repeats_the_key(server: Server) -> None:
    with pytest.raises(ConfigError, match="refuses the key") as raised:
        client(server, "wrong-key-wrong-key").account()

    assert "wrong-key" not in raised.value.message


@pytest.mark.parametrize("url", ["http://console.vast.ai", "http://10.0.0.1:80", "ftp://console.vast.ai"])
def test_the_key_does_not_travel_in_the_open(url: str) -> None:
    with pytest.raises(ConfigError, match="in the open"):
        VastClient("key", url)


def test_calls_of_a_kind_keep_their_distance(server: Server) -> None:
    waited: list[float] = []
    server.world.offers[:] = server.world.offers[:3]
    vast = VastClient(server.world.account_key, server.url, sleep=waited.append)

    for row in list(server.world.offers):
        vast.rent(row["id"], REQUEST)

    assert [round(w) for w in waited] == [4, 4]


def test_a_nobody_behind_the_address_is_no_unclear_rental() -> None:
    with pytest.raises(Busy):
        VastClient("key", "http://127.0.0.1:9", pace_s={}, retry=Retry(tries=2, first_s=0.01)).rent(1, REQUEST)


def test_an_offer_without_a_price_is_left_out_and_the_others_are_found(server: Server) -> None:
    server.world.offers[0]["min_bid"] = None

    found = client(server).offers({}, bid=True, disk_gb=20)

    assert len(found) == 63
    assert server.world.offers[0]["id"] not in [o.id for o in found]


def test_what_a_host_says_cannot_command_a_terminal(server: Server) -> None:
    made = client(server).rent(server.world.offers[0]["id"], REQUEST)
    server.world.instances[made.id].message = "Error: \x1b]0;owned\x07 no space\x9b2J"

    seen = client(server).instance(made.id)

    assert seen is not None
    assert seen.message.isprintable()
    assert "no space" in seen.message
