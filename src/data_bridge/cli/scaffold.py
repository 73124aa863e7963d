"""A stage of one's own to start from: a package with a stage that works, its test, and how a config uses it."""

import keyword
import re
from collections.abc import Mapping
from importlib.util import find_spec

from data_bridge.errors import ConfigError

_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")

_STAGE = '''\
"""`{kind}`: counts the words of a text."""

from data_bridge.model.batch import Row
from data_bridge.model.source import Field
from data_bridge.runtime.stage import Fields, Result, Skip, Stage, StageBatch, StageOptions, option


class {cls}Options(StageOptions):
    """What a config may say. `live`: whether it may change while the stage runs: never, paused or any."""

    field: str = option("text", min_length=1, description="the field that holds the text")
    least: int = option(1, ge=0, live="any", description="fewer words make the sample a failure")


class {cls}(Stage[{cls}Options]):
    """Adds the field `words`: how many words a text has.

    A pure function of the rows, their indices and the options: the same in every run, however the source is cut.
    """

    kind = "{kind}"
    Options = {cls}Options
    bypassable = False  # what follows may need the field it makes

    def fields(self, fields: Fields) -> Fields:
        """The schema at its output. What cannot work is refused here, before any sample is read."""
        return (*fields, Field(name="words", type="int64", nullable=False))

    def process(self, batch: StageBatch) -> Result:
        return batch.each(self._counted)

    def _counted(self, row: Row) -> Row:
        text = row.get(self.options.field)
        if not isinstance(text, str):
            raise Skip(f"field {{self.options.field!r}} is no text")  # the failure of this sample; the others go on
        words = len(text.split())
        if words < self.options.least:
            raise Skip(f"field {{self.options.field!r}} has {{words}} words, fewer than {{self.options.least}}")
        return {{**row, "words": words}}
'''

_TEST = '''\
from data_bridge.testing import StageContract, run_stage

from {package}.stage import {cls}, {cls}Options


class Test{cls}(StageContract):
    """The promises every stage keeps, for these samples."""

    kind = "{package}.stage:{cls}"
    options = {{"field": "text"}}
    samples = [{{"text": "two words"}}, {{"text": ""}}, {{"text": 5}}, {{"text": None}}, {{"text": "one"}}]
    refused = [{{"field": ""}}, {{"least": -1}}, {{"no_such_option": 1}}]


def test_it_counts_words() -> None:
    run = run_stage({cls}({cls}Options()), [{{"text": "two words"}}, {{"text": ""}}])

    assert run.samples == [{{"text": "two words", "words": 2}}]
    assert run.reasons == {{1: "field 'text' has 0 words, fewer than 1"}}
'''

_PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "{name}"
version = "0.1.0"
requires-python = ">=3.11"
dependencies = ["train-data-bridge"]

# with this, once the package is installed, a config may say `{kind}: {{…}}`
[project.entry-points."data_bridge.stages"]
{kind} = "{package}.stage:{cls}"

[dependency-groups]
dev = ["pytest"]

[tool.hatch.build.targets.wheel]
packages = ["{package}"]

[tool.pytest.ini_options]
pythonpath = ["."]
"""

_CONFIG = """\
# data-bridge run example.yaml
pipeline:
  input_uri: example.jsonl
  stages:
    # from this folder by its place; once the package is installed, by its name: `{kind}: {{field: text}}`
    - "{package}.stage:{cls}": {{field: text}}
"""

_SAMPLES = """\
{"text": "You see, but you do not observe."}
{"text": "The distinction is clear."}
"""


def scaffold(name: str) -> Mapping[str, str]:
    """The files of a package called so, by their paths in its folder. Raises ConfigError for what cannot be a package's name."""
    package = name.replace("-", "_")
    if not _NAME.fullmatch(name) or keyword.iskeyword(package):
        raise ConfigError(f"{name!r} cannot be the name of a package", hint="write it like word-count")
    if find_spec(package) is not None:
        raise ConfigError(f"there is a package {package!r} already", hint="take another name")
    cls = "".join(part.capitalize() for part in package.split("_"))
    words = {"name": name, "package": package, "cls": cls, "kind": package}
    return {
        f"{package}/__init__.py": f'"""Stages of {name}."""\n',
        f"{package}/stage.py": _STAGE.format(**words),
        f"tests/test_{package}.py": _TEST.format(**words),
        "pyproject.toml": _PYPROJECT.format(**words),
        "example.yaml": _CONFIG.format(**words),
        "example.jsonl": _SAMPLES,
    }
