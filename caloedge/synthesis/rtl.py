"""A plain RTL project as it lies on disk: its record, and which source each module needs.

Only what deciding about synthesis takes is read from the Verilog: where a module begins, its header, and which modules and
files it names. The language itself is the synthesiser's business.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from caloedge.errors import BadData, UnknownName, Unsupported
from caloedge.project import RECORD, read_record

CLOCK = "clk"

_COMMENT = re.compile(r'"(?:\\.|[^"\\\n])*"|//[^\n]*|/\*.*?\*/', re.DOTALL)
_MODULE = re.compile(r"(?:^|\*\))[ \t]*(module\s+(\w+)[^;]*;)", re.MULTILINE)
_NAME = re.compile(r"\b[A-Za-z_]\w*\b")
_PORT = re.compile(r"\b(input|output)\b(?:\s+(?:wire|reg|signed)\b)*\s*(?:\[(\d+):0\])?\s*(\w+)")
_STRING = re.compile(r'"([^"\n]+)"')


@dataclass(frozen=True)
class ModulePort:
    """One port of the top module."""

    name: str
    direction: str
    """`input` or `output`."""
    width: int
    """Width [bits]."""


@dataclass(frozen=True)
class Source:
    """One source file."""

    path: str
    """Path relative to the project, with forward slashes."""
    text: str
    headers: Mapping[str, str]
    """Header of each module defined here: the text from `module` to the semicolon after its ports."""
    words: frozenset[str]
    """Every identifier outside comments and strings."""
    files: tuple[str, ...]
    """Existing files that its strings name (memory contents, includes), relative to the project."""


@dataclass(frozen=True)
class Project:
    """An RTL project folder."""

    folder: Path
    top: str
    sources: tuple[Source, ...]
    blocks: Mapping[str, int]
    """Number of instances in the whole design, by module."""
    ports: tuple[ModulePort, ...]
    """Ports of the top module."""

    def home(self, module: str) -> Source:
        """Return the file that defines a module."""
        for source in self.sources:
            if module in source.headers:
                return source
        raise BadData(f"{self.folder / RECORD}: no source defines module {module}; build the project again")

    def needed(self, module: str, without: Iterable[str] = ()) -> tuple[Source, ...]:
        """Return the files that a module and everything below it needs, in their order, not descending into `without`."""
        homes = {name: source for source in self.sources for name in source.headers}
        reached: set[str] = set()
        waiting = [self.home(module)]
        while waiting:
            source = waiting.pop()
            if source.path not in reached:
                reached.add(source.path)
                names = (source.words & homes.keys()) - set(without)
                waiting += [homes[name] for name in names if homes[name].path not in reached]
        return tuple(source for source in self.sources if source.path in reached)


def read(folder: Path) -> Project:
    """Read and check a project that backend `rtl` wrote; errors name what is wrong."""
    values = read_record(folder, "rtl")
    try:
        project = Project(
            folder=folder,
            top=str(values["top"]),
            sources=tuple(_source(folder, str(name)) for name in values["sources"]),
            blocks={str(name): int(number) for name, number in values["blocks"].items()},
            ports=tuple(_port(entry) for entry in values["ports"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadData(f"{folder / RECORD}: {type(error).__name__} {error}; build the project again") from None
    _check(project)
    return project


def alone(project: Project, block: str) -> Project:
    """Return a project of which one block is the top, named without the project's name in front: a lane, a layer."""
    blocks = {module.removeprefix(f"{project.top}_"): module for module in project.blocks}
    if block not in blocks:
        raise UnknownName(f"{project.folder}: no block {block!r}; there are: {', '.join(blocks) or 'none'}")
    ports = _PORT.findall(project.home(blocks[block]).headers[blocks[block]])
    return replace(
        project,
        top=blocks[block],
        blocks={},
        ports=tuple(ModulePort(name, direction, int(high or 0) + 1) for direction, high, name in ports),
    )


def _port(entry: Any) -> ModulePort:
    name, direction, width = entry
    if direction not in ("input", "output") or int(width) < 1:
        raise ValueError(f"port {name}: {direction} of {width} bits")
    return ModulePort(str(name), direction, int(width))


def _source(folder: Path, name: str) -> Source:
    try:
        text = (folder / name).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BadData(f"{folder / name} is missing but named in {RECORD}; build the project again") from None
    plain = _COMMENT.sub(lambda match: match[0] if match[0].startswith('"') else " ", text)
    headers = {match[2]: match[1] for match in _MODULE.finditer(plain)}
    paths = {place for string in _STRING.findall(plain) for place in (string, str(Path(name).parent / string))}
    files = tuple(sorted(place for place in paths if (folder / place).is_file()))
    return Source(name, text, headers, frozenset(_NAME.findall(_STRING.sub(" ", plain))), files)


def _check(project: Project) -> None:
    record = project.folder / RECORD
    defined: dict[str, str] = {}
    for source in project.sources:
        for module in source.headers:
            if module in defined:
                raise BadData(f"{record}: module {module} is in both {defined[module]} and {source.path}; build it again")
            defined[module] = source.path
    project.home(project.top)
    for block, number in project.blocks.items():
        project.home(block)
        if number < 1:
            raise BadData(f"{record}: block {block} occurs {number} times; build the project again")
        if not re.search(r"\b(?:input|output)\b", project.home(block).headers[block]):
            raise Unsupported(f"{record}: block {block} declares its ports in its body; declare them in the module's header")
        override = re.compile(rf"(?<!module\s)\b{re.escape(block)}\s*#\s*\(")
        if any(override.search(source.text) for source in project.sources):
            raise Unsupported(
                f"{record}: block {block} is used with parameters, so its copies may differ; give each its own module"
            )
    if CLOCK not in {port.name for port in project.ports if port.direction == "input" and port.width == 1}:
        raise BadData(f"{record}: no input {CLOCK} of one bit among the ports; build the project again")
