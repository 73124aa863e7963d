"""The work of a slot in this product: bring one partition of the plan to its end."""

import zlib
from bisect import bisect_right

import msgspec

from data_bridge.config import Settings
from data_bridge.engine.base import Outcome, SlotControl, Work
from data_bridge.model.plan import Part, Plan
from data_bridge.model.store import ObjectStore
from data_bridge.pipelines.base import Takeover
from data_bridge.pipelines.factory import PipelineFactory

PAGE_BYTES = 1 << 20


class Parts:
    """The partitions of a plan, each with its files. They travel to a slot as compressed pages, one of which is open
    there at a time: a slot's memory and its start do not grow with the plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    @property
    def outline(self) -> Plan:
        """What all partitions have in common."""
        return self._plan.outline

    def __getitem__(self, index: int) -> Part:
        return self._plan.part(index)

    def __reduce__(self) -> "tuple[type[_Pages], tuple[object, ...]]":
        firsts: list[int] = []
        pages: list[bytes] = []
        page: list[bytes] = []
        size = 0
        for partition in self._plan.partitions:
            if not page:
                firsts.append(partition.index)
            page.append(msgspec.json.encode(self[partition.index]))
            size += len(page[-1])
            if size >= PAGE_BYTES or partition is self._plan.partitions[-1]:
                pages.append(zlib.compress(b"[" + b",".join(page) + b"]", 1))
                page, size = [], 0
        return _Pages, (msgspec.json.encode(self.outline), firsts, pages)


class _Pages(Parts):
    """The same in a slot."""

    def __init__(self, outline: bytes, firsts: list[int], pages: list[bytes]) -> None:
        super().__init__(Plan.model_validate_json(outline))
        self._sent = outline
        self._firsts = firsts
        self._pages = pages
        self._number = -1
        self._open: list[msgspec.Raw] = []

    def __getitem__(self, index: int) -> Part:
        number = bisect_right(self._firsts, index) - 1
        if number != self._number:
            self._open = msgspec.json.decode(zlib.decompress(self._pages[number]), type=list[msgspec.Raw])
            self._number = number
        return Part.model_validate_json(bytes(self._open[index - self._firsts[number]]))

    def __reduce__(self) -> "tuple[type[_Pages], tuple[object, ...]]":
        return _Pages, (self._sent, self._firsts, self._pages)


class PartitionWork(msgspec.Struct, frozen=True):
    """Makes a slot's pipeline from values alone, so that any process can.

    The store travels as the driver probed it: a slot must not take for atomic what the probe found not to be.
    """

    settings: Settings
    parts: Parts
    store: ObjectStore
    driver: str
    slots: int = 1
    takeover: Takeover = msgspec.field(default_factory=Takeover)

    def __call__(self) -> Work:
        pipeline = PipelineFactory.create(self.settings, self.store, plan=self.parts.outline, slots=self.slots)

        def work(partition: int, control: SlotControl) -> Outcome:
            pipeline.share_among(control.slots or self.slots)
            ended = pipeline.process(self.parts[partition], control, driver=self.driver, takeover=self.takeover)
            return Outcome(partition, "done" if ended else "stopped")

        return work


class SurveyWork(msgspec.Struct, frozen=True):
    """The same for looking at partitions on behalf of a stage."""

    settings: Settings
    parts: Parts
    store: ObjectStore
    stage: str
    slots: int = 1

    def __call__(self) -> Work:
        pipeline = PipelineFactory.create(self.settings, self.store, plan=self.parts.outline, slots=self.slots)
        survey = next(survey for survey in pipeline.surveys() if survey.stage == self.stage)

        def work(partition: int, control: SlotControl) -> Outcome:
            ended = pipeline.look_at(self.parts[partition], survey, control)
            return Outcome(partition, "done" if ended else "stopped")

        return work
