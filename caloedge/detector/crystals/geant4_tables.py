"""The few data tables Geant4's standard electromagnetic physics reads, made from PyPI packages on first use.

Geant4's own data sets are a separate download. What `G4EmStandardPhysics` really opens is small, and the same physics is
published elsewhere: Seltzer–Berger bremsstrahlung cross sections come from xpecgen, photo-electric and Rayleigh cross
sections from xraydb (Elam tables). The official data are used instead when G4LEDATA points at them.
"""

import importlib.util
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from platformdirs import user_cache_path

from caloedge.errors import MissingTool, UserError
from caloedge.files import locked, replacing_folder

LAYOUT = 1  # raise when a table's content changes: old caches are then left alone
ELEMENTS = range(1, 93)
AVOGADRO_PER_BARN = 0.602214076  # atoms/mol × 1e-24 cm²
ELECTRON_MEV = 0.51099895

# Geant4 asks for all of these before it starts, although electromagnetic showers open files in two of them only.
FOLDERS = {
    "G4LEDATA": "G4EMLOW8.8",
    "G4ENSDFSTATEDATA": "G4ENSDFSTATE3.0",
    "G4NEUTRONHPDATA": "G4NDL4.7.1",
    "G4LEVELGAMMADATA": "PhotonEvaporation6.1.2",
    "G4RADIOACTIVEDATA": "RadioactiveDecay6.1.2",
    "G4PARTICLEXSDATA": "G4PARTICLEXS4.2",
    "G4PIIDATA": "G4PII1.3",
    "G4REALSURFACEDATA": "RealSurface2.2",
    "G4SAIDXSDATA": "G4SAIDDATA2.0",
    "G4ABLADATA": "G4ABLA3.3",
    "G4INCLDATA": "G4INCL1.3",
    "G4CHANNELINGDATA": "G4CHANNELING2.0",
}


def prepare() -> tuple[dict[str, str], str]:
    """Return defaults for the environment that Geant4 needs, and one line that says which tables it will read.

    The tables are built if they are missing. What the user has set in the environment goes before these defaults.
    """
    official = os.environ.get("G4LEDATA")
    if official and not Path(official, "brem_SB").is_dir():
        raise UserError(f"G4LEDATA={official}: no folder brem_SB there; point it at an official G4EMLOW folder or unset it")
    try:
        source = f"xpecgen {version('xpecgen')} + xraydb {version('xraydb')} (not the official G4EMLOW)"
        version("geant4-pybind")
    except PackageNotFoundError as missing:
        raise MissingTool(f"Geant4 showers need the package {missing.name}; pip install 'caloedge[geant4]'") from None
    root = user_cache_path("caloedge") / f"geant4-tables-{LAYOUT}"
    if not root.is_dir():
        with locked(root.with_name(f"{root.name}.first"), wait=True):  # several processes may need them at the same time
            if not root.is_dir():
                with replacing_folder(root) as folder:
                    _write_all(folder)
    # With GEANT4_DATA_DIR set, geant4-pybind takes the data as installed: no question on the terminal, no download in CI.
    environment = {"GEANT4_DATA_DIR": str(root)} | {variable: str(root / name) for variable, name in FOLDERS.items()}
    if official:
        return environment | {"G4LEDATA": official}, f"official {Path(official).name} (G4LEDATA)"
    return environment, source


def _write_all(root: Path) -> None:
    for name in FOLDERS.values():
        (root / name).mkdir()
    (root / "G4ENSDFSTATE3.0" / "ENSDFSTATE.dat").touch()
    low = root / "G4EMLOW8.8"
    for name in ("brem_SB", "epics2017/phot", "epics2017/rayl"):
        (low / name).mkdir(parents=True)
    for z in ELEMENTS:
        _write_bremsstrahlung(z, low / "brem_SB")
        _write_photoelectric(z, low / "epics2017" / "phot")
        _write_rayleigh(z, low / "epics2017" / "rayl")


