"""Test benches: several instances of the parts in one generated top module, built and run with cocotb's Verilator runner.

A case is one parameter set of a part with its input and the output that a plain Python model expects; the cocotb modules
`cocotb_streams` and `cocotb_combinational` only drive and compare, so one build serves many cases.
"""

import json
import os
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from caloedge import tools
from caloedge.errors import MissingTool

RTL = Path(__file__).parents[1] / "rtl"


@dataclass(frozen=True)
class Case:
    """One parameter set of a part with its test vectors; words and beats are unsigned integers."""

    part: str
    parameters: dict[str, int]
    in_bits: int
    out_bits: int
    events: list[list[int]]
    """Input beats of each event; for a combinational part one beat each."""
    results: list[list[int]]
    """Output beats of each event."""
    clocked: bool = True
    cycles: int = 0
    """Cycles per event without stalls."""
    latency: int = 0
    """Cycles from the first input that stands ready after a reset to the first output that leaves, without stalls."""
    leaves: list[int] = field(default_factory=list)
    """Cycle in which each output beat leaves without stalls: instead of `cycles` and `latency` where events differ."""
    capacity: tuple[int, int] = (0, 1 << 30)
    """Fewest and most input beats that may be taken while no output is."""
    more_ports: tuple[str, ...] = ()
    """Connections besides those of the stream; `NAME` stands for the instance, here and in `wiring`."""
    connections: dict[str, str] = field(default_factory=dict)
    """What ports of the stream are connected to instead of `NAME_port`."""
    data_elsewhere: bool = False
    """The part has no port `in_data`."""
    wiring: str = ""
    """Verilog before the instance."""


@dataclass(frozen=True)
class Ended:
    """How a simulation ended."""

    passed: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """Message by name of the cocotb test."""


LITERALS = ("LOW", "HIGH", "OF_NEGATIVE", "OF_OTHERS", "WEIGHT", "BIAS", "THRESHOLD")
HANDSHAKE = ("clk", "rst", "in_valid", "in_ready", "out_valid", "out_ready")


def instance(case: Case) -> str:
    """Return an instance whose ports are wired to `NAME_port`; constants of the arithmetic are 64-bit literals."""
    values = ", ".join(
        f".{key}(64'sh{value % 2**64:x})" if key in LITERALS else f".{key}({value})" for key, value in case.parameters.items()
    )
    ports = (*(HANDSHAKE if case.clocked else ()), *(() if case.data_elsewhere else ("in_data",)), "out_data")
    to = {port: port if port == "clk" else f"NAME_{port}" for port in ports} | case.connections
    wires = ", ".join([*(f".{port}({wire})" for port, wire in to.items()), *case.more_ports])
    return f"    {case.part} #({values}) NAME ({wires});"


def top(cases: Sequence[Case]) -> str:
    """Generate the top module `bench`: case number i has the signals `ci_...`."""
    ports, body = ["input wire clk"], []
    for number, case in enumerate(cases):
        name = f"c{number}"
        ports += [f"input wire [{case.in_bits - 1}:0] {name}_in_data", f"output wire [{case.out_bits - 1}:0] {name}_out_data"]
        if case.clocked:
            ports += [f"input wire {name}_{port}" for port in ("rst", "in_valid", "out_ready")]
            ports += [f"output wire {name}_{port}" for port in ("in_ready", "out_valid")]
        body.append((case.wiring + instance(case)).replace("NAME", name))
    ports = [f"{port} /* verilator public_flat_rw */" for port in ports]
    return "module bench (\n    " + ",\n    ".join(ports) + "\n);\n" + "\n".join(body) + "\nendmodule\n"


def verilator_environment() -> dict[str, str]:
    """Return what cocotb's runner must find in its environment; skip, or fail in CI, without the tools."""
    try:
        program = tools.newest("verilator")
        tools.find("make")
        tools.find("g++")
    except MissingTool as missing:
        if os.environ.get("CI"):
            pytest.fail(f"{missing} (continuous integration must have it)")
        pytest.skip(str(missing))
    folder = program.path.parent
    if program.environment:  # an unpacked wheel may have lost the permissions
        for path in folder.iterdir():
            if not os.access(path, os.X_OK):
                path.chmod(path.stat().st_mode | 0o111)
    return {
        **program.environment,
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        # The wheel's make file names no option to include a precompiled header. The optimiser costs more than it saves.
        "MAKEFLAGS": "-- CFG_CXXFLAGS_PCH_I=-include OPT_FAST=-O0 OPT_SLOW=-O0 OPT_GLOBAL=-O0",
    }


COMPILE_ONCE = """\
for source; do :; done
case "$source" in
*/verilated*.cpp) kept="{runtime}/$(basename "$source" .cpp).o" ;;
*) exec "$@" ;;
esac
if ! test -f "$kept"; then
    "$@" && cp "$(basename "$kept")" "$kept.part" && mv "$kept.part" "$kept"
else
    cp "$kept" .
fi
"""


