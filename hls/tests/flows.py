"""Benches of parts without ready: a beat counts whenever it is valid, and its results come after a fixed number of cycles."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hls.tests.bench import Bench, check

TESTS = ["without_gaps", "with_gaps", "reset_in_the_middle"]


@dataclass(frozen=True)
class Flow:
    """An instance of a part, or several, with beats that go in and results that must come out, as unsigned integers."""

    part: str
    """What stands for `PART` before its parameters in the body."""
    parameters: dict[str, int]
    body: str
    """Verilog, in which `NAME_in_valid` and so on are the signals of the bench."""
    in_bits: int
    out_bits: int
    beats: list[int]
    results: list[tuple[int, int, int]]
    """For each result the number of the beat that it waits for, the cycles from that beat to the result, and the result."""
    word_bits: int = 0
    """Bits of the words of a result, if their order is not defined."""


def values(parameters: Mapping[str, int], literals: Mapping[str, str] | None = None) -> str:
    """Return the parameters of an instance; `literals` are written as they are."""
    return ", ".join(f".{key}({value})" for key, value in {**parameters, **(literals or {})}.items())


def bench_of(flows: Sequence[Flow]) -> str:
    """Generate the top module `bench`: flow number i has the signals `ci_...`."""
    ports, body = ["input wire clk"], []
    for number, flow in enumerate(flows):
        name = f"c{number}"
        ports += [f"input wire {name}_rst", f"input wire {name}_in_valid", f"output wire {name}_out_valid"]
        ports += [f"input wire [{flow.in_bits - 1}:0] {name}_in_data", f"output wire [{flow.out_bits - 1}:0] {name}_out_data"]
        body.append(flow.body.replace("NAME", name).replace("PART #", f"{flow.part} #"))
    ports = [f"{port} /* verilator public_flat_rw */" for port in ports]
    return "module bench (\n    " + ",\n    ".join(ports) + "\n);\n" + "\n".join(body) + "\nendmodule\n"


def lint(bench: Bench, flows: Sequence[Flow]) -> None:
    """Require that Verilator has nothing to say about any flow."""
    bench.lint_text(bench_of(flows))


def simulate(bench: Bench, flows: Sequence[Flow]) -> None:
    """Require that all results are right and on time."""
    check(bench.run(bench_of(flows), flows, "cocotb_flows"), TESTS)


def survivors(bench: Bench, part: str, errors: Sequence[tuple[str, str]], *flows: Flow) -> list[tuple[str, str]]:
    """Simulate flows with a part as it is, and with one error each; return the errors that no flow noticed."""
    rtl, names = bench.copies_with_errors(part, errors)
    wrong = [
        replace(flow, body=flow.body.replace(part, name), part=flow.part.replace(part, name)) for name in names for flow in flows
    ]
    ended = bench.run(bench_of([*flows, *wrong]), [*flows, *wrong], "cocotb_flows", rtl)
    said = "\n".join(ended.failed.values())
    assert f"{part} " not in said, said
    return [error for name, error in zip(names, errors, strict=True) if f"{name} " not in said]
