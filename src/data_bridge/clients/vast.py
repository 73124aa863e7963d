"""Vast.ai: machines for rent. A thin client of its REST interface, as its documents and its users' reports have it.

Never used against the live service by the tests of this project: docs/remote.md says what that means.
"""

import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlencode, urlsplit

from data_bridge.clients import vast_answers as answers
from data_bridge.clients.addresses import is_open
from data_bridge.clients.vast_answers import Busy, OfferGone, RentalUnclear
from data_bridge.errors import ConfigError, FatalError
from data_bridge.model.rental import Contract, Instance, Offer
from data_bridge.utils.retry import Retry

__all__ = ["API_URL", "Busy", "OfferGone", "RentalUnclear", "VastClient"]

API_URL = "https://console.vast.ai"
PACE_S: Mapping[str, float] = {"search": 6.0, "rent": 4.5, "destroy": 3.0, "show": 2.0, "list": 1.0, "change": 1.0}
"""The least time between two calls of a kind that the service documents."""
T = TypeVar("T")
_PAGE = 25
_LOG_TRIES = 20


class VastClient:
    """One account. Reading, searching and destroying are tried again while the service is busy; renting never is, unless
    it was refused for being too early: an answer that was lost may have rented.

    Raises ConfigError for a key that is refused, Busy when patience ends, FatalError for any other refusal; a list
    that cannot be read is an error, never an empty one. Raises ConfigError at once for an address that is not https.
    """

    def __init__(
        self,
        api_key: str,
        api_url: str = API_URL,
        *,
        timeout_s: float = 30.0,
        pace_s: Mapping[str, float] = PACE_S,
        retry: Retry | None = None,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        if is_open(api_url):
            parts = urlsplit(api_url)
            raise ConfigError(
                f"vast.api_url: {parts.scheme}://{parts.hostname} would send the key in the open", hint="use https"
            )
        self.api_url = api_url.rstrip("/")
        self._key = api_key
        self._timeout_s = timeout_s
        self._pace_s = pace_s
        self._sleep = sleep or threading.Event().wait
        self._retry = retry or Retry(tries=6, first_s=2.0)
        self._last: dict[str, float] = {}
        self._turns: dict[str, threading.Lock] = {}
        self._pool: Any = None

    def account(self) -> int:
        """The number of the account that the key belongs to."""
        found = self._again("show", "GET", "/api/v0/users/current/", "who the key belongs to")
        return _parsed(lambda row: int(row["id"]), found)

    def offers(self, filters: Mapping[str, Any], *, bid: bool, disk_gb: float) -> tuple[Offer, ...]:
        """Up to 64 offers that match, cheapest hours first. Who needs a filter to hold checks it again: the service does
        not always apply them."""
        query = {
            "verified": {"eq": True},
            "external": {"eq": False},
            "rentable": {"eq": True},
            "rented": {"eq": False},
            **filters,
            "type": "bid" if bid else "on-demand",
            "order": [["dph_total", "asc"]],
            "limit": 64,
            "allocated_storage": disk_gb,
        }
        found = self._again("search", "POST", "/api/v0/bundles/", "searching offers", query)
        rows = found.get("offers")
        if not isinstance(rows, list):
            raise FatalError("Vast.ai: searching offers: the answer holds no offers")
        # of each row by itself: one that cannot be bid for says so by a price that is none
        return tuple(offer for row in rows if (offer := answers.offer_in(row, bid=bid)) is not None)

    def offer(self, number: int, *, bid: bool, disk_gb: float) -> Offer | None:
        """One offer by its number, None when it is gone."""
        found = self.offers({"ask_contract_id": {"eq": number}}, bid=bid, disk_gb=disk_gb)
        return next((o for o in found if o.id == number), None)

    def rent(self, offer: int, request: Mapping[str, Any]) -> Contract:
        """Rent it. Raises OfferGone, Busy or ConfigError when nothing was rented, and RentalUnclear when something may be."""
        made = self._retry(lambda: self._rented(offer, request))
        if isinstance(made, OfferGone):
            raise made
        return made

    def _rented(self, offer: int, request: Mapping[str, Any]) -> Contract | OfferGone:
        """Raises Busy, after which it may be tried again, only when it is known that nothing was rented."""
        what = "renting"
        self._wait("rent")
        try:
            status, body = self._call("PUT", f"/api/v0/asks/{offer}/", request)
        except _NotSent as error:
            raise Busy(f"Vast.ai: {what}: {error}") from error
        except _Lost as error:
            raise RentalUnclear(f"Vast.ai: the answer to a rental was lost: {error}") from error
        contract = answers.contract_in(body)
        refused = answers.refusal(status, body, what)
        if refused is None and contract is not None:
            key = body.get("instance_api_key")
            return Contract(contract, str(key) if key else None)
        if contract is not None or refused is None or (isinstance(refused, Busy) and status != 429):
            said = refused.message if refused is not None else "it named no machine"
            raise RentalUnclear(f"Vast.ai: a rental was answered with an error: {said}", contract=contract)
        if isinstance(refused, OfferGone):
            return refused
        raise refused

    def instances(self) -> tuple[Instance, ...]:
        """Everything the account has."""
        found: list[Instance] = []
        token: str | None = None
        while True:
            query = {"limit": _PAGE} | ({"after_token": token} if token else {})
            page = self._again("list", "GET", f"/api/v1/instances/?{urlencode(query)}", "listing what is rented")
            rows = page.get("instances")
            if not isinstance(rows, list):
                raise FatalError("Vast.ai: listing what is rented: the answer holds no list")
            found += [_parsed(answers.instance, row) for row in rows]
            if page.get("next_token") == token and token:
                raise FatalError("Vast.ai: listing what is rented: the same page comes again and again")
            token = page.get("next_token")
            if not token or not rows:
                return tuple(found)

    def instance(self, number: int) -> Instance | None:
        """One of them, None when there is none of this number."""
        try:
            found = self._again("show", "GET", f"/api/v0/instances/{number}/", "looking at a machine")
        except FatalError as error:
            if "no_such_instance" in error.message or "not_found" in error.message:
                return None
            raise
        row = found.get("instances")
        if row is None and "instances" in found:
            return None
        return _parsed(answers.instance, row)

    def destroy(self, number: int) -> bool:
        """Ask for it once; False: no such machine is known. Whether it is gone is for `instance` to say."""
        try:
            self._again("destroy", "DELETE", f"/api/v0/instances/{number}/", "destroying a machine", {})
        except FatalError as error:
            if "no_such_instance" not in error.message and "not_found" not in error.message:
                raise
            return False
        return True

    def attach_key(self, number: int, public_key: str) -> None:
        """Let the owner of this key in."""
        self._again("change", "POST", f"/api/v0/instances/{number}/ssh/", "sending a key", {"ssh_key": public_key})

    def logs(self, number: int, lines: int = 200) -> str:
        """The last lines the container wrote, as far as the vendor has them; "" when it does not give them out."""
        path = f"/api/v0/instances/request_logs/{number}/"
        url = self._again("change", "PUT", path, "asking for logs", {"tail": str(lines)}).get("result_url")
        for _ in range(_LOG_TRIES if url else 0):
            try:
                answer = self._http().request("GET", str(url), timeout=self._timeout_s)
            except self._errors() as error:
                raise Busy(f"Vast.ai: reading logs: {error}") from error
            if answer.status == 200:
                return bytes(answer.data).decode(errors="replace")
            self._sleep(0.5 if self._pace_s else 0.01)
        return ""

    def _again(self, kind: str, method: str, path: str, what: str, body: Any = None) -> dict[str, Any]:
        def once() -> dict[str, Any]:
            self._wait(kind)
            try:
                status, answer = self._call(method, path, body)
            except (_NotSent, _Lost) as error:
                raise Busy(f"Vast.ai: {what}: {error}") from error
            refused = answers.refusal(status, answer, what)
            if refused is not None:
                raise refused
            return dict(answer)

        return self._retry(once)

    def _wait(self, kind: str) -> None:
        # machines of one command are looked after by a thread each: they take turns
        with self._turns.setdefault(kind, threading.Lock()):
            left = self._last.get(kind, float("-inf")) + self._pace_s.get(kind, 0.0) - time.monotonic()
            if left > 0:
                self._sleep(left)
            self._last[kind] = time.monotonic()

    def _call(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        from urllib3.exceptions import HTTPError, NewConnectionError

        headers = {"Authorization": f"Bearer {self._key}", "Accept": "application/json"}
        data = None
        if body is not None:
            data, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
        try:
            answer = self._http().request(
                method, self.api_url + path, body=data, headers=headers, timeout=self._timeout_s
            )
        except NewConnectionError as error:
            raise _NotSent(self._shown(error)) from error
        except HTTPError as error:
            raise _Lost(self._shown(error)) from error
        text = bytes(answer.data).decode(errors="replace")
        try:
            return answer.status, json.loads(text)
        except ValueError:
            return answer.status, text

    def _http(self) -> Any:
        if self._pool is None:
            from urllib3 import PoolManager

            # a redirect would carry the key elsewhere; a repeated rental would rent twice
            self._pool = PoolManager(retries=False, maxsize=16)
        return self._pool

    @staticmethod
    def _errors() -> type[Exception]:
        from urllib3.exceptions import HTTPError

        return HTTPError

    def _shown(self, error: Exception) -> str:
        return str(error).replace(self._key, "***")[:200]


class _NotSent(Exception):
    """Nobody was reached."""


class _Lost(Exception):
    """It may have been done, or not."""


def _parsed(parse: Callable[[Mapping[str, Any]], T], row: Any) -> T:
    try:
        return parse(row)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FatalError(f"Vast.ai: an answer is not as it is documented: {error!r}") from error
