"""Tasks, networks and targets of one's own: `caloedge new` writes them, and a recipe finds what lies beside it."""

import multiprocessing
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from caloedge import catalog
from caloedge.catalog import Target, Task, find, look_beside, names
from caloedge.errors import UnknownName, UserError
from caloedge.recipe import read_recipe

Call = Callable[..., Any]
BOARD = (
    "from caloedge.catalog import Target\nTARGET = Target('a board', 'xc7a35t', {clock}, {{'LUT': 20_800}}, 'its data sheet')\n"
)


@pytest.fixture(autouse=True)
def _path_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("own_"):
            del sys.modules[name]


@pytest.fixture
def beside(tiny_recipe: Path, tmp_path: Path) -> Path:
    """Return a recipe whose target is a file beside it."""
    text = tiny_recipe.read_text() + "target: own_board\n"
    (tmp_path / "recipe.yaml").write_text(text)
    (tmp_path / "own_board.py").write_text(BOARD.format(clock=120.0))
    return tmp_path / "recipe.yaml"


def test_a_recipe_finds_what_lies_beside_it(beside: Path) -> None:
    with pytest.raises(UnknownName):
        find(Target, "own_board")
    read_recipe(beside)
    assert find(Target, "own_board").clock_mhz == 120.0


def test_a_package_beside_a_recipe_is_found_too(beside: Path) -> None:
    (beside.parent / "own_lab" / "boards").mkdir(parents=True)
    (beside.parent / "own_lab" / "__init__.py").touch()
    (beside.parent / "own_board.py").rename(beside.parent / "own_lab" / "boards" / "small.py")
    beside.write_text(beside.read_text().replace("own_board", "own_lab.boards.small"))
    read_recipe(beside)
    assert find(Target, "own_lab.boards.small").part == "xc7a35t"


def clock_in_a_process(name: str) -> float:
    return find(Target, name).clock_mhz


def test_worker_processes_find_it_as_well(beside: Path) -> None:
    read_recipe(beside)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(clock_in_a_process, ("own_board",)) == 120.0


def test_a_recipe_without_plugins_of_its_own_changes_nothing(tiny_recipe: Path) -> None:
    before = list(sys.path)
    read_recipe(tiny_recipe)
    assert sys.path == before


def test_another_module_of_the_same_name_is_refused(beside: Path, tmp_path: Path) -> None:
    read_recipe(beside)
    find(Target, "own_board")
    shutil.copytree(beside.parent, tmp_path / "copy")
    assert read_recipe(tmp_path / "copy" / "recipe.yaml"), "the same file in an artifact is no conflict"
    (tmp_path / "copy" / "own_board.py").write_text(BOARD.format(clock=60.0))
    with pytest.raises(UserError) as caught:
        read_recipe(tmp_path / "copy" / "recipe.yaml")
    assert str(caught.value) == (
        f"{tmp_path / 'copy' / 'own_board.py'}: Python finds another module 'own_board' first, {tmp_path / 'own_board.py'}; "
        "give this one another name"
    )
    (tmp_path / "json.py").touch()
    with pytest.raises(UserError, match=r"json\.py: Python finds another module 'json' first, "):
        look_beside(tmp_path, ["json"])


