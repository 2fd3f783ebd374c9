import json
from pathlib import Path
from typing import Any

import pytest

from caloedge.catalog import Target, find
from caloedge.errors import BadData, Unsupported, UserError
from caloedge.synthesis.rtl import read
from caloedge.synthesis.vendor import (
    TimingSummary,
    constraints,
    hls_options,
    parse_csynth,
    parse_timing,
    parse_utilisation,
    vitis_hls,
    vivado,
    vivado_script,
)

XCVU13P, LFE5U = find(Target, "xcvu13p"), find(Target, "lfe5u_85")

ULTRASCALE = """\
---------------------------------------------------------------
| Design       : caloedge_net
| Design State : Routed
---------------------------------------------------------------

Utilization Design Information

1. CLB Logic
------------

+----------------------------+-------+-------+------------+-----------+-------+
|          Site Type         |  Used | Fixed | Prohibited | Available | Util% |
+----------------------------+-------+-------+------------+-----------+-------+
| CLB LUTs                   | 31244 |     0 |          0 |   1728000 |  1.81 |
|   LUT as Logic             | 31000 |     0 |          0 |   1728000 |  1.79 |
|   LUT as Memory            |   244 |     0 |          0 |    791040 |  0.03 |
| CLB Registers              | 20411 |     0 |          0 |   3456000 |  0.59 |
|   Register as Flip Flop    | 20411 |     0 |          0 |   3456000 |  0.59 |
| CARRY8                     |  2210 |     0 |          0 |    216000 |  1.02 |
+----------------------------+-------+-------+------------+-----------+-------+

2. CLB Logic Distribution
-------------------------

+------------------------------+-------+-------+------------+-----------+-------+
|           Site Type          |  Used | Fixed | Prohibited | Available | Util% |
+------------------------------+-------+-------+------------+-----------+-------+
| CLB                          |  5100 |     0 |          0 |    216000 |  2.36 |
| CLB Registers                | 19999 |     0 |          0 |   3456000 |  0.58 |
+------------------------------+-------+-------+------------+-----------+-------+

3. BLOCKRAM
-----------

+-------------------+------+-------+------------+-----------+-------+
|     Site Type     | Used | Fixed | Prohibited | Available | Util% |
+-------------------+------+-------+------------+-----------+-------+
| Block RAM Tile    | 12.5 |     0 |          0 |      2688 |  0.47 |
|   RAMB36/FIFO*    |   12 |     0 |          0 |      2688 |  0.45 |
|   RAMB18          |    1 |     0 |          0 |      5376 |  0.02 |
| URAM              |    3 |     0 |          0 |      1280 |  0.23 |
+-------------------+------+-------+------------+-----------+-------+

4. ARITHMETIC
-------------

+----------------+------+-------+------------+-----------+-------+
|    Site Type   | Used | Fixed | Prohibited | Available | Util% |
+----------------+------+-------+------------+-----------+-------+
| DSPs           |  384 |     0 |          0 |     12288 |  3.13 |
|   DSP48E2 only |  384 |       |            |           |       |
+----------------+------+-------+------------+-----------+-------+

5. Primitives
-------------

+----------+-------+---------------------+
| Ref Name |  Used | Functional Category |
+----------+-------+---------------------+
| FDRE     | 20411 |            Register |
| DSPs     |     9 |          Arithmetic |
+----------+-------+---------------------+
"""
SEVEN_SERIES = """\
1. Slice Logic
--------------

+-------------------------+------+-------+-----------+-------+
|        Site Type        | Used | Fixed | Available | Util% |
+-------------------------+------+-------+-----------+-------+
| Slice LUTs*             |  812 |     0 |     53200 |  1.53 |
|   LUT as Logic          |  812 |     0 |     53200 |  1.53 |
| Slice Registers         | 1034 |     0 |    106400 |  0.97 |
+-------------------------+------+-------+-----------+-------+

2. Memory
---------

+----------------+------+-------+-----------+-------+
|    Site Type   | Used | Fixed | Available | Util% |
+----------------+------+-------+-----------+-------+
| Block RAM Tile |    1 |     0 |       140 |  0.71 |
+----------------+------+-------+-----------+-------+

3. DSP
------

+----------------+------+-------+-----------+-------+
|    Site Type   | Used | Fixed | Available | Util% |
+----------------+------+-------+-----------+-------+
| DSPs           |   17 |     0 |       220 |  7.73 |
+----------------+------+-------+-----------+-------+
"""
TIMING = """\
------------------------------------------------------------------------------------------------
| Design Timing Summary
| ---------------------
------------------------------------------------------------------------------------------------

    WNS(ns)      TNS(ns)  TNS Failing Endpoints  TNS Total Endpoints      WHS(ns)      THS(ns)
    -------      -------  ---------------------  -------------------      -------      -------
     {slack}        0.000                      0                20990        0.021        0.000

All user specified timing constraints are met.


------------------------------------------------------------------------------------------------
| Clock Summary
| -------------
------------------------------------------------------------------------------------------------

Clock  Waveform(ns)       Period(ns)      Frequency(MHz)
-----  ------------       ----------      --------------
clk    {{0.000 2.500}}      5.000           200.000


------------------------------------------------------------------------------------------------
| Intra Clock Table
| -----------------
------------------------------------------------------------------------------------------------
"""
CSYNTH = """\
<?xml version="1.0" encoding="UTF-8" ?>
<profile>
  <UserAssignments>
    <unit>ns</unit>
    <Part>xcvu13p-flga2577-2-e</Part>
    <TopModelName>caloedge_net</TopModelName>
    <TargetClockPeriod>5.00</TargetClockPeriod>
  </UserAssignments>
  <PerformanceEstimates>
    <SummaryOfTimingAnalysis>
      <EstimatedClockPeriod>3.633</EstimatedClockPeriod>
    </SummaryOfTimingAnalysis>
    <SummaryOfOverallLatency>
      <Best-caseLatency>61</Best-caseLatency>
      <Average-caseLatency>62</Average-caseLatency>
      <Worst-caseLatency>64</Worst-caseLatency>
      <Interval-min>49</Interval-min>
      <Interval-max>50</Interval-max>
    </SummaryOfOverallLatency>
  </PerformanceEstimates>
  <AreaEstimates>
    <Resources><BRAM_18K>8</BRAM_18K><DSP>12</DSP><FF>30111</FF><LUT>90222</LUT><URAM>0</URAM></Resources>
    <AvailableResources>
      <BRAM_18K>5376</BRAM_18K><DSP>12288</DSP><FF>3456000</FF><LUT>1728000</LUT><URAM>1280</URAM>
    </AvailableResources>
  </AreaEstimates>
</profile>
"""

