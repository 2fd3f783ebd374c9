"""A compiled emulator in Python."""

import ctypes
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from caloedge.compiler.fixed import Codes
from caloedge.errors import BadData, UserError
from caloedge.project import read_record

BACKEND_NAME = "emulator"
OUT_OF_RANGE = 2
FAILURES = {1: "refuses its arguments", 3: "could not get memory or threads; use fewer threads"}


class Emulator:
    """One model of a built emulator project; one call at a time."""

    def __init__(self, folder: Path, threads: int = 1) -> None:
        if threads < 1:
            raise UserError(f"{threads} threads asked for; at least 1 is needed")
        self.folder, self.threads = folder, threads
        values = read_record(folder, BACKEND_NAME)
        self._inputs, self._outputs = values["inputs"], values["outputs"]
        path, prefix = folder / values["library"], values["namespace"]
        try:
            library = ctypes.CDLL(str(path.resolve()))
            create, self._destroy = library[f"{prefix}_create"], library[f"{prefix}_destroy"]
            self._predict, self._predict_int64 = library[f"{prefix}_predict"], library[f"{prefix}_predict_int64"]
        except (OSError, AttributeError) as problem:
            raise BadData(f"{path}: cannot be loaded ({problem}); build the project again on this machine") from None
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
        given = self._checked(codes)
        n_events = len(given[0])
        narrow = all(array.dtype == _dtype(port) for array, port in zip(given, self._inputs, strict=True))
        if not narrow:
            given = [array.astype(np.int64, copy=False) for array in given]
        made = [np.empty((n_events, *port["shape"]), dtype=_dtype(port) if narrow else np.int64) for port in self._outputs]
        given = [np.ascontiguousarray(array) for array in given]
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in (*given, *made)]
        predict = self._predict if narrow else self._predict_int64
        status = predict(self._model, *pointers, ctypes.c_int64(n_events), ctypes.c_int(self.threads))
        if status == OUT_OF_RANGE:
            raise self._out_of_range(given)
        if status:
            raise UserError(f"{self.folder}: the emulator {FAILURES.get(status, f'failed with status {status}')}")
        return {port["name"]: array.astype(np.int64, copy=False) for port, array in zip(self._outputs, made, strict=True)}

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
                wanted = ", ".join(map(str, port["shape"]))
                raise UserError(f"{self.folder}: input codes are {array.dtype} {array.shape}; integers (N, {wanted}) expected")
        if len({len(array) for array in arrays}) != 1:
            counts = ", ".join(f"{name} {len(array)}" for name, array in zip(names, arrays, strict=True))
            raise UserError(f"{self.folder}: the inputs have different numbers of events: {counts}")
        return arrays

    def _out_of_range(self, given: list[NDArray[Any]]) -> UserError:
        for array, port in zip(given, self._inputs, strict=True):
            low, high = port["range"]
            if array.size and (array.min() < low or array.max() > high):
                return UserError(
                    f"{self.folder}: codes of input {port['name']} reach from {array.min()} to {array.max()}; "
                    f"{low} to {high} are allowed"
                )
        return UserError(f"{self.folder}: the emulator refuses codes that are in range; build the project again")


def _dtype(port: Mapping[str, Any]) -> np.dtype[Any]:
    return np.dtype(str(port["type"]).removesuffix("_t"))


def emulate(folder: Path, codes: NDArray[Any] | Mapping[str, NDArray[Any]]) -> dict[str, Codes]:
    """Run a built project: input codes (N, *shape), or {input name: codes}, to {output name: codes (N, *shape)}."""
    with Emulator(folder) as emulator:
        return emulator.run(codes)
