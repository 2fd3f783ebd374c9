"""Make a shower library: many showers in parallel, each a function of (seed, index) alone, so that work can stop and go on.

Workers write finished ranges into `<file>.parts/`; the parts become the library when all are there. Ctrl-C keeps what is
finished, and the same call again continues. The result does not depend on the number of workers or on interruptions.
"""

import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.catalog import Generator, find
from caloedge.detector.crystals.geometry import describe, geometry
from caloedge.detector.crystals.library import SUFFIXES, write_library
from caloedge.errors import BadData, UserError
from caloedge.files import locked, read_text, replacing, write_text
from caloedge.formats.npz import read_npz
from caloedge.progress import progress

SHOWERS_PER_PART = 64
SHOWER, WRITTEN, STOP = "shower", "written", "stop"
"""Messages: what workers report, and what ends them."""
MIN_ENERGY_GEV, MAX_ENERGY_GEV = 0.01, 10_000.0


@dataclass(frozen=True)
class Production:
    """Settings of a simulation; two equal values give the same library, shower by shower."""

    geometry: str = "pbwo4"
    generator: str = "geant4"
    particle: str = "gamma"
    showers: int = 10_000
    min_energy_gev: float = 1.0
    max_energy_gev: float = 100.0
    seed: int = 1
    zero_below_mev: float = 0.1
    source: str = ""
    """What the generator needs besides the particles: a path, or the name of a shipped library."""

    def __post_init__(self) -> None:
        """Refuse what cannot be simulated."""
        geometry(self.geometry)
        generator = find(Generator, self.generator)
        if self.showers < 1:
            raise UserError(f"showers = {self.showers}: ask for at least 1")
        if not 0 < self.min_energy_gev <= self.max_energy_gev < float("inf"):
            raise UserError(f"energy range {self.min_energy_gev} to {self.max_energy_gev} GeV: give 0 < lowest <= highest")
        if not self.min_energy_gev >= MIN_ENERGY_GEV or not self.max_energy_gev <= MAX_ENERGY_GEV:
            raise UserError(
                f"energy range {self.min_energy_gev} to {self.max_energy_gev} GeV: electromagnetic showers are simulated between"
                f" {MIN_ENERGY_GEV} and {MAX_ENERGY_GEV} GeV"
            )
        if not 0 <= self.zero_below_mev < float("inf"):
            raise UserError(f"zero_below_mev = {self.zero_below_mev}: give a finite threshold of 0 or more")
        if self.seed < 0:
            raise UserError(f"seed = {self.seed}: seeds are 0 or larger")
        if self.source and not generator.source:
            raise UserError(f"--source {self.source}: generator {self.generator} takes none")
        if generator.source and not self.source:
            raise UserError(f"generator {self.generator} needs {generator.source}: give it with --source")
        generator.check(self)

    def incident(self, index: int) -> tuple[float, tuple[float, float], int]:
        """Return energy in MeV (log-uniform), impact point in mm (uniform over the central cell) and seed of one shower."""
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(index,)))
        low, high = np.log(self.min_energy_gev * 1e3), np.log(self.max_energy_gev * 1e3)
        half_mm = geometry(self.geometry).impact_half_width_mm
        # Stored as float32, so simulated as float32.
        energy_mev = float(np.float32(np.exp(rng.uniform(low, high))))
        x_mm, y_mm = (float(np.float32(v)) for v in rng.uniform(-half_mm, half_mm, 2))
        return energy_mev, (x_mm, y_mm), int(rng.integers(1, 2**31))


def simulate(production: Production, path: Path, workers: int) -> None:
    """Simulate into the HDF5 file `path`; an interrupted call leaves its finished showers for the next one.

    Raises `UserError` if the file is there, or another process is making it.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: a shower library ends in .h5; give such a name")
    with _sigterm_as_interrupt(), locked(path):
        if path.exists():
            raise UserError(f"{path}: exists already; remove it or give another name")
        find(Generator, production.generator).prepare()
        parts = path.with_name(path.name + ".parts")
        _open_parts(parts, production)
        missing = list(_missing(parts, production.showers))
        ready = production.showers - sum(stop - start for start, stop in missing)
        with progress(f"simulating {path.name}", production.showers, ready) as advance:
            _run_workers(production, parts, missing, min(workers, len(missing)), advance)
        _merge(production, parts, path)


def _open_parts(parts: Path, production: Production) -> None:
    plan = parts / "plan.json"
    if _finished(parts) and _read_plan(plan) != asdict(production):
        raise UserError(f"{parts}: holds an unfinished run with other settings; remove the folder or repeat its call ({plan})")
    parts.mkdir(parents=True, exist_ok=True)
    write_text(plan, json.dumps(asdict(production), indent=1))


def _read_plan(plan: Path) -> object:
    try:
        return json.loads(read_text(plan))
    except (OSError, ValueError, RecursionError, BadData):
        return None  # damaged: as good as another run's


def _finished(parts: Path) -> list[tuple[int, int]]:
    ranges = (path.stem.split("-") for path in parts.glob("[0-9]*-[0-9]*.npz"))
    return sorted((int(start), int(stop)) for start, stop in ranges)


def _missing(parts: Path, showers: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges still to do, divided into parts."""
    edge = 0
    for start, stop in [*_finished(parts), (showers, showers)]:
        for first in range(edge, start, SHOWERS_PER_PART):
            yield first, min(first + SHOWERS_PER_PART, start)
        edge = max(edge, stop)


