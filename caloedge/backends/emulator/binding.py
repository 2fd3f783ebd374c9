"""A compiled emulator in Python."""

import ctypes
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from caloedge.compiler.fixed import Codes
from caloedge.errors import BadData, UserError
from caloedge.project import InProject, Port, Range, Record, load_library, read_record

BACKEND_NAME = "emulator"
OUT_OF_RANGE = 2
FAILURES = {1: "refuses its arguments", 3: "could not get memory or threads; use fewer threads"}


class EmulatedPort(Port):
    """One input or output of a library."""

    range: Range
    type: Literal["int8_t", "uint8_t", "int16_t", "uint16_t", "int32_t", "uint32_t", "int64_t"]


class EmulatorRecord(Record):
    """Entries that this module needs in the record of an emulator."""

    inputs: Annotated[list[EmulatedPort], Field(min_length=1)]
    outputs: Annotated[list[EmulatedPort], Field(min_length=1)]
    library: InProject
    namespace: Annotated[str, Field(pattern=r"^\w+$")]


class _Tensor(ctypes.Structure):
    """`PREFIX_tensor` of the library's header."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("rank", ctypes.c_int32),
        ("code_bytes", ctypes.c_int32),
        ("elements", ctypes.c_int64),
        ("low", ctypes.c_int64),
        ("high", ctypes.c_int64),
        ("zero_point", ctypes.c_int64),
        ("scales", ctypes.POINTER(ctypes.c_double)),
        ("offsets", ctypes.POINTER(ctypes.c_double)),
        ("scale_count", ctypes.c_int64),
    )


class Emulator:
    """One model of a built emulator project; one call at a time."""

    def __init__(self, folder: Path, threads: int = 1) -> None:
        if threads < 1:
            raise UserError(f"{threads} threads asked for; at least 1 is needed")
        self.folder, self.threads = folder, threads
        values = read_record(folder, BACKEND_NAME, EmulatorRecord)
        self._inputs, self._outputs = values["inputs"], values["outputs"]
        path, prefix = folder / values["library"], values["namespace"]
        library = load_library(folder, values)
        try:
            create, self._destroy = library[f"{prefix}_create"], library[f"{prefix}_destroy"]
            self._predict, self._predict_int64 = library[f"{prefix}_predict"], library[f"{prefix}_predict_int64"]
        except AttributeError as problem:
            raise BadData(f"{path}: cannot be loaded ({problem}); build the project again on this machine") from None
        for ports, function in ((self._inputs, "inputs"), (self._outputs, "outputs")):
            if _sizes(library[f"{prefix}_{function}"]) != [(_elements(port), _dtype(port).itemsize) for port in ports]:
                raise BadData(f"{folder}: its record has other {function} than its library; build the project again")
        create.restype = ctypes.c_void_p
        self._model = ctypes.c_void_p(create())
        if not self._model:
            raise UserError(
                f"{path}: this machine lacks memory or instructions that it was built for; build the project again here"
            )

    def run(self, codes: NDArray[Any] | Mapping[str, NDArray[Any]]) -> dict[str, Codes]:
        """Return {output name: codes (N, *shape) int64} for input codes (N, *shape), or {input name: codes}.

        Codes of the narrowest type that holds the input's format, e.g. uint16, are read as they are; others through int64.
        """
        inputs = self._checked(codes)
        n_events = len(inputs[0])
        narrow = all(array.dtype == _dtype(port) for array, port in zip(inputs, self._inputs, strict=True))
        if not narrow:
            inputs = [array.astype(np.int64, copy=False) for array in inputs]
        outputs = [np.empty((n_events, *port["shape"]), dtype=_dtype(port) if narrow else np.int64) for port in self._outputs]
        inputs = [np.ascontiguousarray(array) for array in inputs]
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in (*inputs, *outputs)]
        predict = self._predict if narrow else self._predict_int64
        status = predict(self._model, *pointers, ctypes.c_int64(n_events), ctypes.c_int(self.threads))
        if status == OUT_OF_RANGE:
            raise self._out_of_range(inputs)
        if status:
            raise UserError(f"{self.folder}: the emulator {FAILURES.get(status, f'failed with status {status}')}")
        return {port["name"]: array.astype(np.int64, copy=False) for port, array in zip(self._outputs, outputs, strict=True)}

    def close(self) -> None:
        """Free the model; it cannot run any more."""
        model, self._model = self._model, ctypes.c_void_p()
        if model:
            self._destroy(model)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_model"):
            self.close()

    def _checked(self, codes: NDArray[Any] | Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Return input codes in declared order after checking names, shapes, types and equal numbers of events."""
        if not self._model:
            raise UserError(f"{self.folder}: the emulator is closed; open it again")
        names = [port["name"] for port in self._inputs]
        if not isinstance(codes, Mapping):
            if len(names) > 1:
                raise UserError(f"{self.folder}: has {len(names)} inputs ({', '.join(names)}); give their codes by name")
            codes = {names[0]: codes}
        if set(codes) != set(names):
            raise UserError(f"{self.folder}: input codes for {', '.join(codes)} given; the inputs are: {', '.join(names)}")
        arrays = [np.asarray(codes[name]) for name in names]
        for array, port in zip(arrays, self._inputs, strict=True):
            if array.ndim == 0 or array.shape[1:] != tuple(port["shape"]) or not np.issubdtype(array.dtype, np.integer):
                shape = ", ".join(map(str, port["shape"]))
                raise UserError(f"{self.folder}: input codes are {array.dtype} {array.shape}; integers (N, {shape}) expected")
        if len({len(array) for array in arrays}) != 1:
            counts = ", ".join(f"{name} {len(array)}" for name, array in zip(names, arrays, strict=True))
            raise UserError(f"{self.folder}: the inputs have different numbers of events: {counts}")
        return arrays

    def _out_of_range(self, inputs: list[NDArray[Any]]) -> UserError:
        for array, port in zip(inputs, self._inputs, strict=True):
            low, high = port["range"]
            if array.size and (array.min() < low or array.max() > high):
                return UserError(
                    f"{self.folder}: codes of input {port['name']} reach from {array.min()} to {array.max()}; "
                    f"{low} to {high} are allowed"
                )
        return UserError(f"{self.folder}: the emulator refuses codes that are in range; build the project again")


def _sizes(table: Any) -> list[tuple[int, int]]:
    """Return the numbers of codes and the bytes of a code that a library says its inputs or outputs have."""
    count = ctypes.c_int32()
    table.restype = ctypes.POINTER(_Tensor)
    tensors = table(ctypes.byref(count))
    return [(tensors[i].elements, tensors[i].code_bytes) for i in range(count.value)]


def _elements(port: Mapping[str, Any]) -> int:
    return math.prod(port["shape"])


def _dtype(port: Mapping[str, Any]) -> np.dtype[Any]:
    return np.dtype(str(port["type"]).removesuffix("_t"))


def emulate(folder: Path, codes: NDArray[Any] | Mapping[str, NDArray[Any]]) -> dict[str, Codes]:
    """Run a built project: input codes (N, *shape), or {input name: codes}, to {output name: codes (N, *shape)}."""
    with Emulator(folder) as emulator:
        return emulator.run(codes)
