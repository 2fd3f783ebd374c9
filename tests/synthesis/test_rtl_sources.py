from collections.abc import Callable
from pathlib import Path

import pytest

from caloedge.errors import BadData, Unsupported, UserError
from caloedge.synthesis.rtl import ModulePort, read


def paths(sources: object) -> list[str]:
    return [source.path for source in sources]  # type: ignore[attr-defined]


def test_a_project_is_read(project: Path) -> None:
    rtl = read(project)
    assert rtl.top == "caloedge_net"
    assert rtl.blocks == {"core_scale": 3, "layer_sum": 1}
    assert rtl.ports[4] == ModulePort("in_data", "input", 12)
    assert [list(source.headers) for source in rtl.sources] == [
        ["caloedge_net"], ["lanes"], ["core_scale"], ["layer_sum"], ["add_two"]
    ]  # fmt: skip
    assert rtl.home("layer_sum").headers["layer_sum"].startswith("module layer_sum (\n  input clk")
    assert rtl.home("layer_sum").headers["layer_sum"].endswith("y\n);")


def test_a_module_needs_what_is_below_it(project: Path) -> None:
    rtl = read(project)
    assert paths(rtl.needed("core_scale")) == ["rtl/core_scale.v"]
    assert paths(rtl.needed("layer_sum")) == ["rtl/layer_sum.v", "rtl/add_two.v"]
    assert paths(rtl.needed("caloedge_net", without=rtl.blocks)) == ["rtl/caloedge_net.v", "rtl/lanes.v"]
    assert paths(rtl.needed("caloedge_net")) == paths(rtl.sources)


def test_words_in_comments_and_strings_are_no_modules(project: Path) -> None:
    path = project / "rtl/core_scale.v"
    path.write_text('// like add_two\n/* or lanes */\n(* note = "layer_sum" *)\n' + path.read_text())
    assert paths(read(project).needed("core_scale")) == ["rtl/core_scale.v"]


def test_files_that_a_source_reads_are_found(project: Path) -> None:
    (project / "rtl/rom.mem").write_text("0\n")
    (project / "top.mem").write_text("1\n")
    path = project / "rtl/core_scale.v"
    text = path.read_text().replace(
        "endmodule", '  initial $readmemh("rom.mem", r);\n  initial $readmemh("top.mem", s);\nendmodule'
    )
    path.write_text(text)
    assert read(project).home("core_scale").files == ("rtl/rom.mem", "top.mem")


def test_a_folder_without_a_record_is_no_project(project: Path) -> None:
    (project / "caloedge.json").unlink()
    with pytest.raises(UserError, match=r"project: no caloedge\.json there; make a project with: "):
        read(project)


def test_only_rtl_is_synthesised(change: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match=r"project: built by backend 'hls4ml', not 'rtl'$"):
        read(change(backend="hls4ml"))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"top": "nothing"}, "no source defines module nothing; build the project again"),
        ({"blocks": {"core": 1}}, "no source defines module core; build the project again"),
        ({"blocks": {"core_scale": 0}}, "block core_scale occurs 0 times; build the project again"),
        ({"blocks": [1]}, "'list' object has no attribute 'items'; build the project again"),
        ({"sources": ["rtl/gone.v"]}, "rtl/gone.v is missing but named in caloedge.json; build the project again"),
        ({"ports": [["clk", "input"]]}, "not enough values to unpack"),
        ({"ports": [["clk", "inout", 1]]}, "ValueError port clk: inout of 1 bits; build the project again"),
        ({"ports": [["x", "input", 1]]}, "no input clk of one bit among the ports; build the project again"),
    ],
)
def test_a_damaged_record_is_refused(change: Callable[..., Path], entries: dict[str, object], message: str) -> None:
    with pytest.raises(BadData) as caught:
        read(change(**entries))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_module_defined_twice_is_refused(project: Path) -> None:
    (project / "rtl/lanes.v").write_text((project / "rtl/add_two.v").read_text())
    with pytest.raises(BadData, match=r"module add_two is in both rtl/lanes\.v and rtl/add_two\.v; build it again$"):
        read(project)


def test_a_block_used_with_parameters_is_refused(project: Path) -> None:
    path = project / "rtl/lanes.v"
    path.write_text(path.read_text().replace("core_scale one", "core_scale #(.W(3)) one"))
    with pytest.raises(Unsupported, match=r"block core_scale is used with parameters, so its copies may differ; give each"):
        read(project)


def test_a_block_with_a_parameter_of_its_own_is_taken(project: Path) -> None:
    path = project / "rtl/core_scale.v"
    path.write_text(path.read_text().replace("module core_scale (", "module core_scale #(parameter W = 3) ("))
    assert "parameter W = 3" in read(project).home("core_scale").headers["core_scale"]


def test_a_block_with_old_style_ports_is_refused(project: Path) -> None:
    (project / "rtl/add_two.v").write_text("module add_two (a, y);\n  input a;\n  output y;\n  assign y = a;\nendmodule\n")
    record = project / "caloedge.json"
    record.write_text(record.read_text().replace('"layer_sum": 1', '"add_two": 1'))
    with pytest.raises(Unsupported, match=r"block add_two declares its ports in its body; declare them in the module's header$"):
        read(project)
