"""What a run on a rented machine says of itself, heard here once a second while it is followed."""

import json
import threading
from collections.abc import Callable
from typing import Any

from data_bridge.compute.ssh import Link, LinkLost
from data_bridge.errors import FatalError

ONCE = r"""S="$HOME/.data-bridge"; R="$HOME/.cache/data-bridge/runs"
f=$(ls -t "$R"/*/status.json 2>/dev/null | head -n 1)
if [ -n "$f" ]; then cat "${f%/*}/graph.json" "$f"; fi
"""
_SAY = r"""S="$HOME/.data-bridge"; R="$HOME/.cache/data-bridge/runs"; at={offset}; seen=; last=; linked=
while :; do
  [ -e "$S/rc" ] && last=1
  if [ -z "$linked" ] && [ -e "$S/link" ]; then cat "$S/link"; linked=1; fi
  f=$(ls -t "$R"/*/status.json 2>/dev/null | head -n 1)
  if [ -n "$f" ]; then
    d=${{f%/*}}
    [ -n "$seen" ] || cat "$d/graph.json"; seen=1
    size=$(wc -c < "$d/events.jsonl" 2>/dev/null || echo 0)
    [ "$size" -ge "$at" ] || at=0
    if [ "$size" -gt "$at" ]; then tail -c +$((at + 1)) "$d/events.jsonl" | head -c $((size - at)); at=$size; fi
    cat "$f"
  fi
  if [ -n "$last" ]; then exit 0; fi
  sleep 1
done
"""
_LONGEST = 16 << 20


class Said:
    """Hears it while the block lasts; `hear` gets every line: the shape of the run, its events, how it stands. `link` may
    be changed at any time. What goes wrong here is no matter: the run is followed by its log."""

    def __init__(self, link: Link, hear: Callable[[bytes], None]) -> None:
        self.link = link
        self._hear = hear
        self.positions: dict[int, int] = {}
        """Samples that were packed of each partition in work, from its start, as it was told last."""
        self.speed: tuple[float, float] | None = None
        """Of the machine's links, down and up in Mbit/s, once it was measured."""
        self.lines = 0
        """So many came: while they do, the machine is there."""
        self._events = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="said", daemon=True)

    def __enter__(self) -> "Said":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _listen(self) -> None:
        while not self._over.is_set():
            rest = b""
            try:
                for block in self.link.stream(_SAY.format(offset=self._events)):
                    if self._over.is_set() or len(rest) > _LONGEST:
                        return
                    *lines, rest = (rest + block).split(b"\n")
                    for line in lines:
                        self._line(line)
                return
            except (LinkLost, FatalError):
                self._over.wait(1.0)

    def _line(self, line: bytes) -> None:
        self.lines += 1
        try:
            told = json.loads(line)
        except ValueError:
            return
        if isinstance(told, dict) and "down_mbit" in told:
            self.speed = _speed(told)
            return
        if isinstance(told, dict) and "event" in told:
            self._events += len(line) + 1
        if isinstance(told, dict) and "slots" in told:
            self.positions = _positions(told["slots"])
        self._hear(line)


def _positions(slots: Any) -> dict[int, int]:
    try:
        return {int(slot["partition"]): int(slot["samples"]) for slot in slots}
    except (TypeError, KeyError, ValueError):
        return {}


def _speed(told: dict[str, Any]) -> tuple[float, float] | None:
    try:
        return float(told["down_mbit"]), float(told["up_mbit"])
    except (TypeError, KeyError, ValueError):
        return None
