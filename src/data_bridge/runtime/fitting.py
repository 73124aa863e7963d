"""Rows against the schemas that a stage declares: what does not fit is the failure of its sample, with the field, what was
expected and what was found."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from data_bridge.model import source
from data_bridge.model.batch import ArrowRows, Media, RowFailure, Rows
from data_bridge.rows.decoding import decode
from data_bridge.rows.picking import take
from data_bridge.runtime.multistage import MultiStage
from data_bridge.runtime.schemas import kinds_of, model_of, words_of
from data_bridge.runtime.stage import Fields, Result, RowSchema, Stage, StageBatch

if TYPE_CHECKING:
    import pyarrow as pa

_MOST = 60
"""Characters of a value that a failure tells."""


def fitted(stage: Stage[Any], batch: StageBatch) -> Result | Mapping[str, Result]:
    """What a stage makes of a batch, held to its schemas on both sides."""
    entered = entering(stage, batch)
    return entered.leaving(stage.process(entered.batch))


class Entered(msgspec.Struct, frozen=True):
    """What of a batch a stage is given. Its row i is row `kept[i]` of the whole one; None = it is the whole one."""

    stage: Stage[Any]
    batch: StageBatch
    kept: NDArray[np.int64] | None = None
    failures: tuple[RowFailure, ...] = ()

    def leaving(self, made: Result | Mapping[str, Result]) -> Result | Mapping[str, Result]:
        """What the stage made of it, as of the whole batch, without what does not fit: a row of which anything at any output
        does not fit is in none of them."""
        schema = self.stage.output_schema
        if self.kept is None and schema is None:
            return made
        results = [made] if isinstance(made, Result) else list({id(one): one for one in made.values()}.values())
        wrong: dict[int, str] = {}
        for one in results:
            for row, why in _misfits(schema, one.rows, "gave").items():
                wrong.setdefault(int(one.positions[row]), why)
        left = {id(one): self._left(one, list(wrong)) for one in results}
        first, misfits = id(results[0]), [RowFailure(row, why) for row, why in wrong.items()]
        left[first] = left[first].failing([*self.failures, *self._placed(misfits)])
        return left[first] if isinstance(made, Result) else {name: left[id(one)] for name, one in made.items()}

    def whole(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of what the stage was given as rows of the whole batch."""
        return rows if self.kept is None else self.kept[rows]

    def _left(self, made: Result, wrong: Sequence[int]) -> Result:
        fits, used = made, made.used
        if wrong:
            used = None if used is None else used[~np.isin(used, wrong)]
            at = np.flatnonzero(~np.isin(made.positions, wrong))
            fits = replace(made, rows=take(made.rows, at), positions=made.positions[at])
        used = None if used is None else self.whole(used)
        kept = self.kept
        metrics = made.metrics if kept is None else tuple((int(kept[row]), values) for row, values in made.metrics)
        return Result(fits.rows, self.whole(fits.positions), self._placed(fits.failures), used, metrics=metrics)

    def _placed(self, failures: Sequence[RowFailure]) -> tuple[RowFailure, ...]:
        rows = self.whole(np.array([f.offset for f in failures], dtype=np.int64)).tolist()
        return tuple(replace(f, offset=row) for f, row in zip(failures, rows, strict=True))


def entering(stage: Stage[Any], batch: StageBatch) -> Entered:
    """What of a batch fits into a stage."""
    wrong = _misfits(stage.input_schema, batch.rows, "needs")
    if isinstance(stage, MultiStage):
        wrong = _misfits_of_samples(stage, batch)
    if not wrong:
        return Entered(stage, batch)
    kept = np.delete(np.arange(len(batch), dtype=np.int64), list(wrong))
    if isinstance(stage, MultiStage):  # what else came of the same sample is not used without it
        kept = np.flatnonzero(~np.isin(batch.indices, batch.indices[list(wrong)]))
    origins = None if batch.origins is None else batch.origins[kept]
    fit = StageBatch(take(batch.rows, kept), batch.indices[kept], batch.prefix, inputs=batch.inputs, origins=origins)
    return Entered(stage, fit, kept, tuple(RowFailure(row, why) for row, why in wrong.items()))


