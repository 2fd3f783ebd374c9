"""The command line: every verb helps, and whatever is wrong ends with one line, exit code 2 and nothing half-written."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnx
import pytest
from onnx import helper

from caloedge.catalog import FOLDERS, names
from caloedge.cli import app

VERBS = [
    "simulate",
    "convert",
    "train",
    "export",
    "compile",
    "build",
    "emulate",
    "inspect",
    "verify",
    "compare",
    "report",
    "run",
    "list",
]
VERBS += ["reconstruct", "tradeoff", "fidelity", "new"]
Call = Callable[..., Any]


def complaint(ended: Any) -> str:
    """Return the one line on standard error of a call that must have ended with exit code 2."""
    assert ended.code == 2, ended
    (line,) = (line for line in ended.err.splitlines() if not line.endswith(" left"))  # progress, on a slow computer
    assert line.startswith("caloedge: ")
    assert ended.out == ""
    return line.removeprefix("caloedge: ")


def tried(name: str) -> str:
    return f"(tried as well: module '{name}' on Python's path and beside the recipe)"


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def test_the_verbs_are_those_of_the_design() -> None:
    verbs = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
    assert sorted(verbs) == sorted(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_and_every_option(verb: str, caloedge: Call) -> None:
    ended = caloedge(verb, "--help")
    assert ended.code == 0
    command = next(c for c in app.registered_commands if (c.name or c.callback.__name__) == verb)  # type: ignore[union-attr]
    words = " ".join(ended.out.replace("│", " ").split())
    assert str(command.callback.__doc__).split(".")[0] in words
    for parameter, annotation in command.callback.__annotations__.items():  # type: ignore[union-attr]
        if parameter != "return":
            (info,) = annotation.__metadata__
            assert info.help, f"{verb}: {parameter} has no help"
            assert info.help.split()[0] in words


def test_without_a_verb_the_help_is_shown(caloedge: Call) -> None:
    ended = caloedge()
    assert all(verb in ended.out + ended.err for verb in VERBS)


def test_list_shows_every_plugin(caloedge: Call) -> None:
    ended = caloedge("list")
    assert ended.code == 0
    rows = [[cell.strip() for cell in line.strip("│┃ ").replace("┃", "│").split("│")] for line in ended.out.splitlines()]
    listed = {(row[0], row[1]) for row in rows if len(row) == 3}
    for kind in FOLDERS:
        for name in names(kind):
            assert (kind, name) in listed
    assert {("geometry", "pbwo4"), ("geometry", "wsi")} <= listed


def test_as_a_program_it_ends_the_same_way(tmp_path: Path) -> None:
    for words, message in (
        (["compile", "none.qonnx"], None),
        (["list"], ""),
        (["train", "none"], "no recipe 'none'; give a YAML file, a folder with recipe.yaml, or a model in ./models: none"),
    ):
        process = subprocess.run(
            [sys.executable, "-m", "caloedge", *words], capture_output=True, text=True, cwd=tmp_path, check=False
        )
        if message == "":
            assert (process.returncode, process.stderr) == (0, "")
            continue
        assert (process.returncode, process.stdout) == (2, "")
        assert len(process.stderr.splitlines()) == 1
        assert process.stderr == f"caloedge: {message}\n" or message is None
    assert files(tmp_path) == []


def test_whole_events_need_one_artifact_of_each_task(tiny: Path, caloedge: Call, tmp_path: Path) -> None:
    error = complaint(caloedge("reconstruct", tiny, tiny, "--output", tmp_path / "report", "--work", tmp_path / "work"))
    assert error == f"{tiny}: is of task 'seed_finder'; 'center_finder' is needed in this place"
    error = complaint(caloedge("reconstruct", tmp_path / "none", tiny))
    assert error == f"{tmp_path / 'none'}: no manifest.json there; an artifact is made by: caloedge export RECIPE"
    assert files(tmp_path) == []


def test_a_study_refuses_widths_that_no_network_can_have(tiny_recipe: Path, caloedge: Call, tmp_path: Path) -> None:
    error = complaint(caloedge("tradeoff", tiny_recipe, "--bits", 12, "--output", tmp_path / "out"))
    assert error == "--bits 12: give numbers from 2 to 8, e.g. --bits 8 --bits 6"
    assert files(tmp_path) == []


# Shower libraries


def recipe_with(recipe: Path, folder: Path, **changes: str) -> Path:
    """Write a changed copy of the tiny recipe, with keys of one level replaced as text."""
    lines = recipe.read_text().splitlines()
    for key, value in changes.items():
        lines = [line for line in lines if not line.startswith(f"{key}:")] + [f"{key}: {value}"]
    path = folder / "recipe.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


def broken_library(kind: str, source: Path, path: Path) -> str:
    """Write a library that is broken in one way; return the complaint that it must lead to, after the file's name."""
    again = "remove that shower or make the file again"
    if kind == "missing":
        return f"no such file; make one with: caloedge simulate {path}"
    if kind == "truncated":
        path.write_bytes(source.read_bytes()[:20_000])
        return "not a readable HDF5 file ("
    shutil.copyfile(source, path)
    with h5py.File(path, "r+") as file:
        if kind == "wrong shape":
            cells = file["showers"][:, :624]
            del file["showers"]
            file["showers"] = cells
            return "showers have 624 cells; this task needs 25×25 = 625 PbWO4 crystals (caloedge simulate --geometry pbwo4)"
        if kind == "NaN energy":
            file["incident_energies"][3] = np.nan
            return f"incident_energies[3] = nan is not a positive number; {again}"
        if kind == "NaN cell":
            file["showers"][5, 312] = np.nan
            return f"showers[5, 312] = nan is not finite; {again}"
        if kind == "negative cell":
            file["showers"][5, 312] = -2.5
            return f"showers[5, 312] = -2.5 is negative; {again}"
        if kind == "impact":
            file["impact_mm"][0] = (30.0, 0.0)
            return (
                "an impact point lies 19 mm outside the central crystal (±11.0 mm); impact_mm is measured from that"
                " crystal's centre"
            )
        assert kind == "missing key"
        del file["impact_mm"]
        return (
            "no dataset 'impact_mm' (found: deposited_energies, incident_energies, showers); a library has"
            " incident_energies, showers and impact_mm"
        )


