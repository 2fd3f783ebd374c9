"""The mean of what the network itself returns: −log p of its inputs."""

from torch import Tensor

from caloedge.catalog import Loss


def negative_log_likelihood(outputs: Tensor, targets: Tensor) -> Tensor:  # noqa: ARG001
    """Return the mean of the outputs (N, 1); targets (N, 1) are not looked at."""
    return outputs.mean()


LOSS = Loss("the network gives −log p of its inputs; targets are not looked at", negative_log_likelihood)