# Readers


def test_utilisation_of_ultrascale() -> None:
    utilisation = parse_utilisation(ULTRASCALE, "x")
    assert utilisation.used == {"LUT": 31_244, "FF": 20_411, "BRAM_18K": 25, "URAM": 3, "DSP": 384}
    assert utilisation.available == XCVU13P.resources
    assert {number.origin for _, number in utilisation.numbers()} == {"vendor"}


def test_utilisation_of_7_series() -> None:
    utilisation = parse_utilisation(SEVEN_SERIES, "x")
    assert utilisation.used == {"LUT": 812, "FF": 1_034, "BRAM_18K": 2, "DSP": 17}
    assert utilisation.available == find(Target, "xc7z020").resources


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "u.rpt: no row of LUT, FF, DSP, BRAM_18K; not a whole report of report_utilization"),
        ("a letter\n| CLB LUTs | 3 |\n", "u.rpt: no row of LUT, FF, DSP, BRAM_18K; not a whole report of report_utilization"),
        (ULTRASCALE[: ULTRASCALE.index("4. ARITH")], "u.rpt: no row of DSP; not a whole report of report_utilization"),
        (
            ULTRASCALE.replace("| 31244 |", "| 3x244 |"),
            "u.rpt: row 'CLB LUTs' has no number under 'Used'; the report is damaged",
        ),
    ],
)  # fmt: skip
def test_a_damaged_utilisation_is_refused(text: str, message: str) -> None:
    with pytest.raises(BadData) as caught:
        parse_utilisation(text, "u.rpt")
    assert str(caught.value) == message


def test_timing_that_is_met_and_that_is_not() -> None:
    met = parse_timing(TIMING.format(slack="0.750"), "x")
    assert met == TimingSummary(worst_slack_ns=0.75, period_ns=5.0)
    assert met.met
    assert met.achieved_ns == 4.25
    missed = parse_timing(TIMING.format(slack="-1.250"), "x")
    assert (missed.met, missed.achieved_ns, missed.fmax_mhz) == (False, 6.25, 160.0)
    assert [(name, number.value, number.unit, number.origin) for name, number in missed.numbers()] == [
        ("worst slack", -1.25, "ns", "vendor"),
        ("Fmax", 160.0, "MHz", "vendor"),
    ]