BROKEN = ["missing", "truncated", "wrong shape", "NaN energy", "NaN cell", "negative cell", "impact", "missing key"]


@pytest.mark.parametrize("verb", ["train", "compare"])
@pytest.mark.parametrize("kind", BROKEN)
def test_a_bad_library_is_one_line(
    kind: str, verb: str, caloedge: Call, showers_file: Path, tiny: Path, tiny_recipe: Path, tmp_path: Path
) -> None:
    library = tmp_path / "bad.h5"
    message = f"{library}: {broken_library(kind, showers_file, library)}"
    output = tmp_path / "out"
    if verb == "train":
        recipe = recipe_with(tiny_recipe, tmp_path, library=str(library))
        error = complaint(caloedge("train", recipe, "--output", output, "--accelerator", "cpu"))
    else:
        error = complaint(caloedge("compare", tiny, "--library", library, "--events", 20, "--output", output))
    if kind == "truncated":
        assert error.startswith(message)
        assert error.endswith("; damaged or truncated: make or copy it again")
    else:
        assert error == message
    assert [name for name in files(tmp_path) if name.startswith("out") and not (tmp_path / name).is_dir()] == []


def test_simulate_refuses_before_it_writes(caloedge: Call, tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    for options, message in (
        (("--geometry", "lar"), "no geometry 'lar'; there are: pbwo4, csi, wsi"),
        (
            ("--generator", "fluka"),
            "no generator 'fluka'; there are: flow_matching, frozen, geant4, parametrised "
            "(tried as well: module 'fluka' on Python's path and beside the recipe)",
        ),
        (("--showers", 0), "showers = 0: ask for at least 1"),
        (("--min-energy-gev", 5, "--max-energy-gev", 2), "energy range 5.0 to 2.0 GeV: give 0 < lowest <= highest"),
    ):
        assert complaint(caloedge("simulate", path, *options)) == message
    assert files(tmp_path) == []
    (tmp_path / "there.h5").touch()
    error = complaint(caloedge("simulate", tmp_path / "there.h5", "--generator", "parametrised"))
    assert error == f"{tmp_path / 'there.h5'}: exists already; remove it or give another name"


def test_a_library_needs_its_ending(caloedge: Call, tmp_path: Path) -> None:
    """Without .h5 the file could be made but not opened again."""
    error = complaint(caloedge("simulate", tmp_path / "showers", "--generator", "parametrised", "--showers", 2))
    assert error == f"{tmp_path / 'showers'}: a shower library ends in .h5; give such a name"
    assert files(tmp_path) == []


def test_a_place_that_cannot_be_written_is_one_line(caloedge: Call, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    error = complaint(caloedge("simulate", tmp_path / "file" / "x.h5", "--generator", "parametrised", "--showers", 2))
    assert error == f"{tmp_path / 'file'}: File exists"


# Recipes and names


def test_an_unknown_recipe_is_one_line(caloedge: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / "known").mkdir(parents=True)
    (tmp_path / "models" / "known" / "recipe.yaml").touch()
    monkeypatch.chdir(tmp_path)
    for verb in ("train", "export", "run"):
        assert complaint(caloedge(verb, "nonsense")) == (
            "no recipe 'nonsense'; give a YAML file, a folder with recipe.yaml, or a model in ./models: known"
        )


RECIPE_MISTAKES = [
    ({"libary": "x"}, "libary: Extra inputs are not permitted"),
    ({"seed": "-1"}, "seed: Input should be greater than or equal to 0"),
    ({"golden_vectors": "9"}, "golden_vectors: Input should be greater than or equal to 10"),
    ({"evaluation": "{events: 10, valid_evnts: 5}"}, "evaluation.valid_events: Field required"),
    ({"name": "../escape"}, "name: String should match pattern '^[a-z][a-z0-9_]*$'"),
]


@pytest.mark.parametrize(("change", "message"), RECIPE_MISTAKES)
def test_a_mistake_in_a_recipe_is_named(
    change: dict[str, str], message: str, caloedge: Call, tiny_recipe: Path, tmp_path: Path
) -> None:
    recipe = recipe_with(tiny_recipe, tmp_path, **change)
    error = complaint(caloedge("train", recipe, "--output", tmp_path / "out"))
    assert error == f"{recipe}: {message}; see the fields in caloedge/recipe.py"
    assert files(tmp_path) == ["recipe.yaml"]


@pytest.mark.parametrize(
    ("text", "start"), [("a: [1", "not YAML ("), ("", "the file: Input should be"), ("- 1", "the file: Input")]
)
def test_a_file_that_is_no_recipe_is_one_line(text: str, start: str, caloedge: Call, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    assert complaint(caloedge("train", path)).startswith(f"{path}: {start}")


@pytest.mark.parametrize("kind", ["task", "network"])
def test_an_unknown_plugin_in_a_recipe_is_named(
    kind: str, caloedge: Call, tiny_recipe: Path, showers_file: Path, tmp_path: Path
) -> None:
    recipe = recipe_with(tiny_recipe, tmp_path, **{kind: "nonsense", "library": str(showers_file)})
    error = complaint(caloedge("train", recipe, "--output", tmp_path / "out", "--accelerator", "cpu"))
    assert error == f"{recipe}: {kind}: no {kind} 'nonsense'; there are: {', '.join(names(kind))} {tried('nonsense')}"
    assert not (tmp_path / "out").exists()


def test_an_unknown_library_name_is_one_line(caloedge: Call, tiny_recipe: Path, tmp_path: Path) -> None:
    recipe = recipe_with(tiny_recipe, tmp_path, library="muons")
    assert complaint(caloedge("train", recipe)).startswith("no shipped shower library 'muons'; there are: ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--backend", "vhdl"),
            f"no backend 'vhdl'; there are: {', '.join(names('backend'))} {tried('vhdl')}",
        ),
        (
            ("--target", "abacus"),
            f"no target 'abacus'; there are: {', '.join(names('target'))} {tried('abacus')}",
        ),
        (
            ("--variant", "io_serial"),
            "backend 'hls4ml' has no variant 'io_serial' (did you mean 'io_stream'?); there are: io_parallel, io_stream, auto",
        ),
    ],
)
def test_unknown_names_of_a_build_are_one_line(
    options: tuple[str, ...], message: str, caloedge: Call, tiny: Path, tmp_path: Path
) -> None:
    assert complaint(caloedge("build", tiny, tmp_path / "project", *options)) == message
    assert files(tmp_path) == []


