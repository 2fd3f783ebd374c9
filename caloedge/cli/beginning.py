"""Command that writes the template of a task, network or target: new."""

import importlib.util
import keyword
import re
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from caloedge.catalog import names
from caloedge.cli import completion
from caloedge.cli.terminal import say
from caloedge.errors import UnknownName, UserError, meant
from caloedge.files import write_text

KINDS = ("task", "network", "target")
RECIPE = "recipe.yaml"
MARK = "# Written by `caloedge new`"
"""First words of a recipe that may be changed to name what is new."""


def new(
    kind: Annotated[str, typer.Argument(help="task, network or target.", autocompletion=completion.one_of(list(KINDS)))],
    name: Annotated[str, typer.Argument(help="Its name, which becomes NAME.py.")],
    folder: Annotated[Path, typer.Option(help="Where to write it.")] = Path(),
) -> None:
    """Write a small task, network or target that runs, and a recipe beside it that names it, to be made one's own."""
    if kind not in KINDS:
        raise UnknownName(f"nothing new of kind {kind!r}{meant(kind, KINDS)}; there are: {', '.join(KINDS)}")
    _check_name(kind, name)
    place, recipe = folder / f"{name}.py", folder / RECIPE
    if place.exists():
        raise UserError(f"{place}: exists already; remove it or give another name")
    write_text(place, _template(f"{kind}.py", name))
    say(f"{place}: a {kind} to be changed where it says CHANGE")
    text = recipe.read_text(encoding="utf-8") if recipe.exists() else _template(RECIPE, name)
    if not text.startswith(MARK):
        say(f"{recipe}: left as it is; to use the {kind}, write there: {kind}: {name}")
        return
    write_text(recipe, re.sub(rf"^{kind}: .*$", f"{kind}: {name}", text, count=1, flags=re.MULTILINE))
    say(f"{recipe}: names it; next: caloedge train {recipe}")


def _check_name(kind: str, name: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise UserError(f"{kind} {name!r}: give a name of small letters, digits and _, such as my_{kind}")
    if any(name in names(other_kind) for other_kind in KINDS) or importlib.util.find_spec(name):
        raise UserError(
            f"{kind} {name!r}: is the name of another plug-in or Python module; give it one of its own, e.g. my_{name}"
        )


def _template(file: str, name: str) -> str:
    return (files("caloedge") / "templates" / f"{file}.txt").read_text(encoding="utf-8").replace("NAME", name)