WHOLE = TIMING.format(slack="0.750")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "t.rpt: no line under 'WNS(ns)'; not a whole report of report_timing_summary"),
        (ULTRASCALE, "t.rpt: no line under 'WNS(ns)'; not a whole report of report_timing_summary"),
        (
            TIMING.format(slack="NA"),
            "t.rpt: the worst slack is 'NA'; the design has no constrained path, so create its clock first",
        ),
        (WHOLE[: WHOLE.index("| Clock Summary")], "t.rpt: 0 clocks under 'Clock Summary', but a design of this package has one"),
        (
            WHOLE.replace("clk    {", "fast   {0.000 1.000}      2.000           500.000\nclk    {"),
            "t.rpt: 2 clocks under 'Clock Summary', but a design of this package has one",
        ),
        (
            TIMING.format(slack="7.000"),
            "t.rpt: a slack of 7 ns with a period of 5 ns makes no sense; the report is damaged",
        ),
    ],
)  # fmt: skip
def test_a_damaged_timing_is_refused(text: str, message: str) -> None:
    with pytest.raises(BadData) as caught:
        parse_timing(text, "t.rpt")
    assert str(caught.value) == message


def test_c_synthesis_is_read() -> None:
    report = parse_csynth(CSYNTH, "x")
    assert (report.latency_cycles, report.interval_cycles) == ((61, 64), (49, 50))
    assert (report.target_ns, report.estimated_ns) == (5.0, 3.633)
    assert report.utilisation.used == {"LUT": 90_222, "FF": 30_111, "DSP": 12, "BRAM_18K": 8, "URAM": 0}
    assert report.utilisation.available == XCVU13P.resources
    numbers = dict(report.numbers())
    assert (numbers["latency, worst"].value, numbers["latency, worst"].unit) == (64, "cycles")
    assert {number.origin for number in numbers.values()} == {"vendor"}