@dataclass(frozen=True)
class Bench:
    """Builds and runs cases in a test's folder."""

    folder: Path
    runtime: Path
    """Where the first build of a session leaves Verilator's compiled library for the others: it takes most of the time."""
    monkeypatch: pytest.MonkeyPatch

    def compiler(self) -> Path:
        """Write the command that Verilator's make file puts before the compiler's: it compiles the library only once."""
        path = self.runtime / "compile_once.sh"
        path.write_text(COMPILE_ONCE.format(runtime=self.runtime))
        return path

    def lint(self, cases: Sequence[Case], rtl: Path = RTL) -> None:
        """Require that Verilator has nothing to say about any case, read as Verilog of 2005 or as SystemVerilog."""
        self.lint_text(top(cases), [] if any(case.clocked for case in cases) else ["-Wno-UNUSEDSIGNAL"], rtl)  # its clock

    def lint_text(self, text: str, options: Sequence[str] = (), rtl: Path = RTL) -> None:
        """Require that Verilator has nothing to say about a bench, read as Verilog of 2005 or as SystemVerilog."""
        environment = verilator_environment()
        (self.folder / "bench.v").write_text(text)
        command = [tools.newest("verilator").path, "--lint-only", "-Wall", "-y", rtl, "bench.v", *options]
        for language in ("1364-2005", "1800-2017"):
            words = [*command, "--language", language]
            tools.run(words, cwd=self.folder, log=self.folder / "lint.log", timeout_s=60, environment=environment)

    def simulate(self, cases: Sequence[Case], rtl: Path = RTL) -> Ended:
        """Build all cases into one simulation, run it, and return how its tests ended."""
        return self.run(top(cases), cases, f"cocotb_{'streams' if cases[0].clocked else 'combinational'}", rtl)

    def run(self, text: str, cases: Sequence[Any], module: str, rtl: Path = RTL) -> Ended:
        """Build a bench, run the tests of a cocotb module, and return how they ended; the cases are dataclasses."""
        runner = pytest.importorskip("cocotb_tools.runner").get_runner("verilator")
        (self.folder / "bench.v").write_text(text)
        (self.folder / "cases.json").write_text(json.dumps([asdict(case) for case in cases]))
        results, build = self.folder / "results.xml", self.folder / "build"
        with self.monkeypatch.context() as patch:
            for name, value in verilator_environment().items():
                patch.setenv(name, value)
            patch.setenv("OBJCACHE", f"sh {self.compiler()}")
            runner.build(
                sources=[self.folder / "bench.v"],
                hdl_toplevel="bench",
                build_dir=build,
                build_args=[
                    "-y",
                    str(rtl),
                    "--x-assign",
                    "unique",
                    "--x-initial",
                    "unique",
                    "--no-timing",
                    "--no-public-flat-rw",
                ],
                timescale=("1ns", "1ps"),
                log_file=self.folder / "build.log",
            )
            try:
                runner.test(
                    test_module=f"hls.tests.{module}",
                    hdl_toplevel="bench",
                    seed=1,
                    plusargs=["+verilator+rand+reset+2", "+verilator+seed+1"],  # registers start with anything
                    extra_env={"CASES": str(self.folder / "cases.json")},
                    results_xml=str(results),
                    log_file=self.folder / "test.log",
                )
            except SystemExit:  # how the runner says that a test failed: the results say which
                assert results.exists(), (self.folder / "test.log").read_text()
        return read_results(results)

    def copies_with_errors(self, part: str, errors: Sequence[tuple[str, str]]) -> tuple[Path, list[str]]:
        """Return a folder with all parts and, for each error, a copy of one that has it; and the names of the copies.

        An error is a text that occurs once in the part, and what stands there instead. Verilator must accept it.
        """
        rtl = self.folder / "rtl"
        shutil.copytree(RTL, rtl, dirs_exist_ok=True)
        text = (rtl / f"{part}.v").read_text()
        names = [f"{part}_with_error_{number}" for number in range(len(errors))]
        for name, (right, wrong) in zip(names, errors, strict=True):
            assert text.count(right) == 1, f"{part}: {right!r} occurs {text.count(right)} times"
            (rtl / f"{name}.v").write_text(text.replace(f"module {part} ", f"module {name} ").replace(right, wrong))
        return rtl, names

    def simulate_errors(self, errors: Sequence[tuple[str, str]], *cases: Case) -> list[bool]:
        """Simulate cases of one part, as it is and with one error each; return for each error whether it was caught."""
        part = cases[0].part
        rtl, names = self.copies_with_errors(part, errors)
        ended = self.simulate([replace(case, part=name) for name in (part, *names) for case in cases], rtl)
        said = "\n".join(ended.failed.values())
        assert f"{part} " not in said, said
        return [f"{name} " in said for name in names]


def read_results(path: Path) -> Ended:
    """Read what cocotb wrote about its tests."""
    ended = Ended()
    for test in ElementTree.parse(path).iter("testcase"):
        name = str(test.get("name")).rpartition(".")[2]
        wrong = [child for child in test if child.tag in ("failure", "error")]
        if wrong:
            ended.failed[name] = " ".join(f"{child.get('message') or ''} {child.text or ''}".strip() for child in wrong)
        else:
            ended.passed.append(name)
    return ended


STREAM_TESTS = ["random_stalls", "full_speed", "nothing_is_taken_that_does_not_fit", "reset_in_the_middle"]
COMBINATIONAL_TESTS = ["vectors"]


def check(ended: Ended, tests: Sequence[str] = STREAM_TESTS) -> None:
    """Require that all tests of the cocotb module ran and passed."""
    assert not ended.failed, "\n".join(f"{name}: {message}" for name, message in ended.failed.items())
    assert ended.passed == list(tests)
