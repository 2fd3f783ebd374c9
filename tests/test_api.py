"""What `import caloedge` offers: by name, when first used, and without torch."""

import subprocess
import sys

import pytest

import caloedge


def test_importing_the_package_imports_nothing_else() -> None:
    code = "import sys, caloedge; print([name for name in sys.modules if name.startswith('caloedge.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_what_its_module_defines_and_needs_no_torch() -> None:
    code = (
        "import sys, caloedge\n"
        "from caloedge import *\n"
        "from caloedge.artifact import read_artifact as a\n"
        "from caloedge.catalog import find as f\n"
        "from caloedge.compiler.graph import Graph as g\n"
        "from caloedge.compiler.onnx.reader import read as r\n"
        "from caloedge.production import simulate as s\n"
        "from caloedge.verification.executors import verify_artifact as v\n"
        "assert (read_artifact, find, Graph, compile_qonnx, simulate, verify) == (a, f, g, r, s, v)\n"
        "assert set(caloedge.__all__) <= set(dir(caloedge))\n"
        "print({'torch', 'brevitas', 'lightning', 'hls4ml'} & set(sys.modules), __version__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("set() 0."), done.stderr


def test_an_unknown_name_says_what_there_is() -> None:
    with pytest.raises(
        AttributeError, match=r"^module 'caloedge' has no attribute 'compile'; it offers Graph, __version__, comp"
    ):
        _ = caloedge.compile