def test_c_synthesis_without_a_fixed_latency_or_uram() -> None:
    text = CSYNTH.replace(">61<", ">undef<").replace(">64<", ">undef<").replace("<URAM>0</URAM>", "")
    text = text.replace("<URAM>1280</URAM>", "").replace("DSP>", "DSP48E>")
    report = parse_csynth(text, "x")
    assert report.latency_cycles is None
    assert report.interval_cycles == (49, 50)
    assert report.utilisation.used == {"LUT": 90_222, "FF": 30_111, "DSP": 12, "BRAM_18K": 8}
    assert "latency, best" not in dict(report.numbers())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "c.xml: not XML (no element found: line 1, column 0); run the C synthesis again"),
        (CSYNTH[:400], "c.xml: not XML ("),
        (
            "<profile/>",
            "c.xml: no PerformanceEstimates/SummaryOfOverallLatency/Best-caseLatency; not a whole report of the C synthesis",
        ),
        (
            CSYNTH.replace("<LUT>90222</LUT>", ""),
            "c.xml: no AreaEstimates/Resources/LUT; not a whole report of the C synthesis",
        ),
        (CSYNTH.replace("3.633", "soon"), "EstimatedClockPeriod is 'soon', which is no number"),
    ],
)
def test_a_damaged_c_synthesis_is_refused(text: str, message: str) -> None:
    with pytest.raises(BadData) as caught:
        parse_csynth(text, "c.xml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


# Running, with programs of our own


def test_the_script_for_vivado(project: Path) -> None:
    lines = vivado_script(read(project), XCVU13P, "synthesis/vivado/x").splitlines()
    assert lines[0] == "read_verilog {rtl/caloedge_net.v}"
    assert "read_xdc -mode out_of_context {synthesis/vivado/x.xdc}" in lines
    assert lines.index("route_design") < lines.index("report_utilization -file {synthesis/vivado/x.utilisation.rpt}")
    assert any("-top caloedge_net -part xcvu13p-flga2577-2-e" in line for line in lines)
    assert constraints(5.0) == "create_clock -name clk -period 5.000 [get_ports clk]\n"


VIVADO = """
script = pathlib.Path(sys.argv[-1]).read_text()
if (here / "break").exists():
    print("ERROR: [Common 17-345] no licence")
    sys.exit(1)
for kind, report in (("report_utilization", "u.rpt"), ("report_timing_summary", "t.rpt")):
    place = re.search(kind + r" .*-file {(\\S+)}", script)[1]
    if (here / report).exists():
        pathlib.Path(place).write_text((here / report).read_text())
"""


@pytest.fixture
def fake_vivado(fake: Any) -> Any:
    fake.write("vivado", VIVADO, "vivado v2099.1 (64-bit)")
    (fake.folder / "u.rpt").write_text(ULTRASCALE)
    (fake.folder / "t.rpt").write_text(TIMING.format(slack="-1.250"))
    return fake


def test_vivado_is_run_once(project: Path, fake_vivado: Any) -> None:
    result = vivado(project, XCVU13P, timeout_s=30)
    assert result is not None
    assert result.tool == "vivado v2099.1 (64-bit)"
    assert result.utilisation.used["LUT"] == 31_244
    assert result.timing.fmax_mhz == 160.0
    numbers = dict(result.numbers())
    assert (numbers["Fmax"].origin, numbers["Fmax"].note) == ("vendor", "vivado v2099.1 (64-bit)")
    assert len(fake_vivado.calls()) == 1
    assert vivado(project, XCVU13P, timeout_s=30) == result
    assert fake_vivado.calls() == []
    path = project / "rtl/add_two.v"
    path.write_text(path.read_text().replace("a + b", "a - b"))
    vivado(project, XCVU13P, timeout_s=30)
    assert len(fake_vivado.calls()) == 1


def test_a_failing_vivado_shows_its_words(project: Path, fake_vivado: Any) -> None:
    (fake_vivado.folder / "break").touch()
    with pytest.raises(
        UserError, match=r"^vivado failed with exit code 1; see .*; it ends: ERROR: \[Common 17-345\] no licence$"
    ):
        vivado(project, XCVU13P, timeout_s=30)


def test_a_report_that_was_not_written(project: Path, fake_vivado: Any) -> None:
    (fake_vivado.folder / "t.rpt").unlink()
    with pytest.raises(BadData, match=r"timing\.rpt is missing: vivado did not write it; see its log$"):
        vivado(project, XCVU13P, timeout_s=30)
    (fake_vivado.folder / "t.rpt").write_text("")
    with pytest.raises(BadData, match=r"timing\.rpt: no line under 'WNS\(ns\)'"):
        vivado(project, XCVU13P, timeout_s=30)
    assert len(fake_vivado.calls()) == 2  # it was never finished


def test_vivado_has_no_device_of_another_vendor(project: Path, fake_vivado: Any) -> None:
    with pytest.raises(Unsupported, match=r"^target LFE5U-85F-6BG756C: Vivado has no family 'ecp5'; use one of an AMD device$"):
        vivado(project, LFE5U, timeout_s=30)


def test_without_the_vendors_tools_there_is_nothing(project: Path, no_programs: None) -> None:
    assert vivado(project, XCVU13P) is None
    assert vitis_hls(project) is None


VITIS = """
report = pathlib.Path("caloedge_net_prj/solution1/syn/report/caloedge_net_csynth.xml")
report.parent.mkdir(parents=True, exist_ok=True)
report.write_text((here / "csynth.xml").read_text())
"""


@pytest.fixture
def hls_project(tmp_path: Path) -> Path:
    folder = tmp_path / "hls"
    folder.mkdir()
    record = {"backend": "hls4ml", "variant": "io_stream", "graph": "1", "part": "x", "clock_mhz": 200, "project": "caloedge_net"}
    (folder / "caloedge.json").write_text(json.dumps(record))
    return folder


def test_vitis_is_run_once(hls_project: Path, fake: Any) -> None:
    fake.write("vitis-run", VITIS, "vitis-run v2099.1")
    (fake.folder / "csynth.xml").write_text(CSYNTH)
    result = vitis_hls(hls_project, timeout_s=30)
    assert result is not None
    assert result.latency_cycles == (61, 64)
    assert fake.calls() == [["--mode", "hls", "--tcl", "build_prj.tcl"]]
    assert vitis_hls(hls_project, timeout_s=30) == result
    assert fake.calls() == []
    assert (hls_project / "build_opt.tcl").read_text() == hls_options()


def test_the_options_of_an_hls4ml_project() -> None:
    assert hls_options().splitlines()[0] == "array set opt {"
    assert {line.split()[0]: line.split()[1] for line in hls_options().splitlines()[1:-1]} == {
        "reset": "1", "csim": "0", "synth": "1", "cosim": "0", "validation": "0", "export": "0", "vsynth": "0", "fifo_opt": "0"
    }  # fmt: skip


def test_a_damaged_c_synthesis_is_not_kept(hls_project: Path, fake: Any) -> None:
    fake.write("vitis-run", VITIS, "vitis-run v2099.1")
    (fake.folder / "csynth.xml").write_text(CSYNTH[:300])
    with pytest.raises(BadData, match=r"caloedge_net_csynth\.xml: not XML \(.*; run the C synthesis again$"):
        vitis_hls(hls_project, timeout_s=30)
    (fake.folder / "csynth.xml").write_text(CSYNTH)
    assert vitis_hls(hls_project, timeout_s=30) is not None


def test_only_an_hls4ml_project_has_c_synthesis(project: Path, fake: Any) -> None:
    fake.write("vitis-run", VITIS, "vitis-run v2099.1")
    with pytest.raises(UserError, match=r"project: built by backend 'rtl', not 'hls4ml'$"):
        vitis_hls(project)
