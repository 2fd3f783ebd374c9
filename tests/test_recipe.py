"""A recipe is checked whole before anything starts: what is no number, name, size or shape is one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from caloedge.catalog import names
from caloedge.errors import BadData, UnknownName, UserError
from caloedge.recipe import Recipe, read_recipe
from caloedge.recipe_check import check_names

ROOT = Path(__file__).parents[1]
MODELS = sorted((ROOT / "models").glob("*/recipe.yaml"))
TEXT = (ROOT / "models" / "seed_finder" / "recipe.yaml").read_text()
EDGE = "edge: {epochs: 40, events_per_epoch: 16000, batch_size: 512, learning_rate: 5.0e-3}"
ANYWHERE = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def tried(name: str) -> str:
    return f"(tried as well: module {name!r} on Python's path and beside the recipe)"


def changed(folder: Path, *changes: tuple[str, str], text: str = TEXT) -> Path:
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def complaint(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        check_names(path, read_recipe(path))
    said = str(caught.value)
    assert said.startswith(f"{path}: ")
    assert "\n" not in said
    return said.removeprefix(f"{path}: ")


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.parent.name)
def test_the_shipped_recipes_are_sound(path: Path) -> None:
    check_names(path, read_recipe(path))


def test_plain_yaml_is_read_as_before(tmp_path: Path) -> None:
    path = changed(
        tmp_path, (EDGE, "edge: {epochs: 1_000, events_per_epoch: +5, batch_size: 5, learning_rate: 1e-3, warm_up: .5}")
    )
    assert read_recipe(path).training.edge.model_dump() | {"weight_decay": 0} == {
        "epochs": 1000, "events_per_epoch": 5, "batch_size": 5, "learning_rate": 0.001, "warm_up": 0.5, "relative_rate": False,
        "weight_decay": 0, "averaging": 0, "fine_tuning_epochs": 0,
    }  # fmt: skip


def test_former_names_of_fields_are_read_and_make_the_keys_of_trainings(tmp_path: Path) -> None:
    """`models/pf_energy/recipe.yaml` has all of these fields."""
    present = next(path for path in MODELS if path.parent.name == "pf_energy")
    text = present.read_text()
    former_names = {
        "fine_tuning_epochs:": "settle_epochs:", "distil_on_rescaled:": "quantised_rescaled:", "alternatives:": "rivals:",
        "\n  synthesised_reuse:": "\n  synthesised_folds:", "\n  reuse:": "\n  folds:",
    }  # fmt: skip
    former = text
    for now, before in former_names.items():
        assert now in former
        former = former.replace(now, before)
    path = tmp_path / "recipe.yaml"
    path.write_text(former)
    recipe = read_recipe(path)
    assert recipe == read_recipe(present)
    assert recipe.training.quantised.for_key() == {
        "epochs": 90, "settle_epochs": 24, "events_per_epoch": 2000, "batch_size": 5, "learning_rate": 1e-3,
        "relative_rate": True,
    }  # fmt: skip
    path.write_text(text.replace("fine_tuning_epochs: 24", "fine_tuning_epochs: 24, settle_epochs: 24"))
    with pytest.raises(BadData, match=r"training.quantised.settle_epochs: Extra inputs are not permitted"):
        read_recipe(path)


FIELDS = "; see the fields in caloedge/recipe.py"
INTEGER = f"Input should be a valid integer{FIELDS}"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed: 1\n", "seed: true\n", f"seed: {INTEGER}"),
        ("seed: 1\n", "seed: 1:30\n", f"seed: {INTEGER}"),
        ("seed: 1\n", "seed: '1'\n", f"seed: {INTEGER}"),
        ("seed: 1\n", "seed: 1.0\n", f"seed: {INTEGER}"),
        ("seed: 1\n", "seed: 010\n", f"seed: {INTEGER}"),
        ("seed: 1\n", f"seed: {10**20}\n", f"seed: Input should be less than or equal to 4294967295{FIELDS}"),
        ("seed: 1\n", f"seed: {10**40}\n", "line 6: an integer of 41 digits"),
        ("seed: 1\n", f"seed: {'9' * 5000}\n", "line 6: an integer of 5,000 digits"),
        ("seed: 1\n", "seed: 1\nseed: 2\n", "line 7: 'seed' stands there twice; keep one"),
        ("seed: 1\n", "seed: &one 1\ngolden: *one\n", "line 7: alias *one; write out what it stands for"),
        ("seed: 1\n", "seed: !!python/name:os.system\n",
         "line 6: tag 'tag:yaml.org,2002:python/name:os.system'; write plain values"),
        ("seed: 1\n", "? [seed]\n: 1\n", "line 6: a key is one word"),
        ("seed: 1\n", f"seed: {'[' * 3000}\n", "line 6: nested deeper than 20 levels"),
        ("library: pbwo4_gamma", "library: no", None),
        ("epochs: 40,", f"epochs: {10**18},", f"training.edge.epochs: Input should be less than or equal to 1000000{FIELDS}"),
        ("batch_size: 512, learning_rate: 5.0e-3", f"batch_size: {10**15}, learning_rate: 5.0e-3",
         f"training.edge.batch_size: Input should be less than or equal to 10000000{FIELDS}"),
        ("learning_rate: 5.0e-3", "learning_rate: .inf", f"training.edge.learning_rate: Input should be a finite number{FIELDS}"),
        ("learning_rate: 5.0e-3", "learning_rate: .nan", f"training.edge.learning_rate: Input should be a finite number{FIELDS}"),
        ("input_fraction: 5", f"input_fraction: {10**6}",
         f"quantisation.input_fraction: Input should be less than or equal to 64{FIELDS}"),
        ("input_fraction: 5", f"input_fraction: {-(10**6)}",
         f"quantisation.input_fraction: Input should be greater than or equal to -64{FIELDS}"),
        ("valid_events: 10000", f"valid_events: {10**12}",
         f"evaluation.valid_events: Input should be less than or equal to 1000000000{FIELDS}"),
        ("target: xcvu13p", "target: abacus",
         f"target: no target 'abacus'; there are: {', '.join(names('target'))} {tried('abacus')}"),
        ("  hls4ml: [", "  vhdl: [",
         f"builds: no backend 'vhdl'; there are: {', '.join(names('backend'))} {tried('vhdl')}"),
        ("  hls4ml: [io_parallel,", "  hls4ml: [io_serial,",
         "builds: backend 'hls4ml' has no variant 'io_serial' (did you mean 'io_stream'?); "
         "there are: io_parallel, io_stream, auto"),
        ("  lfe5u_85: [", "  lfe5u_86: [",
         f"synthesis: no target 'lfe5u_86' (did you mean 'lfe5u_85'?); "
         f"there are: {', '.join(names('target'))} {tried('lfe5u_86')}"),
        ("  lfe5u_85: [auto]", "  lfe5u_85: [io_stream]",
         "synthesis.lfe5u_85: backend 'rtl' has no variant 'io_stream' (did you mean 'streaming'?); "
         "there are: auto, unrolled, streaming, nodes_1, nodes_2, nodes_4, nodes_8"),
        ("  conv_2: {", "  conv2: {",
         "layers: 'conv2' is no layer; they are called as `caloedge compile` prints them, e.g. conv_1"),
        ("task: seed_finder", "task: ''", None),
        ("network: seed_finder", "network: center_finder.", None),
    ],
)  # fmt: skip
def test_a_recipe_that_cannot_be_meant_is_one_line(tmp_path: Path, old: str, new: str, message: str | None) -> None:
    if new == "library: no":
        assert read_recipe(changed(tmp_path, (old, new))).library == "no", "a name, not a boolean"
        return
    said = complaint(changed(tmp_path, (old, new)))
    assert said == message or (message is None and said.startswith(f"{old.split(':')[0]}: no {old.split(':')[0]} "))


def test_sizes_are_checked_with_the_network(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    path = changed(tmp_path, ("seed: 1\n", "seed: 1\nedge_size: huge\n"))
    assert complaint(path) == "edge_size: network 'seed_finder' has no size 'huge'; there are: published, edge"


def test_names_are_checked_without_torch(tmp_path: Path) -> None:
    path = changed(tmp_path, ("target: xcvu13p", "target: abacus"))
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from pathlib import Path; from caloedge.recipe import read_recipe; from caloedge.recipe_check import check_names\n"
        f"path = Path({str(path)!r}); check_names(path, read_recipe(path))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"UnknownName: {path}: target: no target 'abacus'; there are: " in done.stderr


def test_what_is_no_text_file_is_no_recipe(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    os.mkfifo(path)
    assert complaint(path) == "not a regular file; give one"
    path.unlink()
    path.write_bytes(b"# " + b"x" * 2**18)
    assert complaint(path) == "more than 256 KiB; a recipe is a page of YAML"


@ANYWHERE
@given(data=st.data())
def test_any_damage_ends_in_one_line_or_a_recipe(tmp_path: Path, data: st.DataObject) -> None:
    content = list(TEXT)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 20))] = data.draw(st.text(max_size=6))
    path = tmp_path / "recipe.yaml"
    path.write_text("".join(content), encoding="utf-8", errors="surrogatepass")
    said = ""
    try:
        recipe = read_recipe(path)
        check_names(path, recipe)
    except (BadData, UnknownName) as problem:
        said = str(problem)
    assert "\n" not in said
    assert said or isinstance(recipe, Recipe)


# What needs built networks


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            [("network: seed_finder", "network: center_finder")],
            r"^recipe 'seed_finder': network 'center_finder', edge: cannot take inputs \(1, 7, 7\) of task 'seed_finder' \(.*\);"
            " name one that does$",
        ),
        (
            [("batch_size: 512, learning_rate: 5.0e-3", "batch_size: 9000000, learning_rate: 5.0e-3")],
            r"^recipe 'seed_finder': training.edge.batch_size: 9,000,000 are more than the about [\d,]+ inputs of an epoch; give"
            " at most these, or more events_per_epoch$",
        ),
        (
            [("evaluation: {events: 20000,", "evaluation: {events: 1000000000,")],
            r"^recipe 'seed_finder': evaluation.events: 1,000,000,000 events need about [\d,]+\.\d GiB of memory, [\d,]+\.\d GiB"
            " are there; give less$",
        ),
        (
            [("  conv_2: {", "  conv_7: {")],
            r"^recipe 'seed_finder': layers names 'conv_7'; network 'seed_finder' has conv_1 to conv_2$",
        ),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_trained(
    tmp_path: Path, changes: list[tuple[str, str]], message: str
) -> None:
    pytest.importorskip("brevitas")
    from caloedge.pipeline import Run
    from caloedge.training.fit import Hardware
    from caloedge.training.stages import check

    opened = Run.open(str(changed(tmp_path, *changes)), None)
    with pytest.raises(UserError, match=message):
        check(opened.recipe, opened.library, Hardware(accelerator="cpu"), ())
