"""Neutral energy of a six-layer calorimeter."""

from caloedge.tasks.layered_energy.task import TASK

__all__ = ["TASK"]