def _misfits_of_samples(stage: MultiStage[Any], batch: StageBatch) -> dict[int, str]:
    """Why samples do not fit into their inputs, by the first row of each that does not."""
    assert batch.origins is not None, "only such a stage is asked"
    wrong: dict[int, str] = {}
    for number, name in enumerate(batch.inputs):
        at = np.flatnonzero(batch.origins == number)
        found = _misfits(stage.takes[name], take(batch.rows, at), f"needs at {name}") if stage.takes[name] else {}
        wrong |= {int(at[row]): why for row, why in found.items()}
    first: dict[int, int] = {}
    for row in sorted(wrong):
        first.setdefault(int(batch.indices[row]), row)
    return {row: wrong[row] for row in first.values()}


def _misfits(schema: RowSchema, rows: Rows, verb: str) -> dict[int, str]:
    """Why rows do not fit, by row, ascending. Rows that cannot be read are left to whoever reads them."""
    if schema is None or (isinstance(rows, ArrowRows) and _surely_fits(schema, rows)):
        return {}
    check = model_of(schema).__pydantic_validator__.validate_python
    found, positions, _ = decode(rows)
    wrong: dict[int, str] = {}
    for at, row in zip(positions.tolist(), found, strict=True):
        try:
            check(_asked(row), strict=True)
        except ValidationError as error:
            wrong[at] = _told(error, verb)
    return wrong


def _surely_fits(schema: "type[BaseModel] | pa.Schema", rows: ArrowRows) -> bool:
    """Whether columns have the very types, so that no value need be looked at."""
    if isinstance(schema, type):
        return False
    given = rows.batch.schema
    for wanted in schema:
        at = given.get_field_index(wanted.name)
        if at < 0 or given.field(at).type != wanted.type:
            return False
        if not wanted.nullable and rows.batch.column(at).null_count:
            return False
    return True


def _asked(value: Any) -> Any:
    """A value as a schema speaks of it: files as their bytes, arrays as lists."""
    if isinstance(value, Media):
        return value.data
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, dict):
        return {key: _asked(inner) for key, inner in value.items()}
    return [_asked(inner) for inner in value] if isinstance(value, list) else value


def _told(error: ValidationError, verb: str) -> str:
    first, *more = error.errors(include_url=False)
    name = ".".join(map(str, first["loc"])) or "the sample"
    others = f" (and {len(more)} more)" if more else ""
    if first["type"] == "missing":
        return f"{verb} `{name}`: expected a value, found none{others}"
    wanted = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    if not first["loc"]:
        return f"{verb} a sample: {wanted}{others}"
    value = first["input"]
    shown = "null" if value is None else f"{type(value).__name__} {str(value)[:_MOST]!r}"
    return f"{verb} `{name}`: expected {wanted}, found {shown}{others}"


def mismatches(schema: RowSchema, fields: Fields, verb: str) -> Iterator[str]:
    """What can be told of fields before any row is there: those that are missing, and types that no value of theirs has."""
    if schema is None or not fields:
        return
    known = {field.name: field for field in fields}
    for name, info in model_of(schema).model_fields.items():
        names = [info.alias] if info.alias else [name]
        wanted = kinds_of(info.annotation)
        field = next((known[n] for n in names if n in known), None)
        if field is None:
            if info.is_required():
                yield f"{verb} `{names[0]}`: expected {words_of(wanted)}, found no such field among {', '.join(known)}"
        elif wanted and (found := _family(field)) and not _agree(found, wanted):
            yield f"{verb} `{names[0]}`: expected {words_of(wanted)}, found {field.type}"


def _agree(found: str, wanted: frozenset[str]) -> bool:
    return found in wanted or (found == "int" and "float" in wanted)


def _family(field: source.Field) -> str | None:
    """The kind of values a field has, as stages get them; None where anything may come."""
    head = field.type.partition("<")[0].partition("[")[0].partition("(")[0]
    if "list" in head:
        return "list"
    if head.startswith(("int", "uint")):
        return "int"
    if head.startswith(("decimal",)):
        return "decimal"
    if head.startswith(("string", "large_string", "timestamp", "date", "time", "duration")):
        return "text"
    if head in ("media", "binary", "large_binary", "fixed_size_binary"):
        return "bytes"
    return {"bool": "bool", "float": "float", "double": "float", "halffloat": "float", "struct": "struct"}.get(head)
