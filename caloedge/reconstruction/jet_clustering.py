"""Jets of images of energy per pixel, by anti-kT.

Axes: E event, N jet, P pixel, H row in η, W column in φ.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.detector.images.response import ETA_H, PHI_W, PIXELS
from caloedge.errors import UserError
from caloedge.extras import package

RADIUS = 0.4
LOWEST_PT_GEV = 20.0
EVENTS_PER_CALL = 64
"""Events that are clustered at a time: FastJet keeps all its inputs in memory."""


@dataclass(frozen=True)
class Jets:
    """Jets in the order of their events, in each the hardest first."""

    event_N: NDArray[Any]
    pt_N: NDArray[Any]
    """(N,) transverse momentum in GeV."""
    eta_N: NDArray[Any]
    """(N,) pseudorapidity."""
    phi_N: NDArray[Any]
    """(N,) azimuth in rad, −π to π."""


def jets(image_EHW: NDArray[Any], *, lowest_pt_gev: float = LOWEST_PT_GEV) -> Jets:
    """Cluster images (E, 56, 56) in GeV per pixel with anti-kT of R = 0.4 (JHEP 04 (2008) 063); needs the extra `jets`.

    Pixels are massless particles at their centres; those that are not above 0 GeV are left out, as a network may predict
    them. Raises `MissingTool` without FastJet, `UserError` for images of another shape or with values that are not finite.
    """
    image_EHW = np.asarray(image_EHW, np.float64)
    if image_EHW.ndim != 3 or image_EHW.shape[1:] != (PIXELS, PIXELS):
        raise UserError(f"images of shape {image_EHW.shape}; jets are clustered in (events, {PIXELS}, {PIXELS})")
    if not np.isfinite(image_EHW).all():
        place = ", ".join(str(int(i)) for i in np.argwhere(~np.isfinite(image_EHW))[0])
        raise UserError(f"image[{place}] is not finite; jets need finite energies")
    fastjet, awkward = (package(name, "Jets", "jets") for name in ("fastjet", "awkward"))
    definition = fastjet.JetDefinition(fastjet.antikt_algorithm, RADIUS)
    parts = [np.empty((0, 4))]
    occupied_E = np.flatnonzero((image_EHW > 0).any(axis=(1, 2)))
    for start in range(0, len(occupied_E), EVENTS_PER_CALL):
        chosen = occupied_E[start : start + EVENTS_PER_CALL]
        parts.append(_clustered(fastjet, awkward, definition, image_EHW[chosen], lowest_pt_gev, chosen))
    event_N, pt_N, eta_N, phi_N = np.concatenate(parts).T
    order_N = np.lexsort((-pt_N, event_N))
    return Jets(event_N[order_N].astype(np.int64), pt_N[order_N], eta_N[order_N], phi_N[order_N])


def _clustered(
    fastjet: Any, awkward: Any, definition: Any, image_EHW: NDArray[Any], lowest_pt_gev: float, number_E: NDArray[Any]
) -> NDArray[Any]:
    """Return event number, pT in GeV, η and φ (N, 4) of the jets in images that all hold energy."""
    event_P, row_P, column_P = np.nonzero(image_EHW > 0)
    energy_P = image_EHW[event_P, row_P, column_P]
    pt_P, eta_P, phi_P = energy_P / np.cosh(ETA_H[row_P]), ETA_H[row_P], PHI_W[column_P]
    momenta = {"px": pt_P * np.cos(phi_P), "py": pt_P * np.sin(phi_P), "pz": pt_P * np.sinh(eta_P), "E": energy_P}
    pixels = awkward.unflatten(awkward.zip(momenta), np.bincount(event_P, minlength=len(image_EHW)))
    clusters = fastjet.ClusterSequence(pixels, definition).inclusive_jets(min_pt=lowest_pt_gev)
    number_N = np.repeat(number_E, awkward.to_numpy(awkward.num(clusters)))
    px, py, pz = (awkward.to_numpy(awkward.flatten(clusters[axis])) for axis in ("px", "py", "pz"))
    pt_N = np.hypot(px, py)
    return np.stack([number_N, pt_N, np.arcsinh(pz / pt_N), np.arctan2(py, px)], axis=1)
