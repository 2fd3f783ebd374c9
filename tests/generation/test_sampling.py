"""Solvers against a flow that is known: their order, and how often they ask."""

from typing import Any

import numpy as np
import pytest

from caloedge.generation.sampling import SOLVERS, evaluations, integrate


def growing(x: np.ndarray[Any, Any], time: float) -> np.ndarray[Any, Any]:
    """Velocity of x(t) = x(0) exp(t²)."""
    return 2 * time * x


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_evaluations_are_counted(solver: str, steps: int) -> None:
    asked: list[float] = []

    def velocity(x: np.ndarray[Any, Any], time: float) -> np.ndarray[Any, Any]:
        asked.append(time)
        return x

    integrate(velocity, np.ones((2, 3), np.float32), steps, solver)
    assert len(asked) == evaluations(steps, solver)
    assert asked[0] == 0
    assert max(asked) < 1, "no velocity is learnt at time 1"


@pytest.mark.parametrize(("solver", "factor"), [("euler", 2.0), ("heun", 4.0)])
def test_errors_fall_with_the_order_of_the_solver(solver: str, factor: float) -> None:
    """Heun's last step is Euler's, whose error of one step is of second order, too."""
    errors = [abs(integrate(growing, np.ones((1, 1)), steps, solver)[0, 0] - np.e) for steps in (40, 80)]
    assert errors[0] / errors[1] == pytest.approx(factor, rel=0.15)


def test_a_constant_velocity_is_followed_exactly() -> None:
    for solver in SOLVERS:
        np.testing.assert_allclose(integrate(lambda x, _: np.full_like(x, 3), np.zeros((2, 2)), 3, solver), 3, rtol=1e-12)
