"""What the commands say, as text or JSON; secrets are taken out of every word here."""

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from data_bridge.errors import BridgeError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from data_bridge.config import Settings
    from data_bridge.model.report import PlanReport, RunReport, SliceStatus, StatusReport, VerifyReport
    from data_bridge.monitor.detached import Detached
    from data_bridge.monitor.snapshot import Snapshot

SIGNIFICANT_WAIT = 0.1
"""Of the run's time: shorter waits for memory are not worth a word."""
STANDSTILL_S = 10.0
"""A partition that has not moved for so long is worth a word."""
_hidden: set[str] = set()


def hide_secrets_of(settings: "Settings") -> None:
    """From now on no secret value of these settings is printed."""
    from data_bridge.config import hidden_in

    _hidden.update(hidden_in(settings))


def redacted(text: str) -> str:
    """The text without known secrets, and without passwords and signatures of the addresses in it."""
    if not _hidden and "://" not in text:
        return text
    from data_bridge.config import redacted as without

    return without(text, _hidden)


def say(text: str) -> None:
    """To standard output."""
    sys.stdout.write(redacted(text) + "\n")
    sys.stdout.flush()


def tell(text: str) -> None:
    """To standard error: progress, notices."""
    sys.stderr.write(redacted(text) + "\n")
    sys.stderr.flush()


class Relay:
    """Passes what a run elsewhere writes on to standard error, whole lines at a time: a secret or a character may come in
    two parts. Each line begins with the mark."""

    def __init__(self, mark: str = "") -> None:
        self._rest, self._mark = b"", mark

    def __call__(self, said: bytes) -> None:
        whole, newline, self._rest = (self._rest + said).rpartition(b"\n")
        if newline:
            lines = harmless(whole.decode(errors="replace").removesuffix("\r"))
            tell(self._mark + lines.replace("\n", "\n" + self._mark))

    def flush(self) -> None:
        """Nothing more comes."""
        if self._rest:
            self(b"\n")


def harmless(text: str) -> str:
    """Lines of a stranger, without what a terminal would obey."""
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text.replace("\r\n", "\n"))


def fail(error: BridgeError) -> None:
    """An error and what to do next."""
    tell(f"error: {error.message}" + (f"\nhint: {error.hint}" if error.hint else ""))


def as_json(report: Any, now: "Snapshot | None" = None, **more: Any) -> str:
    """A report as one JSON document, with what a run says at this moment."""
    values = {**asdict(report), **more}
    if now is not None:
        import msgspec

        values["now"] = msgspec.to_builtins(now)
    if hasattr(report, "exit_code"):
        values["exit_code"] = report.exit_code
    return json_of(values)


def json_of(values: Any) -> str:
    """Plain values as one JSON document."""
    return json.dumps(values, indent=2, default=str)


def size(count: float | None) -> str:
    """Bytes for people: 1.4 GB."""
    if count is None:
        return "unknown"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def _known(exact: int | None, estimated: int | None) -> str:
    if exact is not None:
        return f"{exact:,}"
    return f"about {estimated:,} (estimated from a probe)" if estimated is not None else "known only after reading"


def plan(report: "PlanReport") -> str:
    """The plan as aligned lines."""
    lines = [
        ("source", f"{report.source}  ({report.source_format}, {report.files:,} files, {size(report.source_bytes)})"),
        ("destination", f"{report.destination}  ({_formats(report)})"),
        ("samples", _known(report.samples, report.samples_estimated)),
        ("shards", _known(report.shards, report.shards_estimated) + _shard_size(report)),
        ("partitions", f"{report.partitions:,}"),
        ("fields", ", ".join(f"{name}: {kind}" for name, kind in report.fields) or "none seen"),
        ("done", _done(report)),
        *(("warning", warning) for warning in report.warnings),
    ]
    return "\n".join(f"{name:<12} {text}" for name, text in lines)


def _formats(report: "PlanReport") -> str:
    return ", ".join(f"{name}/: {kind}" for name, kind in report.writers.items()) or report.format


def _shard_size(report: "PlanReport") -> str:
    return f", about {size(report.shard_bytes_estimated)} each" if report.shard_bytes_estimated else ""


def _done(report: "PlanReport") -> str:
    if report.complete:
        return f"everything: run {report.run} is complete"
    if report.run is None or not report.samples_done:
        return "nothing yet"
    return (
        f"{report.samples_done:,} samples in {report.shards_done:,} shards, "
        f"{report.partitions_done:,} of {report.partitions:,} partitions (run {report.run})"
    )


