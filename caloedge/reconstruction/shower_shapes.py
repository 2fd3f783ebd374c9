"""Shower shapes: the 5 × 5 window around the highest PbWO4 crystal, and 16 physics quantities of such windows.

Energies are in GeV; lengths in crystals, x and y from the centre of the central crystal. E1, E9 and E25 are the energies of
the central crystal, of the 3 × 3 around it and of the window. ⟨f⟩ is the mean Σ w f / Σ w over crystals of weights w.
Axes: E event, X and Y crystal, V variable.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.detector.constants import PI0_MASS_GEV
from caloedge.detector.crystals.events import DECAY_DISTANCE_MM
from caloedge.detector.crystals.geometry import PBWO4

SIDE = 5
X_XY, Y_XY = np.meshgrid(np.arange(SIDE) - 2.0, np.arange(SIDE) - 2.0, indexing="ij")
MOMENT_GEV = 0.6
"""Lowest energy of crystals that enter widths and moments: 3.6 times the electronic noise."""
LOG_WEIGHT = 4.0
"""Crystals below e^−4 of the window's energy get no weight in logarithmic widths (Awes et al., NIM A 311 (1992) 130)."""
SINGLE_RMS = 0.45
"""Width, in crystals, that most single photons stay below (their median is 0.40): no mass is assigned to them."""
RANGE = 4.0
"""Scaled variables, a network's inputs, lie in [−4, 4]."""


@dataclass(frozen=True)
class Variable:
    """One shower shape; a network gets (value − centre) / scale, saturated at ±4."""

    name: str
    formula: str
    centre: float
    """Rounded mean on training events of the task `shower_shape`."""
    scale: float
    """Rounded standard deviation on the same events."""


VARIABLES = (
    Variable("log_energy", "log2(E25 / GeV), E25 the sum of the window", 4.79, 1.0),
    Variable("e1_e9", "highest crystal over the sum of the 3 × 3 around it", 0.63, 0.13),
    Variable("e9_e25", "3 × 3 over 5 × 5", 0.87, 0.11),
    Variable("e2_e1", "second highest crystal over the highest", 0.39, 0.26),
    Variable("e3_e1", "third highest crystal over the highest", 0.17, 0.14),
    Variable("e4_e9", "highest 2 × 2 with the central crystal over the 3 × 3", 0.92, 0.039),
    Variable("outer_e1", "highest of the 16 outer crystals over the highest crystal", 0.13, 0.21),
    Variable("width_x", "√⟨(x − ⟨x⟩)²⟩ with weights max(0, 4 + ln(E / E25)), in crystals", 0.56, 0.19),
    Variable("width_y", "the same along y", 0.47, 0.24),
    Variable("covariance", "⟨(x − ⟨x⟩)(y − ⟨y⟩)⟩ with the same weights, in crystals²", 0.07, 0.2),
    Variable("asymmetry_x", "(E of x > 0 − E of x < 0) / E25, x from the central crystal", 0.24, 0.13),
    Variable("asymmetry_y", "the same along y", 0.11, 0.1),
    Variable("major", "root mean square along the longer principal axis, weights E, in crystals", 0.59, 0.25),
    Variable("minor", "the same along the shorter axis", 0.29, 0.12),
    Variable("log_kurtosis", "ln of the fourth moment along the longer axis over the square of the second", 1.09, 0.66),
    Variable("root_mass", "√(m / m_π⁰) with m = E25 √max(0, major² − 0.45²) · 22 mm / 1290 mm", 0.89, 0.79),
)
"""Shower shapes in the frame in which the window is flipped, then transposed, so that 0 ≤ asymmetry_y ≤ asymmetry_x."""


def highest_window(cells_EXY: NDArray[Any]) -> NDArray[Any]:
    """Return the window (E, 5, 5) around the highest crystal of (E, X, Y) whose window does not reach over the border."""
    margin = SIDE // 2
    inner = cells_EXY[:, margin:-margin, margin:-margin]
    x_E, y_E = np.unravel_index(inner.reshape(len(inner), -1).argmax(axis=1), inner.shape[1:])
    views = np.lib.stride_tricks.sliding_window_view(cells_EXY, (SIDE, SIDE), axis=(1, 2))
    return np.asarray(views[np.arange(len(inner)), x_E, y_E])


def oriented(windows_EXY: NDArray[Any]) -> NDArray[Any]:
    """Return each window flipped and transposed so that most energy lies at higher x, then at higher y."""
    flipped_EXY = windows_EXY.copy()
    for axis in (1, 2):
        lower = _excess(flipped_EXY, axis) < 0
        flipped_EXY[lower] = np.flip(flipped_EXY[lower], axis=axis)
    across = _excess(flipped_EXY, 2) > _excess(flipped_EXY, 1)
    flipped_EXY[across] = flipped_EXY[across].swapaxes(1, 2)
    return flipped_EXY


def _excess(windows_EXY: NDArray[Any], axis: int) -> NDArray[Any]:
    """Return the energy (E,) in GeV at higher x (axis 1) or y (axis 2) than the centre less that at lower."""
    profile_EX = windows_EXY.sum(axis=3 - axis, dtype=np.float64)
    return np.asarray(profile_EX[:, 3:].sum(axis=1) - profile_EX[:, :2].sum(axis=1))


