"""Showers from a parametrisation of the average shower and its fluctuations."""

from collections.abc import Mapping
from typing import Any

from caloedge.catalog import Generator
from caloedge.detector.crystals.parametrised import MEDIA, open_parametrised
from caloedge.detector.crystals.shooting import ShootMany, one_by_one
from caloedge.errors import UserError


def _check(production: Any) -> None:
    if production.particle != "gamma":
        raise UserError(f"the parametrised generator knows gamma, not {production.particle!r}; use generator geant4")
    if production.geometry not in MEDIA:
        raise UserError(
            f"the parametrised generator knows {' and '.join(MEDIA)}, not {production.geometry}; use generator geant4"
        )


def _open(geometry: Any, particle: str, _source: str) -> tuple[ShootMany, Mapping[str, str]]:
    shoot, provenance = open_parametrised(geometry, particle)
    return one_by_one(shoot), provenance


GENERATOR = Generator(description="Grindhammer and Peters' parametrisation: fast, for development", open=_open, check=_check)
