"""A small RTL project written by hand: two blocks, one of them three times, and glue around them."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from caloedge import tools
from caloedge.errors import MissingTool

MULTIPLY = """\
// One multiplication per clock, which maps to a DSP.
module core_scale (
  input clk,
  input signed [11:0] x,
  input signed [11:0] k,
  output signed [23:0] y
);
  reg signed [23:0] product;
  always @(posedge clk) product <= x * k;
  assign y = product;
endmodule
"""
SUM = """\
(* keep_hierarchy = 0 *) module layer_sum (
  input clk, input signed [23:0] a, input signed [23:0] b, input signed [23:0] c, output signed [25:0] y
);
  wire signed [24:0] ab;
  add_two first (.a(a), .b(b), .y(ab));
  reg signed [25:0] total;
  always @(posedge clk) total <= ab + c;
  assign y = total;
endmodule
"""
ADD = """\
module add_two (input signed [23:0] a, input signed [23:0] b, output signed [24:0] y);
  assign y = a + b;
endmodule
"""
LANES = """\
/* Only wiring: no block, so a part of the glue. module not_here (input x); */
module lanes (
  input clk, input signed [11:0] x, input signed [11:0] u, output signed [23:0] p, output signed [23:0] q
);
  core_scale one (.clk(clk), .x(x), .k(u), .y(p));
  core_scale two (.clk(clk), .x(u), .k(12'sd77), .y(q));
endmodule
"""
TOP = """\
module caloedge_net (
  input clk, input rst, input in_valid, output in_ready, input signed [11:0] in_data,
  output out_valid, input out_ready, output signed [25:0] out_data
);
  assign in_ready = out_ready;
  reg signed [11:0] now, before;
  reg [1:0] full;
  always @(posedge clk) begin
    if (rst) full <= 0;
    else if (out_ready) begin
      full <= {full[0], in_valid};
      now <= in_data;
      before <= now;
    end
  end
  assign out_valid = full[1];
  wire signed [23:0] p, q, r;
  lanes both (.clk(clk), .x(now), .u(before), .p(p), .q(q));
  core_scale own (.clk(clk), .x(~before), .k(now), .y(r));
  layer_sum sum (.clk(clk), .a(p), .b(q), .c(r), .y(out_data));
endmodule
"""
FILES = {"caloedge_net": TOP, "lanes": LANES, "core_scale": MULTIPLY, "layer_sum": SUM, "add_two": ADD}
RECORD = {
    "backend": "rtl",
    "variant": "streaming",
    "graph": "0" * 64,
    "part": "xcvu13p-flga2577-2-e",
    "clock_mhz": 200.0,
    "top": "caloedge_net",
    "sources": [f"rtl/{name}.v" for name in FILES],
    "blocks": {"core_scale": 3, "layer_sum": 1},
    "ports": [
        ["clk", "input", 1],
        ["rst", "input", 1],
        ["in_valid", "input", 1],
        ["in_ready", "output", 1],
        ["in_data", "input", 12],
        ["out_valid", "output", 1],
        ["out_ready", "input", 1],
        ["out_data", "output", 26],
    ],
}


def write_project(folder: Path) -> Path:
    (folder / "rtl").mkdir(parents=True)
    for name, text in FILES.items():
        (folder / "rtl" / f"{name}.v").write_text(text)
    (folder / "caloedge.json").write_text(json.dumps(RECORD))
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return write_project(tmp_path / "project")


@pytest.fixture
def change(project: Path) -> Callable[..., Path]:
    """Change entries of the project's record; return the project."""

    def apply(**entries: object) -> Path:
        (project / "caloedge.json").write_text(json.dumps({**RECORD, **entries}))
        return project

    return apply


@pytest.fixture(scope="session")
def needs() -> Callable[[str], None]:
    """Skip visibly where a program is missing, but fail in continuous integration."""

    def check(program: str) -> None:
        try:
            tools.newest(program)
        except MissingTool as missing:
            (pytest.fail if os.environ.get("CI") else pytest.skip)(str(missing))

    return check


@pytest.fixture(scope="session")
def synthesised(tmp_path_factory: pytest.TempPathFactory, needs: Callable[[str], None]) -> Path:
    """One project that several tests synthesise for different families; nobody changes its sources."""
    needs("yosys")
    return write_project(tmp_path_factory.mktemp("real") / "a project")


FAKE = """\
#!{python} -IS
import json, os, pathlib, re, sys, time
here = pathlib.Path({folder!r})
if "-V" in sys.argv or "--version" in sys.argv or "-version" in sys.argv:
    print({version!r})
    sys.exit(0)
with (here / "calls").open("a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
{body}
"""


class Fake:
    """A program of our own in the place of a real one; it notes how it was called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, body: str, version: str) -> None:
        path = self.folder / name
        path.write_text(FAKE.format(python=sys.executable, folder=str(self.folder), body=body, version=version))
        path.chmod(0o755)
        (self.folder / "calls").unlink(missing_ok=True)

    def calls(self) -> list[list[str]]:
        """Return the arguments of all calls since the last time that one asked."""
        path = self.folder / "calls"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        path.unlink(missing_ok=True)
        return lines


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    folder = tmp_path / "fake programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    tools.newest.cache_clear()
    yield Fake(folder)
    tools.newest.cache_clear()


YOSYS = """
script = pathlib.Path(sys.argv[-1]).read_text()
top = re.search(r"^synth.* -top (\\w+)", script, re.M)[1]
if (here / f"wait-{top}").exists():
    (here / "pid").write_text(str(os.getpid()))
    time.sleep(60)
if (here / f"break-{top}").exists():
    print("ERROR: no luck today")
    sys.exit(1)
cells = json.loads((here / "cells.json").read_text())[top]
for name in re.findall(r"-json (\\S+\\.part)", script):
    pathlib.Path(name).write_text("{}")
for name in re.findall(r"tee -q -o (\\S+) stat", script):
    pathlib.Path(name).write_text(json.dumps({"design": {"num_cells_by_type": cells}}))
"""
CELLS = {
    "core_scale": {"DSP48E2": 1, "FDRE": 24},
    "layer_sum": {"LUT3": 20, "LUT6": 5, "CARRY4": 7, "FDRE": 26},
    "caloedge_net": {"FDRE": 26, "INV": 12, "core_scale": 3, "layer_sum": 1},
    "caloedge_route": {"LUT4": 100, "TRELLIS_FF": 90},
}


@pytest.fixture
def fake_yosys(fake: Fake) -> Fake:
    fake.write("yosys", YOSYS, "Yosys 99.1 (a fake)")
    (fake.folder / "cells.json").write_text(json.dumps(CELLS))
    return fake


@pytest.fixture
def no_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Neither on PATH nor as a Python package."""
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setenv("PATH", str(empty))
    monkeypatch.setattr(tools, "WHEELS", {})
    tools.newest.cache_clear()
    yield
    tools.newest.cache_clear()
    shutil.rmtree(empty)