def result(report: "RunReport", command: str) -> str:
    """How a run ended, where the dataset is, and how to read it."""
    amount = f"{report.samples:,} samples in {report.shards:,} shards, {size(report.bytes)}"
    if report.status == "interrupted":
        return f"stopped: {amount} committed at {report.destination}\nto go on: {command}"
    what = f"slice {report.slice} " if report.slice else ""
    lines = [f"{what}{report.status.replace('_', ' ')}: {amount}, {report.seconds:.1f} s"]
    if report.failed:
        lines.append(f"failed:      {report.failed:,} samples, listed in the manifest's failure files")
    lines += [f"paid:        {_paid(paid)} (stage {stage})" for stage, paid in report.paid.items()]
    if report.memory_waited_s > SIGNIFICANT_WAIT * report.seconds:
        lines.append(
            f"memory:      {report.memory_waited_s:.1f} s of waiting for room, over all threads: "
            "a larger pipeline.memory_bytes may be faster"
        )
    lines.append(f"dataset:     {report.destination}")
    if report.slice:
        return "\n".join([*lines, "when all slices are done: data-bridge finalize, with the same config and --prefix"])
    lines += [
        f"manifest:    {report.manifest}",
        "read it with:",
        *(line for place, kind in _places(report) for line in _reading(place, kind)),
    ]
    return "\n".join(lines)


def _places(report: "RunReport") -> list[tuple[str, str]]:
    """Where shards are, and their format: a folder for each of several writers."""
    if not report.writers:
        return [(report.destination, report.format)]
    return [(f"{report.destination.rstrip('/')}/{name}", kind) for name, kind in report.writers.items()]


def _reading(place: str, kind: str) -> list[str]:
    local = unquote(place.removeprefix("file://"))
    if kind == "litdata":
        where = local if place.startswith("file://") else place.replace("r2://", "s3://")
        options = "" if place.startswith("file://") else ", storage_options={...}"
        return [f"  litdata.StreamingDataset({where!r}{options})"]
    if place.startswith("file://"):
        return [
            f'  webdataset.WebDataset(sorted(glob.glob("{local}/*.tar*")), shardshuffle=False)',
            f'  datasets.load_dataset("webdataset", data_files="{local}/*.tar*", split="train", streaming=True)',
        ]
    return ["  webdataset.WebDataset([presigned URLs of the shards in shards.txt], shardshuffle=False)"]


def status(
    report: "StatusReport",
    now: "Snapshot | None" = None,
    files: "Mapping[str, Path] | None" = None,
    background: "Detached | None" = None,
) -> str:
    """The ledger in a few lines, what a run says at this moment, where its stages left something to look at, and how the last
    run in the background fares."""
    expected = f" of {report.samples_expected:,}" if report.samples_expected is not None else ""
    lines = [
        ("run", f"{report.run}  {'complete' if report.complete else 'not complete'}"),
        ("destination", report.destination),
        (
            "partitions",
            f"{report.partitions_done:,} of {report.partitions:,} done, {report.partitions_held:,} claimed, {report.partitions_failed:,} failed",
        ),
        ("samples", f"{report.samples:,}{expected} committed, {report.failed:,} failed"),
        ("shards", f"{report.shards:,}, {size(report.bytes)}"),
        *((f"{s.name} paid", _paid(s.paid.model_dump())) for s in report.stages if s.paid is not None),
        *((f"slice {s.slice}", _slice(s)) for s in report.slices),
        *(("error", error) for error in report.errors[:5]),
        *((f"{name} in", str(folder)) for name, folder in (files or {}).items()),
        *(("background", f"{_fares(one)}; its words: {one.log}") for one in (background,) if one is not None),
    ]
    if now is not None:
        busiest = f", most at work: {now.busiest}" if now.busiest else ""
        slots = f"{len(now.slots)} partition{'' if len(now.slots) == 1 else 's'} in work"
        lines += [
            (
                "slow",
                f"partition {s.partition} has not moved for {s.still_s:.0f} s, at {s.busiest or 'its start'}"
                + (f", {s.full} is full" if s.full else ""),
            )
            for s in now.slots
            if s.still_s >= STANDSTILL_S
        ]
        lines.append(("now", f"{now.rate('run', 'samples_packed'):,.0f} samples/s packed, {slots}{busiest}"))
    return "\n".join(f"{name:<12} {text}" for name, text in lines)


def _fares(background: "Detached") -> str:
    if background.exit_code is not None:
        return f"ended with exit code {background.exit_code}"
    if background.running:
        return f"process {background.pid} works"
    return f"process {background.pid} was killed: run the same command again"


def in_background(background: "Detached | None") -> dict[str, Any] | None:
    """A run in the background as JSON has it."""
    if background is None:
        return None
    names = ("pid", "running", "exit_code", "began", "ended", "log")
    return {name: getattr(background, name) for name in names}


def _paid(paid: "Mapping[str, float]") -> str:
    tokens = f"{paid['tokens_in']:,} tokens in, {paid['tokens_out']:,} tokens out"
    return f"${paid['cost_usd']:,.4f} for {paid['answers']:,} answers, {tokens}"


def _slice(part: "SliceStatus") -> str:
    done = f"{part.partitions_done:,} of {part.partitions:,} partitions done, {part.partitions_held:,} claimed"
    return f"{done}, {part.samples:,} samples in {part.shards:,} shards"


def verified(report: "VerifyReport") -> str:
    """What was checked and every problem found."""
    depth = "content, hashes and counts" if report.deep else "presence and sizes (add --deep to read every shard)"
    head = f"{report.shards:,} shards, {report.samples:,} samples, {size(report.bytes)} at {report.destination}: checked {depth}"
    if not report.problems:
        return f"{head}\nsound"
    return "\n".join([head, f"{len(report.problems)} problems:", *(f"  {p}" for p in report.problems)])