def variables(windows_EXY: NDArray[Any]) -> NDArray[Any]:
    """Return the shower shapes (E, V) of windows (E, 5, 5) in GeV, in the order and units of `VARIABLES`; always finite."""
    cells_EXY = oriented(windows_EXY).astype(np.float64)
    core_EXY = cells_EXY[:, 1:4, 1:4]
    e25, e9, e1 = cells_EXY.sum(axis=(1, 2)), core_EXY.sum(axis=(1, 2)), cells_EXY[:, 2, 2]
    e4 = np.max([core_EXY[:, i : i + 2, j : j + 2].sum(axis=(1, 2)) for i in (0, 1) for j in (0, 1)], axis=0)
    third, second = np.sort(cells_EXY.reshape(-1, SIDE**2), axis=1)[:, -3:-1].T
    outer = np.where(np.pad(np.zeros((3, 3), bool), 1, constant_values=True), cells_EXY, 0).max(axis=(1, 2))
    above_EXY = np.where(cells_EXY >= MOMENT_GEV, cells_EXY, 0)
    fraction_EXY = _quotient(above_EXY, e25[:, None, None])
    with np.errstate(divide="ignore"):
        weight_EXY = np.maximum(0, LOG_WEIGHT + np.log(fraction_EXY))
    xx, yy, xy = _second_moments(weight_EXY)
    major, minor, kurtosis = _principal(above_EXY)
    mass = e25 * np.sqrt(np.maximum(0, major**2 - SINGLE_RMS**2)) * PBWO4.cell_mm / DECAY_DISTANCE_MM
    values = {
        "log_energy": np.log2(np.maximum(e25, 1)),
        "e1_e9": _quotient(e1, e9),
        "e9_e25": _quotient(e9, e25),
        "e2_e1": _quotient(second, e1),
        "e3_e1": _quotient(third, e1),
        "e4_e9": _quotient(e4, e9),
        "outer_e1": _quotient(outer, e1),
        "width_x": np.sqrt(xx),
        "width_y": np.sqrt(yy),
        "covariance": xy,
        "asymmetry_x": _quotient(_excess(cells_EXY, 1), e25),
        "asymmetry_y": _quotient(_excess(cells_EXY, 2), e25),
        "major": major,
        "minor": minor,
        "log_kurtosis": np.log(np.maximum(1, kurtosis)),
        "root_mass": np.sqrt(mass / PI0_MASS_GEV),
    }
    return np.stack([values[variable.name] for variable in VARIABLES], axis=1)


def _quotient(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[Any]:
    """Divide; nothing over nothing is 0."""
    return np.asarray(np.divide(part, whole, out=np.zeros(np.broadcast_shapes(part.shape, whole.shape)), where=whole > 0))


def _moment(weight_EXY: NDArray[Any], values: NDArray[Any]) -> NDArray[Any]:
    """Return ⟨values⟩ (E,)."""
    return _quotient((weight_EXY * values).sum(axis=(1, 2)), weight_EXY.sum(axis=(1, 2)))


def _second_moments(weight_EXY: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return ⟨x²⟩ − ⟨x⟩², ⟨y²⟩ − ⟨y⟩² and ⟨xy⟩ − ⟨x⟩⟨y⟩ (E,) in crystals²."""
    x_E, y_E = _moment(weight_EXY, X_XY), _moment(weight_EXY, Y_XY)
    xx, yy = _moment(weight_EXY, X_XY**2) - x_E**2, _moment(weight_EXY, Y_XY**2) - y_E**2
    return np.maximum(xx, 0), np.maximum(yy, 0), _moment(weight_EXY, X_XY * Y_XY) - x_E * y_E


def _principal(weight_EXY: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return the root mean squares (E,) in crystals along the longer and the shorter principal axis, and the longer's kurtosis.

    With xx, yy, xy the second moments: rms² = (xx + yy) / 2 ± √(((xx − yy) / 2)² + xy²), the longer axis at the angle
    ½ atan2(2 xy, xx − yy) to x, and the kurtosis ⟨d⁴⟩ / rms⁴, d the distance from the mean along it.
    """
    xx, yy, xy = _second_moments(weight_EXY)
    mean, half = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    angle_E = 0.5 * np.arctan2(2 * xy, xx - yy)
    x_E, y_E = _moment(weight_EXY, X_XY), _moment(weight_EXY, Y_XY)
    along_EXY = (X_XY - x_E[:, None, None]) * np.cos(angle_E)[:, None, None]
    along_EXY = along_EXY + (Y_XY - y_E[:, None, None]) * np.sin(angle_E)[:, None, None]
    kurtosis = _quotient(_moment(weight_EXY, along_EXY**4), (mean + half) ** 2)
    return np.sqrt(mean + half), np.sqrt(np.maximum(mean - half, 0)), kurtosis


def scaled(shapes_EV: NDArray[Any]) -> NDArray[Any]:
    """Map each variable (E, V) to a network's input range, float32 in [−4, 4]."""
    centre_V, scale_V = np.array([(v.centre, v.scale) for v in VARIABLES]).T
    return np.asarray(np.clip((shapes_EV - centre_V) / scale_V, -RANGE, RANGE), np.float32)


def unscaled(inputs_EV: NDArray[Any], name: str) -> NDArray[Any]:
    """Return one variable (E,) in its own unit from scaled ones (E, V); values saturated at ±4 stay so."""
    number = next(i for i, variable in enumerate(VARIABLES) if variable.name == name)
    return np.asarray(VARIABLES[number].centre + VARIABLES[number].scale * inputs_EV[:, number].astype(np.float64))
