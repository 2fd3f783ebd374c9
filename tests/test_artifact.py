"""Artifacts and records edited by hand: whatever stands in them, reading ends in one line or in what was written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from caloedge.artifact import Artifact, finished_training, read_artifact, refuse_foreign_files
from caloedge.backends.emulator.binding import EmulatorRecord
from caloedge.backends.hls4ml.project import HlsRecord
from caloedge.backends.rtl.simulation import RtlRecord
from caloedge.errors import BadData, UserError
from caloedge.project import Record, is_built, read_record, write_record

SHIPPED = Path(__file__).parents[1] / "models" / "shower_shape"
AGAIN = "export the artifact again"
SHARED = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return shutil.copytree(SHIPPED, tmp_path / "model")


def edit(model: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = model / "manifest.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def complaint(read: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        read()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["model.qonnx", "golden.npz", "recipe.yaml", "edge.0.safetensors"])
def test_a_file_that_the_manifest_leaves_out_is_refused(model: Path, name: str) -> None:
    assert isinstance(read_artifact(model), Artifact)
    edit(model, lambda values: values["files"].pop(name))
    said = complaint(lambda: read_artifact(model))
    assert said == f"{model / name}: not listed in the manifest, so it may be any file; {AGAIN}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda m: m["working_points"].update({"float edge": float("nan")}),
            "working_points.float edge: Input should be a finite",
        ),
        (lambda m: m.update(stages={}), "stages: Value error, no stage 'published'"),
        (lambda m: m["stages"].pop("quantised"), "stages: Value error, no stage 'quantised'"),
        (lambda m: m.update(library={}), "library: Value error, no name"),
        (lambda m: m["library"].update(sha256=""), "library: Value error, no sha256"),
        (lambda m: m["files"].update({"../x": "0" * 64}), "files.../x.[key]: String should match"),
        (lambda m: m["files"].update({"model.qonnx": "0"}), "files.model.qonnx: String should match"),
        (
            lambda m: m["stages"]["edge"].update(parameters=-1),
            "stages.edge.parameters: Input should be greater than or equal to 0",
        ),
        (lambda m: m.update(files=[]), "files: Input should be an object"),
    ],
)
def test_a_manifest_that_no_export_writes_is_refused(
    model: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    edit(model, change)
    said = complaint(lambda: read_artifact(model))
    assert said.startswith(f"{model / 'manifest.json'}: not a manifest ({message}")
    assert said.endswith(f"); {AGAIN}")
    assert complaint(lambda: refuse_foreign_files(model)).endswith("); restore it, or move the folder elsewhere")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"name": ' * 10_000, "9" * 10_000, "\0", "{}"])
def test_deep_and_odd_json_is_one_line(model: Path, tmp_path: Path, text: str) -> None:
    (model / "manifest.json").write_text(text)
    assert complaint(lambda: read_artifact(model)).startswith(f"{model / 'manifest.json'}: not a manifest (")
    (tmp_path / "caloedge.json").write_text(text)
    said = complaint(lambda: read_record(tmp_path))
    assert said.startswith(f"{tmp_path / 'caloedge.json'}: damaged (")
    assert said.endswith("); build the project again")
    assert not is_built(tmp_path, {}), "a damaged record is no project: it is built anew"


INPUT = {"name": "x", "shape": [2, 3], "format": "fixed<6,4>", "range": [-32, 31], "order": [5, 4, 3, 2, 1, 0], "type": "int8_t"}
OUTPUT = INPUT | {"name": "y", "shape": [2], "order": [0, 1], "argument": 0, "places": [0, 1]}
PORTS = {"inputs": [INPUT], "outputs": [OUTPUT], "input": INPUT, "output": OUTPUT}
WHOLE = PORTS | {
    "backend": "any", "library": "sim/x.so", "namespace": "caloedge_x", "project": "caloedge", "traced_library": "sim/y.so",
    "handshake": True, "top": "net", "sources": ["rtl/a.v"], "timeout_cycles": 100, "drain_cycles": 5,
}  # fmt: skip
KINDS = [EmulatorRecord, HlsRecord, RtlRecord]


@pytest.mark.parametrize("kind", KINDS, ids=["emulator", "hls4ml", "rtl"])
def test_every_key_that_is_read_is_checked(tmp_path: Path, kind: type[Record]) -> None:
    write_record(tmp_path, WHOLE)
    assert read_record(tmp_path, "any", kind) == WHOLE
    for key in kind.model_fields:
        if kind.model_fields[key].is_required() and key != "backend":
            for wrong in ({k: v for k, v in WHOLE.items() if k != key}, WHOLE | {key: None}, WHOLE | {key: 1.5}):
                write_record(tmp_path, {k: v for k, v in wrong.items() if k != "library" or isinstance(v, str)})
                said = complaint(lambda: read_record(tmp_path, "any", kind))
                assert said.startswith(f"{tmp_path / 'caloedge.json'}: damaged ({key}: ")


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (EmulatorRecord, {"library": "../x.so"}, "library: Value error, must lie in the project"),
        (EmulatorRecord, {"library": "/lib/x.so"}, "library: Value error, must lie in the project"),
        (EmulatorRecord, {"inputs": []}, "inputs: List should have at least 1 item"),
        (EmulatorRecord, {"outputs": [OUTPUT | {"shape": [0]}]}, "outputs.0.shape.0: Input should be greater than 0"),
        (
            EmulatorRecord,
            {"outputs": [OUTPUT | {"shape": [2**40]}]},
            "outputs.0: Value error, shape [1099511627776] is too",
        ),
        (EmulatorRecord, {"outputs": [OUTPUT | {"type": "int9_t"}]}, "outputs.0.type: Input should be 'int8_t'"),
        (EmulatorRecord, {"inputs": [INPUT | {"format": "float"}]}, "inputs.0.format: Value error, "),
        (
            HlsRecord,
            {"inputs": [INPUT | {"order": [0, 0, 1, 2, 3, 4]}]},
            "inputs.0: Value error, order does not hold each",
        ),
        (RtlRecord, {"output": OUTPUT | {"order": [0]}}, "output: Value error, order does not hold each of the 2 codes once"),
        (RtlRecord, {"timeout_cycles": 2**60}, "timeout_cycles: Input should be less than"),
    ],
)
def test_a_record_that_no_build_writes_is_refused(
    tmp_path: Path, kind: type[Record], change: dict[str, Any], message: str
) -> None:
    (tmp_path / "caloedge.json").write_text(json.dumps(WHOLE | change))
    said = complaint(lambda: read_record(tmp_path, "any", kind))
    assert said.startswith(f"{tmp_path / 'caloedge.json'}: damaged ({message}")
    assert said.endswith("); build the project again")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5), lambda x: st.lists(x, max_size=3)
)


@SHARED
@given(data=st.data())
def test_any_record_or_manifest_ends_in_one_line(tmp_path: Path, data: st.DataObject) -> None:
    record, manifest = dict(WHOLE), json.loads((SHIPPED / "manifest.json").read_text())
    for values in (record, manifest):
        key = data.draw(st.sampled_from(sorted(values)))
        if data.draw(st.booleans()):
            del values[key]
        else:
            values[key] = data.draw(JSON)
    (tmp_path / "caloedge.json").write_text(json.dumps(record))
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    for read in (*(lambda kind=kind: read_record(tmp_path, "any", kind) for kind in KINDS), lambda: read_artifact(tmp_path)):
        said = ""
        try:
            read()
        except UserError as problem:
            said = str(problem)
        assert "\n" not in said


def test_a_golden_file_of_odd_arrays_is_refused(model: Path) -> None:
    artifact = read_artifact(model)
    (model / "golden.npz").write_bytes(b"PK")
    with pytest.raises(BadData, match=rf"golden\.npz: not a readable \.npz file \(.*\); {AGAIN}$"):
        artifact.golden()


def change_one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", sorted(json.loads((SHIPPED / "manifest.json").read_text(encoding="utf-8"))["files"]))
def test_one_changed_bit_of_any_file_is_noticed(model: Path, name: str) -> None:
    read_artifact(model)
    change_one_bit(model / name)
    with pytest.raises(BadData) as caught:
        read_artifact(model)
    assert str(caught.value) == (
        f"{model / name}: altered since the manifest was written (SHA-256 differs); export the artifact again"
    )


def test_a_missing_file_is_noticed(model: Path) -> None:
    (model / "golden.npz").unlink()
    with pytest.raises(BadData, match=r"golden\.npz: missing; the manifest lists it, export the artifact again$"):
        read_artifact(model)


def test_changed_weights_are_not_taken_as_a_finished_training(model: Path) -> None:
    """`run` would otherwise skip the training and ship weights that nobody trained."""
    stage = "quantised"
    key = read_artifact(model).manifest.stages[stage].key
    assert finished_training(model, stage, key) is not None
    assert finished_training(model, stage, f"{key}x") is None
    change_one_bit(model / f"{stage}.0.safetensors")
    with pytest.raises(
        BadData, match=r"quantised\.0\.safetensors: missing or altered; restore it, or remove manifest\.json there"
    ):
        finished_training(model, stage, key)