def test_what_is_missing_says_where_was_looked(beside: Path, caloedge: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    (beside.parent / "own_board.py").unlink()
    read_recipe(beside)
    with pytest.raises(UnknownName) as caught:
        find(Target, "own_board")
    assert str(caught.value) == (
        f"no target 'own_board'; there are: {', '.join(names('target'))} "
        "(tried as well: module 'own_board' on Python's path and beside the recipe)"
    )
    (beside.parent / "own_board.py").write_text("import own_helpers\n")
    monkeypatch.chdir(beside.parent)
    ended = caloedge("inspect", "none.onnx", "--target", "own_board")
    place = f"{beside.parent / 'own_board.py'}:1"
    cure = "install it, or put it on Python's path or beside the recipe"
    assert (ended.code, ended.err) == (2, f"caloedge: {place}: no module 'own_helpers'; {cure}\n")


# New


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("tsk", "x"), "nothing new of kind 'tsk' (did you mean 'task'?); there are: task, network, target"),
        (("task", "My-Task"), "task 'My-Task': give a name of small letters, digits and _, such as my_task"),
        (("task", "class"), "task 'class': give a name of small letters, digits and _, such as my_task"),
        (("task", "json"), "task 'json': is the name of another plug-in or Python module; give it one of its own, e.g. my_json"),
        (
            ("network", "xcvu13p"),
            "network 'xcvu13p': is the name of another plug-in or Python module; give it one of its own, e.g. my_xcvu13p",
        ),
    ],
)
def test_a_wrong_name_of_something_new_is_one_line(words: tuple[str, str], message: str, caloedge: Call, tmp_path: Path) -> None:
    ended = caloedge("new", *words, "--folder", tmp_path / "there")
    assert (ended.code, ended.out, ended.err) == (2, "", f"caloedge: {message}\n")
    assert list(tmp_path.iterdir()) == []


def test_new_things_share_a_recipe_but_leave_ones_own_alone(caloedge: Call, tmp_path: Path) -> None:
    for kind in ("task", "network", "target"):
        ended = caloedge("new", kind, f"own_{kind}", "--folder", tmp_path)
        assert (ended.code, ended.err) == (0, "")
    recipe = read_recipe(tmp_path / "recipe.yaml")
    assert (recipe.name, recipe.task, recipe.network, recipe.target) == ("own_task", "own_task", "own_network", "own_target")
    assert "NAME" not in "".join(path.read_text() for path in tmp_path.glob("*.py"))
    assert caloedge("new", "task", "own_task", "--folder", tmp_path).code == 2
    text = (tmp_path / "recipe.yaml").read_text().partition("\n")[2]
    (tmp_path / "recipe.yaml").write_text(text)
    ended = caloedge("new", "task", "own_other", "--folder", tmp_path)
    assert (
        ended.out.splitlines()[1] == f"{tmp_path / 'recipe.yaml'}: left as it is; to use the task, write there: task: own_other"
    )
    assert (tmp_path / "recipe.yaml").read_text() == text


OWN_LOSS = """\
from torch.nn import functional

from caloedge.catalog import Loss

LOSS = Loss("mean absolute error", functional.l1_loss)
"""


@pytest.mark.slow
def test_a_new_task_and_network_are_trained_and_exported_as_they_are(tmp_path: Path) -> None:
    """Each call is a process of its own, in another folder than the recipe, without PYTHONPATH."""
    pytest.importorskip("brevitas")

    def call(*words: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from caloedge.cli import main; main()", *map(str, words)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    lab, made = tmp_path / "lab", tmp_path / "made"
    for kind in ("task", "network", "target"):
        assert call("new", kind, f"own_{kind}", "--folder", lab).returncode == 0
    task = lab / "own_task.py"
    task.write_text(task.read_text().replace('loss="mean_squared_error"', 'loss="own_loss"'))
    (lab / "own_loss.py").write_text(OWN_LOSS)
    recipe = lab / "recipe.yaml"
    recipe.write_text(re.sub(r"epochs: \d+, events_per_epoch: \d+", "epochs: 1, events_per_epoch: 200", recipe.read_text()))
    done = call("train", recipe, "--output", made, "--accelerator", "cpu")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("published: 5,313 parameters, 1 epochs, ")
    assert call("export", recipe, "--output", made).returncode == 0
    files = {path.name for path in (made / "artifact").iterdir()}
    assert {"own_task.py", "own_loss.py", "own_network.py", "own_target.py", "model.qonnx"} <= files
    shutil.rmtree(lab)
    done = call("compare", made / "artifact", "--events", 100)
    assert done.returncode == 0, done.stderr
    assert "classical baseline" in done.stdout
    assert call("compile", made / "artifact").returncode == 0


def test_the_names_of_new_plugins_are_not_this_packages() -> None:
    assert not {"own_task", "own_network"} & {name for kind in catalog.FOLDERS for name in names(kind)}
    with pytest.raises(UnknownName, match=r"^no task 'own_task'; "):
        find(Task, "own_task")