def test_an_existing_project_is_kept(caloedge: Call, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    assert complaint(caloedge("build", tiny, tmp_path)) == f"{tmp_path}: exists already; remove it or give another name"
    assert files(tmp_path) == ["mine.txt"]


def test_without_a_compiler_nothing_is_built(tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("hls4ml")
    nowhere = tmp_path / "bin"
    nowhere.mkdir()
    command = [sys.executable, "-m", "caloedge", "build", str(tiny), str(tmp_path / "project")]
    process = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": str(nowhere)}, check=False)
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr == "caloedge: g++ not found on PATH; install a C++ compiler, e.g. apt-get install g++\n"
    assert files(tmp_path) == ["bin"]


# Artifacts


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "copy"
    shutil.copytree(tiny, folder)
    return folder


AGAIN = "export the artifact again"


@pytest.mark.parametrize("verb", ["verify", "compare"])
def test_an_altered_file_is_named(verb: str, caloedge: Call, copy: Path) -> None:
    golden = copy / "golden.npz"
    golden.write_bytes(golden.read_bytes() + b"x")
    error = complaint(caloedge(verb, copy))
    assert error == f"{golden}: altered since the manifest was written (SHA-256 differs); {AGAIN}"


def test_a_missing_file_of_an_artifact_is_named(caloedge: Call, copy: Path) -> None:
    (copy / "model.qonnx").unlink()
    assert complaint(caloedge("verify", copy)) == f"{copy / 'model.qonnx'}: missing; the manifest lists it, {AGAIN}"


@pytest.mark.parametrize("text", ["{", "[]", '{"name": "x"}'])
def test_a_damaged_manifest_is_one_line(text: str, caloedge: Call, copy: Path) -> None:
    (copy / "manifest.json").write_text(text)
    error = complaint(caloedge("verify", copy))
    assert error.startswith(f"{copy / 'manifest.json'}: not a manifest (")
    assert error.endswith(f"); {AGAIN}")


def test_a_folder_that_is_no_artifact_is_one_line(caloedge: Call, tmp_path: Path) -> None:
    error = complaint(caloedge("verify", tmp_path))
    assert error == f"{tmp_path}: no manifest.json there; an artifact is made by: caloedge export RECIPE"


def test_verify_passes_on_what_was_exported_and_fails_on_another_network(caloedge: Call, copy: Path, tmp_path: Path) -> None:
    ended = caloedge("verify", copy, "--projects", tmp_path / "projects")
    assert ended.code == 0, ended
    assert "integer graph" in ended.out
    from caloedge.artifact import Golden, read_artifact, write_golden, write_manifest

    artifact = read_artifact(copy)
    golden = artifact.golden()
    outputs = {name: codes.copy() for name, codes in golden.outputs.items()}
    outputs["logit"][17, 0] += 1
    write_golden(copy, Golden(golden.inputs, outputs))
    write_manifest(copy, artifact.manifest)
    ended = caloedge("verify", copy, "--projects", tmp_path / "projects")
    assert ended.code == 1
    assert "integer graph differs: 1 of 1000 output codes, first in event 17" in ended.out.splitlines()


def test_compile_prints_every_layer(caloedge: Call, tiny: Path) -> None:
    ended = caloedge("compile", tiny)
    assert ended.code == 0
    assert ended.out == caloedge("compile", tiny / "model.qonnx").out
    assert ended.out.count("Conv ") == 2
    assert ended.out.count("Dense") == 3
    from caloedge.compiler.onnx.reader import read

    assert f"digest {read(tiny / 'model.qonnx').digest}" in ended.out.splitlines()


def test_what_cannot_be_compiled_is_one_line(caloedge: Call, tiny: Path, tmp_path: Path) -> None:
    model = onnx.load(str(tiny / "model.qonnx"))
    last = model.graph.node[-1]
    model.graph.node.append(helper.make_node("Sigmoid", [last.output[0]], ["probability"], name="Sigmoid_9"))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("probability", onnx.TensorProto.FLOAT, ["batch", 1]))
    onnx.save(model, str(tmp_path / "sigmoid.qonnx"))
    error = complaint(caloedge("compile", tmp_path / "sigmoid.qonnx"))
    assert error.startswith(
        "sigmoid.qonnx: output probability: the result of Sigmoid_9 is not quantised; add a quantiser after it"
    )
    (tmp_path / "noise.qonnx").write_bytes(bytes(range(256)))
    assert "noise.qonnx" in complaint(caloedge("compile", tmp_path / "noise.qonnx"))
    assert "none.qonnx" in complaint(caloedge("compile", tmp_path / "none.qonnx"))


# Code files


def codes_file(kind: str, path: Path) -> str:
    """Write a wrong file of codes; return what must be said of it."""
    advice = (
        "write codes with numpy.savez(FILE, inputs=codes), or quantise the values with Graph.quantise_inputs; caloedge verify "
        "takes them as they are"
    )
    if kind == "missing":
        return f"{path}: not a readable .npz file ("
    if kind == "text":
        path.write_text("1 2 3")
    elif kind == "truncated":
        np.savez(path, inputs=np.zeros((100, 1, 7, 7), int))
        path.write_bytes(path.read_bytes()[:2000])
    elif kind == "one array":
        with path.open("wb") as stream:
            np.save(stream, np.zeros(3))
    elif kind == "other name":
        np.savez(path, codes=np.zeros(3, int), more=np.zeros(1))
        return f"{path}: no array 'inputs' (found: codes, more); write codes with numpy.savez"
    else:
        np.savez(path, inputs=np.full((2, 1, 7, 7), 1.5))
        return f"{path}: 'inputs' holds float64, not integer codes; {advice}"
    return f"{path}: not a readable .npz file ("


@pytest.mark.parametrize("kind", ["missing", "text", "truncated", "one array", "other name", "floats"])
def test_a_wrong_file_of_codes_is_one_line(kind: str, caloedge: Call, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "caloedge.json").write_text(json.dumps({"backend": "hls4ml"}))
    path = tmp_path / "codes.npz"
    message = codes_file(kind, path)
    before = files(tmp_path)
    assert complaint(caloedge("emulate", project, path, tmp_path / "out.npz")).startswith(message)
    assert files(tmp_path) == before


def test_emulating_no_project_is_one_line(caloedge: Call, tiny: Path, tmp_path: Path) -> None:
    error = complaint(caloedge("emulate", tmp_path, tiny / "golden.npz", tmp_path / "out.npz"))
    assert error == f"{tmp_path}: no caloedge.json there; make a project with: caloedge build MODEL FOLDER"
    assert files(tmp_path) == []
    (tmp_path / "caloedge.json").write_text("{")
    error = complaint(caloedge("emulate", tmp_path, tiny / "golden.npz", tmp_path / "out.npz"))
    assert error.startswith(f"{tmp_path / 'caloedge.json'}: damaged (")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
def test_build_and_emulate_give_the_golden_codes(caloedge: Call, tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("hls4ml")
    project, outputs = tmp_path / "project", tmp_path / "out.npz"
    ended = caloedge("build", tiny, project)
    assert ended.code == 0, ended
    assert files(tmp_path)[0] == "project"
    ended = caloedge("emulate", project, tiny / "golden.npz", outputs)
    assert ended.code == 0, ended
    with np.load(outputs) as codes, np.load(tiny / "golden.npz") as golden:
        np.testing.assert_array_equal(codes["logit"], golden["output_logit"])
    wrong = tmp_path / "wrong.npz"
    np.savez(wrong, inputs=np.zeros((2, 1, 5, 5), int))
    assert complaint(caloedge("emulate", project, wrong, tmp_path / "no.npz")) == (
        f"{project}: input codes are int64 (2, 1, 5, 5); integers (N, 1, 7, 7) expected"
    )
    assert not (tmp_path / "no.npz").exists()


@pytest.mark.slow
def test_rtl_is_built_and_emulated_from_an_artifact(
    caloedge: Call, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("alkaid")
    monkeypatch.chdir(tmp_path)
    outputs, few, waves = tmp_path / "out.npz", tmp_path / "few.npz", tmp_path / "waves.vcd"
    ended = caloedge("emulate", tiny, tiny / "golden.npz", outputs, "--backend", "rtl", "--variant", "streaming")
    assert ended.code == 0, ended
    assert ended.out.splitlines()[0].endswith("one event every 49 cycles (simulated)")
    project = tmp_path / "runs" / "tiny" / "projects" / "xcvu13p" / "rtl_streaming"
    built = (project / "caloedge.json").stat().st_mtime_ns
    with np.load(outputs) as codes, np.load(tiny / "golden.npz") as golden:
        np.testing.assert_array_equal(codes["logit"], golden["output_logit"])
        np.savez(few, inputs=golden["inputs"][:2])
    ended = caloedge("emulate", tiny, few, outputs, "--backend", "rtl", "--variant", "streaming", "--vcd", waves)
    assert ended.code == 0, ended
    assert "$enddefinitions" in waves.read_text()
    assert re.search(rf"^{re.escape(str(waves))}: all [\d,]+ cycles, 2 of 2 events$", ended.out, re.MULTILINE)
    ended = caloedge("emulate", project, few, outputs, "--vcd", waves, "--vcd-limit-mb", 0.01)
    assert f"{waves}: limit of 0.01 MB reached (--vcd-limit-mb): 0 cycles, 0 of 2 events" in ended.out.splitlines()
    assert (project / "caloedge.json").stat().st_mtime_ns == built, "built twice"
    ended = caloedge("build", tiny, project, "--backend", "rtl", "--variant", "streaming", "--no-synthesise")
    assert ended.code == 0, "the same project goes on"
    error = complaint(caloedge("build", tiny, project, "--backend", "rtl", "--variant", "unrolled", "--no-synthesise"))
    assert error == f"{project}: exists already; remove it or give another name"


def test_waves_need_a_backend_with_cycles(caloedge: Call, tiny: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "caloedge.json").write_text(json.dumps({"backend": "hls4ml"}))
    error = complaint(caloedge("emulate", project, tiny / "golden.npz", tmp_path / "out.npz", "--vcd", tmp_path / "w.vcd"))
    assert error == "backend 'hls4ml' has no cycles and no waveforms; use backend 'rtl' with --vcd"


@pytest.mark.parametrize("text", ["conv_1=diagonal", "conv_1=streaming:0", "conv_1=streaming:x"])
def test_a_wrong_choice_for_a_layer_is_one_line(text: str, caloedge: Call, tiny: Path, tmp_path: Path) -> None:
    error = complaint(caloedge("build", tiny, tmp_path / "p", "--backend", "rtl", "--layer", text))
    assert error == f"--layer {text!r} is not NAME=STRATEGY or NAME=STRATEGY:REUSE, e.g. conv_1=streaming:4"
    error = complaint(caloedge("build", tiny, tmp_path / "p", "--backend", "rtl", "--layer", "nosuch=streaming"))
    assert error.startswith("layers: 'nosuch' is no layer of the network; there are: conv_1, ")
    assert files(tmp_path) == []


# Comparisons and reports


def test_compare_writes_a_report_of_it(caloedge: Call, tiny: Path, showers_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "report"
    ended = caloedge("compare", tiny, "--library", showers_file, "--events", 60, "--output", output)
    assert ended.code == 0, ended
    assert "classical baseline" in ended.out
    assert files(output) == ["figure_1.svg", "figure_2.svg", "report.html", "report.json", "report.md"]
    page = (output / "report.html").read_text()
    (output / "report.html").unlink()
    ended = caloedge("report", output)
    assert ended.code == 0, ended
    link = '<a class="home" href="../index.html">← All reports</a>'  # to the index, which only `report` writes
    again = (output / "report.html").read_text()
    assert link in again
    assert again.replace(link, "") == page
    assert (tmp_path / "index.html").is_file()


def test_the_recipes_own_library_is_found_from_the_artifact(caloedge: Call, tiny: Path) -> None:
    ended = caloedge("compare", tiny, "--events", 5)
    assert ended.code == 0, ended


def test_one_event_can_be_compared(caloedge: Call, tiny: Path, tmp_path: Path) -> None:
    ended = caloedge("compare", tiny, "--events", 1, "--output", tmp_path / "report")
    assert ended.code == 0, ended


def test_a_report_of_nothing_is_one_line(caloedge: Call, tmp_path: Path) -> None:
    assert "report.json" in complaint(caloedge("report", tmp_path))
    assert files(tmp_path) == []
