"""Verilog as text: the parts of a written design, ports, streams and instances."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

VerilogPort = tuple[str, str, int]
"""Name, `input` or `output`, bits."""


@dataclass
class VerilogText:
    """A written design."""

    top: str
    """Name of the top module."""
    modules: dict[str, str] = field(default_factory=dict)
    """Text by module name."""
    parts: set[str] = field(default_factory=set)
    """Hand-written modules that it uses."""
    blocks: dict[str, int] = field(default_factory=dict)
    """Modules that are synthesised by themselves, and how often each occurs."""
    ports: list[VerilogPort] = field(default_factory=list)
    adders: int = 0
    pipeline_cycles: int | None = None
    """Cycles from input to output, where they are the same for every event."""


def renamed(modules: Mapping[str, str], names: Mapping[str, str]) -> dict[str, str]:
    """Return the text of modules by name, with all their names replaced wherever they stand."""
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, names))})\b")
    return {names[name]: pattern.sub(lambda match: names[match[1]], text) for name, text in modules.items()}


def part_of(name: str, index: int, width: int) -> str:
    """Return one word of a bus."""
    return f"{name}[{(index + 1) * width - 1}:{index * width}]"


SIMULATED_ONCE = "  /* verilator no_inline_module */ // one code for all copies in the simulation"


def port_list(ports: list[VerilogPort]) -> str:
    """Return the declaration of ports in a module's header."""
    return ",\n".join(f"  {kind} {name}" if bits == 1 else f"  {kind} [{bits - 1}:0] {name}" for name, kind, bits in ports)


def stream_ports(source_bits: int, result_bits: int) -> list[VerilogPort]:
    """Return the ports of a module with a stream at both ends."""
    return [("clk", "input", 1), ("rst", "input", 1),
            ("in_valid", "input", 1), ("in_ready", "output", 1), ("in_data", "input", source_bits),
            ("out_valid", "output", 1), ("out_ready", "input", 1), ("out_data", "output", result_bits)]  # fmt: skip


def stream_module(
    name: str, remark: str, source_bits: int, result_bits: int, lines: list[str], more_ports: Sequence[VerilogPort] = ()
) -> str:
    """Return a module with a stream at both ends."""
    ports = port_list([*stream_ports(source_bits, result_bits), *more_ports])
    body = "\n".join(lines)
    return f"// {remark}\nmodule {name} (\n{ports}\n);\n{body}\nendmodule\n"


def instance(module: str, unit: str, text: VerilogText, parameters: dict[str, int | str], ports: dict[str, str]) -> str:
    """Return an instance of a hand-written part, and note that it is used."""
    text.parts.add(module)
    arguments = ", ".join(f".{name}({value})" for name, value in parameters.items())
    return f"  {module} #({arguments}) {unit} ({_connections(ports)});"


def written_instance(module: str, unit: str, ports: dict[str, str]) -> str:
    """Return an instance of a written module, which has no parameters."""
    return f"  {module} {unit} ({_connections(ports)});"


def _connections(ports: dict[str, str]) -> str:
    """Return the wires at all ports, clock and reset first; a port with an empty wire is left out."""
    return ", ".join(f".{name}({wire})" for name, wire in {"clk": "clk", "rst": "rst", **ports}.items() if wire)


def stream_end(side: str, stream: str) -> dict[str, str]:
    """Return the ports of one side of a part, `in` or `out`, at a stream."""
    return {f"{side}_{signal}": f"{stream}_{signal}" for signal in ("valid", "ready", "data")}


def link(before: str, after: str) -> dict[str, str]:
    """Return the ports of a part between two streams."""
    return stream_end("in", before) | stream_end("out", after)


def stream_wires(name: str, bits: int) -> str:
    """Return the declaration of a stream's wires."""
    return f"  wire {name}_valid, {name}_ready;\n  wire [{bits - 1}:0] {name}_data;"
