"""Layers on the nodes of a graph that is made anew for every event: GravNet (arXiv 1902.07987) with Manhattan distances.

Tensors are (B, N, F): events, nodes, features; `valid` (B, N) is 1 for hits and 0 for padding. Everything is written so that the
exported file needs standard ONNX operators only, and that ties are broken as ONNX does: the node of the lower index first.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

DECAY = 10.0
"""Of the weights exp(−10 d)."""
COORDINATE_FRACTION = 6
"""Coordinates have steps of 2⁻⁶, so that the distance of two nodes is an integer."""
STEP = 2.0**-COORDINATE_FRACTION
REACH = 36 * STEP
"""The first distance whose weight is 0 in steps of 2⁻⁷: exp(−10 · 36/64) = 0.0036. Nodes as far as this send no message."""


class Nearest(nn.Module):
    """Find the k nearest other hits of each node, and their distances."""

    def __init__(self, k: int, exact: bool) -> None:
        super().__init__()
        self.k, self.exact = k, exact

    def forward(self, coordinates: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Return distances and indices (B, N, k) from coordinates (B, N, D); what is not there is at the distance `REACH`."""
        if torch.onnx.is_in_onnx_export():
            return self._dense(coordinates, valid)
        n = coordinates.shape[1]
        with torch.no_grad():
            distance = torch.cdist(coordinates, coordinates, p=1.0)
            distance = distance.masked_fill(torch.eye(n, dtype=torch.bool, device=distance.device), REACH)
            distance = distance.masked_fill(valid[:, None, :] == 0, REACH).clamp(max=REACH)
            if self.exact:  # keys are all different: the node of the lower index first
                distance = distance * (n / STEP) + torch.arange(n, dtype=distance.dtype, device=distance.device)
            indices = torch.topk(distance, self.k, dim=2, largest=False).indices
            there = torch.gather(valid, 1, indices.flatten(1)).reshape(indices.shape) > 0
            there &= indices != torch.arange(n, device=indices.device)[:, None]
        # Distances of those few once more: gradients of all distances would cost five times as much.
        apart = (take(coordinates, indices) - coordinates[:, :, None]).abs().sum(3)
        return torch.where(there, apart, REACH).clamp(max=REACH), indices

    def _dense(self, coordinates: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Do the same in ONNX's operators."""
        return torch.topk(self.distances(coordinates, valid), self.k, dim=2, largest=False, sorted=True)

    def distances(self, coordinates: Tensor, valid: Tensor) -> Tensor:
        """Return all distances (B, N, N) in ONNX's operators: `REACH` for the node itself and padding, and at most that."""
        apart = (coordinates.unsqueeze(2) - coordinates.unsqueeze(1)).abs().sum(3)
        apart = apart + REACH * torch.eye(coordinates.shape[1], dtype=apart.dtype)
        return torch.clamp(apart + (REACH - REACH * valid).unsqueeze(1), max=REACH)


def take(values: Tensor, indices: Tensor) -> Tensor:
    """Return the rows (B, N, k, F) of values (B, N, F)."""
    if not torch.onnx.is_in_onnx_export():  # the gradient of a gather in ONNX's form has the size of (B, N, N, F)
        first = values.shape[1] * torch.arange(len(values), device=values.device)
        rows = values.flatten(0, 1).index_select(0, (indices + first[:, None, None]).flatten())
        return rows.reshape(*indices.shape, values.shape[2])
    rows = indices.unsqueeze(3).expand(-1, -1, -1, values.shape[2])
    return torch.gather(values.unsqueeze(1).expand(-1, indices.shape[1], -1, -1), 2, rows)


class GravNet(nn.Module):
    """Let each node collect the features of its nearest ones: mean and largest of the messages.

    `weight`, `message` and `mean` quantise, or do nothing. The mean is the sum over the next power of two of k.
    """

    def __init__(self, k: int, *, exact: bool, weight: nn.Module, message: nn.Module, mean: nn.Module) -> None:
        super().__init__()
        self.nearest = Nearest(k, exact)
        self.weight, self.message, self.mean = weight, message, mean
        self.share = 2.0 ** -(k - 1).bit_length()

    def forward(self, coordinates: Tensor, features: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and largest message (B, N, F) from coordinates (B, N, D) and features (B, N, F)."""
        distances, indices = self.nearest(plain(coordinates), valid)
        weights = plain(self.weight(torch.exp(-DECAY * distances)))
        messages = plain(self.message(weights.unsqueeze(3) * take(plain(features), indices)))
        return plain(self.mean(messages.sum(2) * self.share)), messages.amax(2)


class AllPairsGravNet(nn.Module):
    """The exported form of `GravNet` for tools that cannot gather: it has the messages of all pairs of nodes.

    Keys d · N + index are all different, so those up to the k-th smallest are the k nearest nodes, ties included. The messages of
    the others are 0 in the sum, and moved below all others for the maximum. `rounded` quantises to (bits, fraction, signed).
    """

    def __init__(
        self, layer: GravNet, nodes: int, message: tuple[int, int], rounded: Callable[[int, int, bool], nn.Module]
    ) -> None:
        super().__init__()
        bits, fraction = message
        index_bits = (nodes - 1).bit_length()
        self.layer, self.nodes, self.below = layer, nodes, 2.0 ** (bits + 1 - fraction)
        self.keys = rounded(COORDINATE_FRACTION + index_bits, COORDINATE_FRACTION + index_bits, False)
        self.near, self.weight = rounded(2, 0, False), rounded(8, 7, False)
        self.moved = rounded(bits + 3, fraction, True)

    def forward(self, coordinates: Tensor, features: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and largest message as `GravNet` does."""
        nearest, size = self.layer.nearest, 2 ** (self.nodes - 1).bit_length()
        distances = nearest.distances(plain(coordinates), valid)
        keys = plain(self.keys(distances + torch.arange(self.nodes, dtype=distances.dtype) * (STEP / size)))
        last = torch.topk(keys, nearest.k, dim=2, largest=False, sorted=True).values[:, :, nearest.k - 1 :]
        near = plain(self.near(torch.clamp((last - keys) * (size / STEP) + 1.0, 0.0, 1.0)))
        weights = plain(self.weight(plain(self.layer.weight(torch.exp(-DECAY * distances))) * near))
        messages = plain(self.layer.message(weights.unsqueeze(3) * plain(features).unsqueeze(1)))
        moved = plain(self.moved(messages + (near.unsqueeze(3) * self.below - self.below)))
        return plain(self.layer.mean(messages.sum(2) * self.layer.share)), moved.amax(2)


class WithinReach(nn.Module):
    """Set weights of nodes beyond `REACH` to 0, as rounding does."""

    def forward(self, weights: Tensor) -> Tensor:
        """Return weights of the same shape."""
        return torch.where(weights > LEAST_WEIGHT, weights, torch.zeros_like(weights))


LEAST_WEIGHT = float(torch.exp(torch.tensor(-DECAY * REACH))) * (1 + 1e-5)


class Signed(nn.Identity):
    """Signed values, which the quantised twin rounds: it needs to know how large they are."""


class Joined(nn.Module):
    """Put features of each node side by side on one common scale."""

    def __init__(self, quantiser: nn.Module) -> None:
        super().__init__()
        self.quantiser = quantiser

    def forward(self, *parts: Tensor) -> Tensor:
        """Return features (B, N, F₁ + F₂ + …) from parts (B, N, F₁), (B, N, F₂), and so on."""
        joined: Tensor = self.quantiser(torch.cat([plain(part) for part in parts], 2))
        return joined


def plain(x: Tensor) -> Tensor:
    """Return a tensor without its scale, which Brevitas passes on only through layers that it knows."""
    value: Tensor = getattr(x, "value", x)
    return value
