"""Stages that pieces pass in the slot, ahead of everything else: in threads where they wait more than they compute, one after
another where they remember."""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from itertools import groupby

import msgspec
from msgspec.structs import replace

from data_bridge.errors import Interrupted
from data_bridge.model.changes import SET, Change
from data_bridge.pipelines.commit import Control
from data_bridge.pipelines.packing import Packer, Packing, Piece
from data_bridge.pipelines.remembering import load, saved
from data_bridge.runtime.commands import told
from data_bridge.runtime.fitting import fitted
from data_bridge.runtime.flow import Flow, Transit
from data_bridge.runtime.graph import SOURCE, Node
from data_bridge.runtime.pace import Pace
from data_bridge.runtime.packet import InOrder, Numbering, Packet
from data_bridge.runtime.paid import Asking, Book, PaidStage
from data_bridge.runtime.pool import Pool
from data_bridge.runtime.stage import StatefulStage
from data_bridge.runtime.threaded import Threaded

MOST_WAITING = 64
"""Samples in a piece at most: a line with a URL becomes a file, and all files of a piece are held at once."""


def most_waiting(row_bytes: int, total: int) -> int:
    """Samples in a piece at most where a stage may add `row_bytes` to each: a piece must fit into `total` bytes."""
    return min(MOST_WAITING, max(1, total // row_bytes)) if row_bytes else MOST_WAITING


class _Underway(msgspec.Struct, frozen=True):
    piece: Piece
    transit: Transit
    states: dict[str, bytes]


_Packet = Packet[_Underway]


class Waiting:
    """Takes pieces to behind the last stage that waits or remembers. What comes before it is done here, in the slot, too.
    `states` are what stages know at the first piece.

    Once rows of `total` bytes have come in, none but those of the first piece are begun. A stage with a pool (`pool` gives
    it by its name) takes in no more packets than that holds, and has its bytes in place of `total`. `split` pieces are what
    would be one, had it not to fit into memory: so many times as many are on their way. `book` has the answers of paid
    stages, whose calls `slots` slots share as they share the cores.
    """

    def __init__(
        self,
        packing: Packing,
        control: Control,
        total: int,
        pool: Callable[[str], Pool],
        states: Mapping[str, bytes],
        split: int = 1,
        *,
        book: Book | None = None,
        slots: int = 1,
    ) -> None:
        self._packer: Packer = packing.packer()
        self._control = control
        self._total = total
        self._pool = pool
        self._states = dict(states)
        self._split = split
        self._told: set[str] | None = None
        """Ids of the changes that what stages know was made with; None = of all that the first piece has."""
        self._unsaved: set[str] = set()
        """Stages that know something else than was saved."""
        self._book = book
        self._in_force: tuple[Change, ...] = ()
        self._slots = slots
        self._active: list[Threaded[_Packet]] = []
        self._halted = False
        self._changing = threading.Lock()

    def halt(self) -> None:
        """Wait for nobody any more: who draws from `through` gets Interrupted soon. From any thread, and for good."""
        with self._changing:
            self._halted = True
            active = [*self._active]
        for threads in active:
            threads.close()

    def close(self) -> None:
        """Let go of what the stages opened."""
        self._packer.close()

    def through(self, pieces: Iterator[Piece]) -> Generator[Piece]:
        """The pieces, in order. Rows of several of them are in the threads at a time."""
        numbering, order = Numbering(SOURCE), InOrder()
        for changes, alike in groupby(pieces, key=lambda piece: piece.changes):
            flow = self._packer.flow(changes, self._prepare)
            self._told = {change.id for change in changes}
            self._in_force = changes
            packets: Iterator[_Packet] = (self._packet(numbering, piece) for piece in alike)
            for place in flow.ahead:
                past = self._remembering if flow.node(place).remembers else self._past
                packets = past(flow, place, packets)
            for packet in packets:
                with packet:
                    order.check(packet.header)
                    found = packet.payload
                # those that are bypassed now know what they knew
                yield replace(found.piece, transit=found.transit, states={**self._states, **found.states})

    def _prepare(self, node: Node, changes: tuple[Change, ...]) -> None:
        """Tell a new instance its stage's commands, and let it know what its stage knows: what that was made with is told
        before, so that it does nothing twice, and what is new behind."""
        state = self._states.get(node.name)
        stage = node.stage
        if not node.enabled:
            return
        if state is None or not isinstance(stage, StatefulStage):
            told(stage, node.name, changes)
            self._unsaved.add(node.name)
            return
        new = [] if self._told is None else [change for change in changes if change.id not in self._told]
        told(stage, node.name, [change for change in changes if change not in new])
        load(stage, state)
        if new:
            told(stage, node.name, new)
            self._unsaved.add(node.name)

    def _packet(self, numbering: Numbering, piece: Piece) -> _Packet:
        transit = self._packer.begin(piece)
        places = piece.index + piece.skip, piece.index + piece.end
        return numbering.packet(_Underway(piece, transit, {}), places, places[1] - places[0], transit.nbytes)

    def _remembering(self, flow: Flow, place: int, packets: Iterable[_Packet]) -> Generator[_Packet]:
        node = flow.node(place)
        name, stage = node.name, node.stage
        assert isinstance(stage, StatefulStage), "only such stages remember"
        if name in self._unsaved:
            self._states[name] = saved(name, stage)
            self._unsaved.remove(name)
        for packet in packets:
            found = packet.payload
            flow.advance(found.transit, place)
            found.states[name] = self._states[name]
            began_s = time.thread_time()
            result = fitted(stage, flow.given(found.transit))
            flow.land(found.transit, result, time.thread_time() - began_s)
            self._states[name] = saved(name, stage)
            yield packet

    def _past(self, flow: Flow, place: int, packets: Iterable[_Packet]) -> Generator[_Packet]:
        node = flow.node(place)
        memory = self._pool(node.pool).user(node.name) if node.pool else None
        total = self._total if memory is None else min(self._total, memory.pool.budget.total)

        borrowers: deque[_Packet] = deque()

        def admitted(packet: _Packet, *, alone: bool) -> bool:
            if memory is None:
                return True
            nbytes = packet.payload.transit.nbytes
            lease = (
                memory.acquire(nbytes) if alone else memory.try_acquire(nbytes)
            )  # alone it need not wait: it holds nothing
            if lease is not None:
                packet.borrow(lease)
                borrowers.append(packet)
            return lease is not None

        def give_back() -> None:
            for packet in borrowers:
                packet.borrow(None)

        def arriving() -> Iterator[_Packet]:
            for packet in packets:
                self._adjust(node, threads)
                flow.advance(packet.payload.transit, place)
                yield packet

        def alive() -> None:
            self._control.beat()
            self._adjust(node, threads)

        with (
            ExitStack() as stack,
            Threaded[_Packet](
                node.stage,
                self._workers(node),
                node.window * self._split,
                telling=self._asking(node),
                total=total if node.stage.row_bytes or memory is not None else None,
                alive=alive,
                stopped=lambda: self._control.stopping,
            ) as threads,
            self._haltable(threads),
            closing(threads.map(arriving(), lambda p: flow.given(p.payload.transit), admitted)) as landed,
        ):
            stack.callback(give_back)
            for found in landed:
                flow.land(found.packet.payload.transit, found.result, found.busy_s)
                if memory is not None:
                    borrowers.popleft().borrow(None)
                yield found.packet

    def _adjust(self, node: Node, threads: Threaded[_Packet]) -> None:
        wanted = self._workers(node)
        if wanted != threads.workers:
            threads.workers = wanted

    def _workers(self, node: Node) -> int:
        """Rows of a stage that are in work at a time here, as the user wants now."""
        wanted = self._control.threads(node.name) or node.threads
        return max(1, int(wanted * self._share)) if node.paid else wanted

    @property
    def _share(self) -> float:
        """What of the run's calls begin here: as much as of its cores is here."""
        return min(1.0, max(1, self._control.cores) / self._slots)

    def _asking(self, node: Node) -> Asking | None:
        if not isinstance(node.stage, PaidStage):
            return None
        assert self._book is not None, "where stages are paid there is a journal"

        def rate() -> float | None:
            ordered = self._control.rate(node.name)
            wanted = node.rate if ordered is None else ordered
            return wanted * self._share if wanted else None

        commands = [[c.command, c.key, c.value] for c in self._in_force if c.stage == node.name and c.command != SET]
        return Asking(node.stage, node.name, node.digest, self._book, Pace(rate), commands)

    @contextmanager
    def _haltable(self, threads: Threaded[_Packet]) -> Generator[None]:
        with self._changing:
            if self._halted:
                raise Interrupted("the stage was stopped while samples were on their way")
            self._active.append(threads)
        try:
            yield
        finally:
            with self._changing:
                self._active.remove(threads)
