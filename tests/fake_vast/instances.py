"""One rented machine: what the vendor says of it, what it costs, and the walk from `created` to wherever it goes."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fake_vast.faults import Boot
from fake_vast.machines import Machine
from fake_vast.offers import MONTH_H, Row

HALTED = ("stopped", "exited")


@dataclass
class Instance:
    """State is read and changed under `lock`."""

    id: int
    offer: Row
    request: dict[str, Any]
    key: str
    machine: Machine
    boot: Boot
    born: float
    dearer: float = 1.0
    keys: list[str] = field(default_factory=list)
    label: str | None = None
    actual: str | None = None
    intended: str = "running"
    current: str = "running"
    next: str = "running"
    message: str | None = None
    ran_from: float | None = None
    ran_s: float = 0.0
    gone_at: float | None = None
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    @property
    def alive(self) -> bool:
        """Whether it still costs anything."""
        return self.gone_at is None

    @property
    def price(self) -> float:
        """Of an hour of running, without the disk."""
        return self.dearer * float(self.request.get("price") or self.offer["dph_base"])

    @property
    def disk_price(self) -> float:
        """Of an hour of existing."""
        return float(self.offer["storage_cost"]) * float(self.request["disk"]) / MONTH_H

    def cost(self, at: float) -> float:
        """Dollars until then: disk from creation to destruction, the machine while it runs."""
        with self.lock:
            end = self.gone_at if self.gone_at is not None else at
            running = self.ran_s + (max(0.0, end - self.ran_from) if self.ran_from is not None else 0.0)
            return self.disk_price * max(0.0, end - self.born) / 3600 + self.price * running / 3600

    def walk(self, boot_s: float, wait: Callable[[float], bool]) -> None:
        """From creation to where its fate has it; ends early when it is destroyed or `wait` says so."""
        if wait(boot_s / 2):
            return
        with self.lock:
            if not self.alive or self.actual is not None:
                return
            self.actual, self.message = "loading", "Pulling from library/python"
            if self.boot == "pull_failed":
                self.actual, self.current = "created", "stopped"
                self.message = "Error response from daemon: manifest for x not found: manifest unknown"
            if self.boot == "container_failed":
                self.actual, self.current = "created", "stopped"
                self.message = "Error: OCI runtime create failed: CDI device injection failed"
        if self.boot in ("loads_for_ever", "pull_failed", "container_failed") or wait(boot_s / 2):
            return
        with self.lock:
            if not self.alive or self.intended != "running":
                return
            self._run()
            if self.boot == "exits":
                self.halt("exited")
            if self.boot == "goes_offline":
                self.machine.kill()
                self.actual = "offline"

    def _run(self) -> None:
        env = self.request.get("env") or {}
        variables = {k: str(v) for k, v in env.items() if not k.startswith("-")}
        own = {"CONTAINER_ID": str(self.id), "VAST_CONTAINERLABEL": f"C.{self.id}", "PUBLIC_IPADDR": "127.0.0.1"}
        if self.request.get("_container_key", True):
            own["CONTAINER_API_KEY"] = self.key
        self.machine.sshd = self.machine.sshd and self.boot != "no_sshd"
        self.machine.start({**variables, **own}, self.request.get("onstart") or "", self.keys)
        self.actual, self.message = "running", "success, running python_3.12/ssh"
        self.ran_from = time.time()

    def halt(self, actual: str, *, outbid: bool = False) -> None:
        """Stop running and go on costing the disk."""
        with self.lock:
            if self.ran_from is not None:
                self.ran_s += time.time() - self.ran_from
                self.ran_from = None
            self.machine.kill()
            self.actual, self.current = actual, "stopped"
            if outbid:
                self.intended = self.next = "stopped"

    def destroy(self) -> None:
        with self.lock:
            if not self.alive:
                return
            if self.ran_from is not None:
                self.ran_s += time.time() - self.ran_from
                self.ran_from = None
            self.gone_at = time.time()
            self.machine.kill()

    def record(self) -> Row:
        """As the vendor tells it."""
        with self.lock:
            running = self.actual == "running"
            direct = running and self.boot not in ("no_ports", "proxy_only")
            port = self.machine.port
            same = ("machine_id", "host_id", "gpu_name", "num_gpus", "inet_up", "inet_down", "geolocation", "verification",
                    "dph_base", "min_bid", "end_date", "duration", "inet_up_cost", "inet_down_cost")  # fmt: skip
            return {
                **{key: self.offer[key] for key in same},
                "id": self.id,
                "label": self.label,
                "actual_status": self.actual,
                "intended_status": self.intended,
                "cur_state": self.current,
                "next_state": self.next,
                "status_msg": self.message,
                "image_uuid": self.request["image"],
                "image_runtype": self.request.get("runtype"),
                "extra_env": [[k, v] for k, v in (self.request.get("env") or {}).items()],
                "onstart": self.request.get("onstart"),
                "ssh_host": "127.0.0.1" if self.boot == "proxy_only" else "ssh4.vast.invalid",
                "ssh_port": port if self.boot == "proxy_only" else 12345,
                "ssh_idx": "4",
                "public_ipaddr": self.offer["public_ipaddr"] if running else None,
                "ports": {"22/tcp": [{"HostIp": "0.0.0.0", "HostPort": str(port)}]} if direct and port else None,
                "is_bid": bool(self.request.get("price")),
                "dph_total": self.price + self.disk_price,
                "storage_total_cost": self.disk_price,
                "disk_space": self.request["disk"],
                "disk_usage": 1.0 if running else -1,
                "start_date": self.born if running else None,
                "uptime_mins": (time.time() - self.ran_from) / 60 if self.ran_from is not None else None,
                "jupyter_token": "jupyter-secret",
            }
