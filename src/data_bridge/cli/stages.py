"""`data-bridge stages`: which kinds of stages there are, what each may be told, and a start for one's own."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from data_bridge.cli import words
from data_bridge.errors import ConfigError

if TYPE_CHECKING:
    from data_bridge.stages.reference import KindInfo

app = typer.Typer(
    help="Kinds of stages: what there is, what each may be told, and a start for your own.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]


@app.command("list", epilog="Example: data-bridge stages list")
def list_(as_json: Json = False) -> None:
    """Show every kind of stage: those built in and those of installed packages."""
    from data_bridge.stages.reference import describe_all

    found, broken = describe_all()
    if as_json:
        words.say(words.json_of([{"kind": k.kind, "where": k.where, "description": k.summary} for k in found]))
        return
    width = max(len(kind.kind) for kind in found)
    words.say("\n".join(f"{kind.kind:<{width}}  {kind.summary}" for kind in found))
    for kind, why in broken.items():
        words.tell(f"{kind}: {why}")


@app.command(epilog="Example: data-bridge stages show filter")
def show(
    kind: Annotated[str, typer.Argument(help="A kind, `package.module:Class` or `file.py:Class`.")],
    as_json: Json = False,
) -> None:
    """Show what a kind of stage does and its options."""
    from data_bridge.stages.reference import describe

    found = describe(kind)
    words.say(words.as_json(found) if as_json else told(found))


@app.command(epilog="Example: data-bridge stages new word-count")
def new(
    name: Annotated[str, typer.Argument(help="The package's name, such as word-count.")],
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Where to write it. [default: a folder of that name]")
    ] = None,
) -> None:
    """Start a stage of your own: a package that works, with a test that passes at once."""
    from data_bridge.cli.scaffold import scaffold

    files, to = scaffold(name), folder or Path(name)
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise ConfigError(f"{to} exists already and is not empty", hint="name another folder with --folder")
    try:
        for path, text in files.items():
            file = to / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {to}: {error.strerror}", hint="name another folder with --folder") from None
    words.say(f"wrote {to}\nnext: cd {to}, then  pytest  and  data-bridge run example.yaml")


def told(kind: "KindInfo") -> str:
    """A kind in a few paragraphs: what it does, where it runs, its options."""
    rows = [
        (o.name, o.default or "-", "" if o.live == "never" else f"live: {o.live}", f"{o.description} ({o.type})")
        for o in kind.options
    ]
    widths = [max((len(row[at].replace("`", "")) for row in rows), default=0) for at in range(3)]
    options = [
        "  ".join(
            ["", *(f"{cell.replace('`', ''):<{width}}" for cell, width in zip(row, widths, strict=False)), row[3]]
        )
        for row in rows
    ]
    passes = "samples may be sent past it (`enabled: false`)" if kind.bypassable else "samples cannot be sent past it"
    head = [f"{kind.kind}  ({kind.where})", "", kind.description, "", f"runs {kind.executor}; {passes}"]
    if kind.takes:
        head.append(f"inputs: {', '.join(kind.takes)}; outputs: {', '.join(kind.gives)}")
    own = ["", "commands:", *(f"  {name}  {about}" for name, about in kind.commands)] if kind.commands else []
    return "\n".join([*head, "", "options:", *(options or ["  none"]), *own]).replace("`", "")
