"""Geant4 itself: what every other generator is judged against."""

from collections.abc import Mapping
from typing import Any

from caloedge.catalog import Generator
from caloedge.detector.crystals import geant4_tables
from caloedge.detector.crystals.geant4 import open_geant4
from caloedge.detector.crystals.shooting import ShootMany, one_by_one


def _open(geometry: Any, particle: str, _source: str) -> tuple[ShootMany, Mapping[str, str]]:
    shoot, provenance = open_geant4(geometry, particle)
    return one_by_one(shoot), provenance


GENERATOR = Generator(
    description="Geant4, electromagnetic physics: the reference",
    open=_open,
    prepare=lambda: (geant4_tables.prepare(), None)[1],
)