def _run_workers(production: Production, parts: Path, ranges: list[tuple[int, int]], workers: int, advance: Any) -> None:
    """Let processes simulate all ranges; each gets one at a time through its pipe, and reports what it did.

    Pipes, unlike the queues and events of `multiprocessing`, have no names that an interrupt could leave behind, and end with
    the process at either end.
    """
    context = multiprocessing.get_context("spawn")
    crew: dict[Connection, BaseProcess] = {}
    resource_tracker.ensure_running()  # the first process would start it, which lets the signals through that we hold
    try:
        with _signals_held():
            for _ in range(workers):
                connection, worker_end = context.Pipe()
                process = context.Process(target=_work, args=(production, parts, worker_end), daemon=True)
                process.start()
                worker_end.close()
                crew[connection] = process
        _hand_out(ranges, crew, advance)
    except BaseException:
        for connection in crew:
            with suppress(OSError):
                connection.send(STOP)  # the worker finishes its shower and writes what it has
        raise
    finally:
        for worker in crew.values():
            worker.join()


def _hand_out(ranges: list[tuple[int, int]], crew: Mapping[Connection, BaseProcess], advance: Any) -> None:
    pending, busy = iter(ranges), set(crew)
    for pipe in crew:
        pipe.send(next(pending))  # there are no more workers than ranges
    while busy:
        for connection in wait(busy):
            assert isinstance(connection, Connection)
            try:
                message = connection.recv()
            except (EOFError, OSError):
                crew[connection].join()
                code = crew[connection].exitcode
                raise UserError(f"a simulation worker died (exit code {code}); finished showers are kept, run again") from None
            if message == SHOWER:
                advance(1)
            elif message != WRITTEN:
                raise UserError(message)
            elif (following := next(pending, STOP)) == STOP:
                busy.remove(connection)
                connection.send(STOP)
            else:
                connection.send(following)


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Batch systems end a job with SIGTERM: treat it like Ctrl-C."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    if multiprocessing.parent_process() or not _in_main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _signals_held() -> Iterator[None]:
    """Keep Ctrl-C and SIGTERM waiting; processes started here never see them, and are asked to stop by us."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _in_main_thread() -> bool:
    import threading

    return threading.current_thread() is threading.main_thread()


def _work(production: Production, parts: Path, orders: Connection) -> None:
    """Simulate the ranges that come until it is STOP; report each shower, each written range, or one line of complaint."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Geant4's banner is not our output
    try:
        generator = find(Generator, production.generator)
        shoot, provenance = generator.open(geometry(production.geometry), production.particle, production.source)
        while (item := orders.recv()) != STOP:
            showers: list[Any] = []
            incidents = [production.incident(index) for index in range(*item)]
            made = shoot(*(np.array(column) for column in zip(*incidents, strict=True)))
            for energy_mev, impact_mm, _ in incidents:
                # While a worker is busy, only STOP comes, or the end of a parent that was killed.
                if orders.poll() and not generator.batched:
                    break
                showers.append((energy_mev, impact_mm, next(made)))
                orders.send(SHOWER)
            if len(showers) < item[1] - item[0]:
                orders.recv()  # raises when the parent is gone: its part may be another process's by now
            if showers:
                _write_part(parts, item[0], showers, provenance)
            if len(showers) < item[1] - item[0]:
                return
            orders.send(WRITTEN)
    except UserError as problem:
        orders.send(str(problem))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent is gone
    except OSError as problem:
        orders.send(f"{parts}: cannot be written ({problem.strerror or problem}); finished showers are kept, run again")


def _write_part(parts: Path, first: int, showers: list[Any], provenance: Mapping[str, str]) -> None:
    energies, impacts, cells = zip(*showers, strict=True)
    with replacing(parts / f"{first:07d}-{first + len(showers):07d}.npz") as temporary, temporary.open("wb") as stream:
        np.savez_compressed(
            stream,
            energies_mev=np.array(energies),
            impact_mm=np.array(impacts),
            cells_mev=np.array(cells, np.float32),
            provenance=json.dumps(dict(provenance)),
        )


def _merge(production: Production, parts: Path, path: Path) -> None:
    joined, provenance = _joined(parts, production.showers)
    # The geometry's description replaces its name.
    settings = asdict(production) | {"geometry": describe(geometry(production.geometry))}
    origin = {"made_by": f"caloedge {version('caloedge')}", "created": datetime.now(UTC).isoformat(timespec="seconds")}
    for not_said_here in ("zero_below_mev", "source"):
        settings.pop(not_said_here)
    write_library(
        path,
        joined["energies_mev"],
        joined["impact_mm"],
        joined["cells_mev"],
        {**settings, **provenance, **origin},
        zero_below_mev=production.zero_below_mev,
    )
    shutil.rmtree(parts)


def _joined(parts: Path, showers: int) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Return the arrays of all parts in order, and the generator's provenance. Raises `BadData` unless every shower is there."""
    if missing := list(_missing(parts, showers)):
        raise BadData(f"{parts}: showers {missing[0][0]} to {missing[0][1] - 1} are missing; run again, what is there is kept")
    arrays: dict[str, list[NDArray[Any]]] = {"energies_mev": [], "impact_mm": [], "cells_mev": []}
    provenance, edge = "{}", 0
    for start, stop in _finished(parts):
        path = parts / f"{start:07d}-{stop:07d}.npz"
        part = read_npz(path, cure="remove it and run again")
        if set(part) != {*arrays, "provenance"} or any(len(part[key]) != stop - start for key in arrays):
            raise BadData(f"{path}: does not hold the showers that it is named after; remove it and run again")
        for key, pieces in arrays.items():
            pieces.append(part[key][max(0, edge - start) :])  # showers of two parts are equal: they depend on their number alone
        edge, provenance = max(edge, stop), str(part["provenance"])
    return {key: np.concatenate(pieces)[:showers] for key, pieces in arrays.items()}, json.loads(provenance)
