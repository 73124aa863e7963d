"""What Vast.ai answers, as values and as our errors; every oddity that was seen is met here."""

from collections.abc import Mapping
from typing import Any

from data_bridge.errors import BridgeError, ConfigError, FatalError, RetryableError
from data_bridge.model.rental import DEADLINE, Address, Instance, Offer

_SHOWN = 200
_AUTH = ("auth_error", "session expired", "two factor", "requires login", "invalid user key")
_TAKEN = ("no_such_ask", "no longer available")
_MONEY = ("insufficient_credit", "lacks credit", "spend_rate_limit", "missing_billing")


class OfferGone(RetryableError):
    """Somebody else took it, or it ended: take the next one."""


class RentalUnclear(FatalError):
    """A machine may have been rented. `contract` is its number where the answer named one."""

    def __init__(self, message: str, *, contract: int | None = None) -> None:
        super().__init__(message, hint="`data-bridge vast list` shows what is rented, `data-bridge vast reap` ends it")
        self.contract = contract


class Busy(RetryableError):
    """The service is too busy for us, or not there; `retry_after` says for how long at least."""

    def __init__(self, message: str, *, retry_after: float = 0.0) -> None:
        super().__init__(message, hint="try again in a few minutes")
        self.retry_after = retry_after


def words(body: Any) -> str:
    """What an answer says is wrong. Nothing else of it: it may repeat what was sent."""
    if isinstance(body, Mapping):
        said = [str(body[key]) for key in ("error", "msg", "message", "detail") if body.get(key)]
        return plain(": ".join(dict.fromkeys(said)))
    return plain(str(body)) if body else ""


def plain(text: str) -> str:
    """The beginning of what a stranger says, without what a terminal would obey."""
    return "".join(c if c.isprintable() else " " for c in text).strip()[:_SHOWN]


def refusal(status: int, body: Any, what: str) -> BridgeError | None:
    """The error that an answer means; None for a success."""
    text = words(body)
    low = text.lower()
    failed = isinstance(body, Mapping) and body.get("success") is False
    if status < 300 and not failed:
        return None if isinstance(body, Mapping) else Busy(f"Vast.ai: {what}: the answer is not JSON")
    if status in (401, 403) or any(word in low for word in _AUTH):
        return ConfigError(
            f"Vast.ai refuses the key: {text or status}", hint="set vast.api_key, or VAST_API_KEY in the environment"
        )
    if any(word in low for word in _TAKEN):
        return OfferGone(f"Vast.ai: {what}: the offer is gone")
    if any(word in low for word in _MONEY):
        return ConfigError(f"Vast.ai rents nothing to this account: {text}", hint="add credit to the account")
    if "search_quota_exceeded" in low:
        return FatalError("Vast.ai: the searches of this day are used up", hint="try again after midnight UTC")
    if status == 429 or status >= 500:
        return Busy(f"Vast.ai: {what}: {status} {text}", retry_after=5.0 if status == 429 else 0.0)
    return FatalError(f"Vast.ai: {what}: {status} {text}", hint="docs/remote.md tells what the service is asked for")


def contract_in(body: Any) -> int | None:
    """The number of a machine that was rented, whatever else the answer says."""
    value = body.get("new_contract") if isinstance(body, Mapping) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def offer_in(row: Any, *, bid: bool) -> Offer | None:
    """None for a row that is none, or has no price."""
    try:
        return _offer(row, bid=bid)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _offer(row: Mapping[str, Any], *, bid: bool) -> Offer:
    return Offer(
        id=int(row.get("ask_contract_id") or row["id"]),
        machine_id=int(row["machine_id"]),
        gpu_name=str(row.get("gpu_name") or "?"),
        num_gpus=int(row.get("num_gpus") or 0),
        cores=float(row.get("cpu_cores_effective") or 1.0),
        disk_gb=float(row.get("disk_space") or 0.0),
        base_usd_hour=float(row["min_bid"] if bid else row["dph_base"]),
        storage_usd_gb_month=float(row.get("storage_cost") or 0.0),
        inet_down=float(row.get("inet_down") or 0.0),
        inet_up=float(row.get("inet_up") or 0.0),
        down_usd_gb=float(row.get("inet_down_cost") or 0.0),
        up_usd_gb=float(row.get("inet_up_cost") or 0.0),
        reliability=float(row.get("reliability2") or row.get("reliability") or 0.0),
        place=str(row.get("geolocation") or "?"),
        duration_s=float(row.get("duration") or 0.0),
        direct_ports=int(row.get("direct_port_count") or 0),
    )


def instance(row: Mapping[str, Any]) -> Instance:
    """Raises KeyError, TypeError or ValueError for a row that is none."""
    return Instance(
        id=int(row["id"]),
        label=str(row.get("label") or ""),
        machine_id=int(row.get("machine_id") or 0),
        status=str(row.get("actual_status") or ""),
        current=str(row.get("cur_state") or ""),
        intended=str(row.get("intended_status") or ""),
        next=str(row.get("next_state") or ""),
        message=plain(str(row.get("status_msg") or "")),
        usd_hour=float(row.get("dph_total") or 0.0),
        direct=_direct(row),
        proxy=_proxy(row),
        started=row.get("start_date"),
        uptime_mins=row.get("uptime_mins"),
        deadline=_deadline(row.get("extra_env")),
    )


def _deadline(env: Any) -> float | None:
    """When the machine destroys itself, as its renter told it."""
    pairs = env.items() if isinstance(env, Mapping) else env if isinstance(env, list) else ()
    for pair in pairs:
        if isinstance(pair, (list, tuple)) and len(pair) == 2 and pair[0] == DEADLINE and str(pair[1]).isdecimal():
            return float(pair[1])
    return None


def _direct(row: Mapping[str, Any]) -> Address | None:
    host = str(row.get("public_ipaddr") or "").strip()
    ports = row.get("ports")
    mapped = ports.get("22/tcp") if isinstance(ports, Mapping) else None
    port = mapped[0].get("HostPort") if isinstance(mapped, list) and mapped and isinstance(mapped[0], Mapping) else None
    return Address(host, int(port)) if host and port else None


def _proxy(row: Mapping[str, Any]) -> Address | None:
    host, port = str(row.get("ssh_host") or "").strip(), row.get("ssh_port")
    if not host or not port:
        return None
    return Address(host, int(port) + ("jupyter" in str(row.get("image_runtype") or "")))
