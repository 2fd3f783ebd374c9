"""Energy of each pixel of a full event."""

from caloedge.tasks.pf_energy.task import TASK

__all__ = ["TASK"]
