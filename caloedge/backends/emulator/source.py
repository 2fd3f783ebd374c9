"""The C++ source of a network and its C header, as text."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources

import jinja2
import numpy as np

from caloedge.backends.emulator.layout import code_type
from caloedge.backends.emulator.steps import Block, write_block
from caloedge.compiler.graph import Graph
from caloedge.compiler.ops import InputQuantiser, Output
from caloedge.project import stem

PARTS = ("caloedge_block.h", "caloedge_emulator.h", "caloedge_nodes.h", "caloedge_threads.h")
"""The fixed parts, shipped in `hls/emulator` with the templates."""


@dataclass(frozen=True)
class CPort:
    """One input or output as C sees it: value = (code - zero_point) * scale + offset."""

    name: str
    argument: str
    """Name of the C argument."""
    type: str
    """Narrowest C type of its codes."""
    shape: tuple[int, ...]
    format: str
    low: int
    high: int
    rows_type: str
    """Number type of its rows."""
    offset: int
    """First byte of its rows in the memory of a block."""
    scales: tuple[str, ...]
    """One scale, or one per element, in hexadecimal: exact."""
    offsets: tuple[str, ...]
    """As many offsets."""
    zero_point: int

    @property
    def elements(self) -> int:
        """Codes per event."""
        return int(np.prod(self.shape))

    @property
    def literal(self) -> str:
        """The name as a C string; whatever is not plain ASCII goes in as octal numbers."""
        plain = (chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\?' else f"\\{byte:03o}" for byte in self.name.encode())
        return f'"{"".join(plain)}"'


@dataclass(frozen=True)
class LibrarySource:
    """A generated network."""

    prefix: str
    """Begin of all its symbols, and the name of its namespace and files."""
    inputs: tuple[CPort, ...]
    outputs: tuple[CPort, ...]
    files: dict[str, str]
    """Contents by file name."""

    @property
    def interface(self) -> str:
        """Name of the source that holds the C interface."""
        return f"{self.prefix}.cpp"

    @property
    def block(self) -> str:
        """Name of the source that holds the arithmetic."""
        return f"{self.prefix}_block.cpp"


def write(graph: Graph, name: str) -> LibrarySource:
    """Write header and source of a network; `name` and the graph's digest name its symbols."""
    prefix, block = stem(name, graph.digest), write_block(graph)
    inputs, outputs = tuple(_input(block, op) for op in graph.inputs), tuple(_output(block, op) for op in graph.outputs)
    ports, used = (*inputs, *outputs), set(re.findall(r"\w+", "\n".join(block.statements)))
    narrow, wide = [port.type for port in ports], ["int64_t"] * len(ports)
    signatures = [(_parameters(ports, len(inputs), types), types) for types in ([narrow] if narrow == wide else [narrow, wide])]
    values = {
        "digest": graph.digest,
        "prefix": prefix,
        "inputs": inputs,
        "outputs": outputs,
        "arguments": ", ".join(port.argument for port in ports),
        "signatures": signatures,
        "parameters": signatures[0][0],
        "wide_parameters": signatures[-1][0],
        "memory_bytes": block.layout.size,
        "constants": block.constants,
        "rows": [(rows, kind, offset) for rows, kind, offset in _rows(block) if rows in used],
        "statements": block.statements,
    }
    folder = resources.files("caloedge.hls") / "emulator"
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
    environment.filters["zip"] = zip
    files = {part: (folder / part).read_text(encoding="utf-8") for part in PARTS}
    for kind in (".h", ".cpp", "_block.cpp"):
        template = (folder / f"network{kind}.jinja").read_text(encoding="utf-8")
        files[f"{prefix}{kind}"] = environment.from_string(template).render(values).rstrip() + "\n"
    return LibrarySource(prefix, inputs, outputs, files)


def _rows(block: Block) -> Iterator[tuple[str, str, int]]:
    """Yield name, number type and first byte of the rows of every tensor."""
    for name, buffer in block.layout.buffers.items():
        yield block.rows(name), buffer.type, buffer.offset


def _parameters(ports: Sequence[CPort], n_inputs: int, types: Sequence[str]) -> str:
    """Declare the pointers to codes of these types."""
    pointers = [f"{kind} *{port.argument}" for port, kind in zip(ports, types, strict=True)]
    return ", ".join([*(f"const {pointer}" for pointer in pointers[:n_inputs]), *pointers[n_inputs:]])


def _input(block: Block, op: InputQuantiser) -> CPort:
    return _port(block, op.name, np.array([op.format.lsb * op.scale]), np.zeros(1), op.zero_point)


def _output(block: Block, op: Output) -> CPort:
    tensor = block.graph.tensors[op.name]
    scale = np.asarray(tensor.format.lsb if op.scale is None else op.scale, dtype=np.float64)
    offset = np.asarray(0.0 if op.offset is None else op.offset, dtype=np.float64)
    if max(scale.size, offset.size) > 1:
        scale, offset = (np.broadcast_to(values, tensor.shape) for values in (scale, offset))
    return _port(block, op.name, scale, offset, 0)


def _port(block: Block, name: str, scale: np.ndarray, offset: np.ndarray, zero_point: int) -> CPort:
    tensor, buffer = block.graph.tensors[name], block.layout.buffers[name]
    low, high = tensor.range
    return CPort(
        name=name,
        argument=f"{block.names[name]}_codes",
        type=code_type(low, high),
        shape=tensor.shape,
        format=str(tensor.format),
        low=low,
        high=high,
        rows_type=buffer.type,
        offset=buffer.offset,
        scales=tuple(float(value).hex() for value in scale.reshape(-1)),
        offsets=tuple(float(value).hex() for value in offset.reshape(-1)),
        zero_point=zero_point,
    )
