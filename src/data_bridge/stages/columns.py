"""Fields that options name and fields that a stage makes, in the schema."""

from collections.abc import Sequence

from data_bridge.model.source import Field
from data_bridge.runtime.stage import Fields
from data_bridge.stages.named import ANYTHING, demand_type, look_up, type_of

FILE_TYPES = ("media", "binary", "large_binary")
TEXT_TYPES = ("string", "large_string")


def demand(fields: Fields, name: str, option: str, types: Sequence[str]) -> None:
    """Raises ConfigError where the field is not there, or of another type. Nothing known of the fields: any will do."""
    look_up(fields, [name], option)
    demand_type(fields, name, option, types[0], fits=type_of(fields, name) in {*types, *ANYTHING})


def with_fields(fields: Fields, *made: Field) -> Fields:
    """The fields with these in the place of those of their names; new ones come last."""
    by_name = {field.name: field for field in fields} | {field.name: field for field in made}
    return tuple(by_name.values())
