"""Parquet files in the layout of Belle II's trigger demonstrator: small ones made here, and the real ones where they are."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optional_packages import need

from caloedge.detector.crystals.rings import belle2

DEMONSTRATOR = Path(__file__).parents[3] / "shared" / "data" / "belle2_ecl"


def demonstrator(name: str) -> Path:
    """Return one of the demonstrator's own files, or skip."""
    need("pyarrow")
    path = DEMONSTRATOR / f"{name}.parquet"
    if not path.is_file():
        pytest.skip(f"{name}.parquet of github.com/marcneu/vck190-caloclusternet-demo is not in {DEMONSTRATOR.name}/")
    return path


def columns() -> dict[str, Any]:
    """Return three events: two clusters and a stray hit; an unmatched cluster; one cluster of three hits. Rows in no order."""
    crystals = np.array([4321, 4320, 6000, 2000, 3000, 5000, 5001, 5144])
    position = 100 * belle2().position_C3[crystals]
    cluster = np.array([7, 7, 2, 0, 1, 3, 3, 3])
    energy = np.array([0.5, 0.06, 0.3, 0.025, 0.07, 0.2, 0.1, 0.04])
    of_cluster = np.where(cluster == 7, 0.6, np.where(cluster == 2, 0.32, np.where(cluster == 3, 0.36, 0.075)))
    place = np.stack([position[np.argmax(cluster == number)] for number in cluster], axis=1) * (cluster > 0)
    return {
        "uni_event_id": ["9_1", "9_1", "9_1", "9_1", "9_0", "9_5", "9_5", "9_5"],
        "tc_id": crystals + 1,
        "tc_energy": energy.astype("f4"),
        "tc_time_cal": np.array([0, 5, -3, 180, 90, 0, 1, 20], "f4"),
        **dict(zip("xyz", position.T, strict=True)),
        "objidx": cluster.astype(float),
        "train_E": of_cluster * (cluster > 0),
        **{f"train_{axis}": values for axis, values in zip("xyz", place, strict=True)},
        "tmp_frac": np.where(cluster > 0, 0.9, 0),
        "mc_matched": np.where((cluster > 0) & (cluster != 1), 1.0, 0),
        "c0_energy": np.zeros(8),
        "psd": [[0.1]] * 8,  # not read, whatever it is
    }


def write(path: Path, values: dict[str, Any]) -> Path:
    """Write columns as a parquet file."""
    need("pyarrow")
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(values), path)
    return path