def _write_bremsstrahlung(z: int, folder: Path) -> None:
    """Write br{Z}: scaled cross sections on a grid of photon fraction k/T (columns) and ln(T/MeV) (rows)."""
    package = importlib.util.find_spec("xpecgen")
    if package is None or package.origin is None:
        raise MissingTool("Geant4 showers need the package xpecgen; pip install 'caloedge[geant4]'")
    tables = Path(package.origin).parent / "data" / "cs"
    kinetic_kev, fraction = (np.array(line.split(","), float) for line in (tables / "grid.csv").read_text().split("\n")[:2])
    name = next(p for p in (tables / f"{z:02d}.csv", tables / f"{z}.csv") if p.exists())
    table = np.loadtxt(name, delimiter=",")
    if table.shape != (len(kinetic_kev), len(fraction)):
        raise UserError(f"{name}: {table.shape} values, not {(len(kinetic_kev), len(fraction))}; reinstall xpecgen 1.3.1")
    with (folder / f"br{z}").open("w") as out:
        out.write(f"0 {len(fraction)} {len(kinetic_kev)}\n")
        for row in (fraction, np.log(kinetic_kev * 1e-3)):
            out.write(" ".join(f"{v:.8g}" for v in row) + "\n")
        for row in table:
            out.write(" ".join(f"{v:.6g}" for v in row) + "\n")


def _elam_barn(z: int, energy_ev: NDArray[Any], process: str) -> NDArray[Any]:
    """Return the cross section per atom in barn from the Elam tables."""
    import xraydb

    symbol = xraydb.atomic_symbol(z)
    per_gram_cm2 = xraydb.mu_elam(symbol, energy_ev, kind=process)
    return np.asarray(per_gram_cm2 * xraydb.atomic_mass(symbol) / AVOGADRO_PER_BARN)


def _write_photoelectric(z: int, folder: Path) -> None:
    """Write pe-{cs,high,low}-{Z}: tabulated E³σ below 0.7 MeV and a power series in 1/E above, with one effective shell."""
    import xraydb

    edges_ev = [edge.energy for edge in xraydb.xray_edges(xraydb.atomic_symbol(z)).values() if edge.energy > 150]
    steps = [edge * side for edge in edges_ev for side in (1 - 1e-4, 1 + 1e-4)]
    grid_ev = np.unique(np.concatenate([np.geomspace(120.0, 8e5, 400), steps]))
    grid_ev = grid_ev[grid_ev <= 8e5]
    sigma_barn = _elam_barn(z, grid_ev, "photo")
    energy_mev = grid_ev * 1e-6
    # Above the tables: Sauter's K-shell cross section with Pratt's high-energy factor, ×1.2 for the outer shells.
    high_mev = np.geomspace(5.0, 1000.0, 30)
    alpha_z = z / 137.036
    pratt = np.exp(-np.pi * alpha_z + 2 * alpha_z**2 * (1 - np.log(alpha_z)))
    tail_barn = 1.2 * 1.5 * 0.66524587 * (1 / 137.036) ** 4 * z**5 * ELECTRON_MEV / high_mev * pratt
    fit_from = energy_mev >= 0.25
    x = np.concatenate([energy_mev[fit_from], high_mev])
    y = np.concatenate([sigma_barn[fit_from], tail_barn])
    powers = np.stack([x ** -(j + 1) for j in range(6)], axis=1)
    series, *_ = np.linalg.lstsq(powers / y[:, None], np.ones_like(y), rcond=None)
    threshold_mev = 0.7
    _write_table(folder / f"pe-cs-{z}.dat", energy_mev, sigma_barn * energy_mev**3)
    row = f"{energy_mev[0]:.6e} " + " ".join(f"{p:.8e}" for p in series)
    for name, start_mev in (("high", threshold_mev), ("low", threshold_mev * 0.999)):
        (folder / f"pe-{name}-{z}.dat").write_text(f"1 1 {start_mev}\n{row}\n")


def _write_rayleigh(z: int, folder: Path) -> None:
    """Write re-cs-{Z}: E²σ in MeV² mm²."""
    grid_ev = np.geomspace(250.0, 7.9e5, 200)
    energy_mev = grid_ev * 1e-6
    _write_table(folder / f"re-cs-{z}.dat", energy_mev, _elam_barn(z, grid_ev, "coh") * 1e-22 * energy_mev**2)


def _write_table(path: Path, x: NDArray[Any], y: NDArray[Any]) -> None:
    rows = "".join(f"{a:.8e} {b:.8e}\n" for a, b in zip(x, y, strict=True))
    path.write_text(f"{x[0]:.8e} {x[-1]:.8e} {len(x)}\n{len(x)}\n{rows}")
