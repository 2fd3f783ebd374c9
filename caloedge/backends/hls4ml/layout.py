"""Order of codes in hls4ml's arrays: channels come last there, and a flattened image keeps that order."""
# `order` says for each place of an array, row by row, which element of the flattened graph tensor lies there.

import math
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

Order = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ArrayLayout:
    """Shape of an array and what lies in it."""

    shape: tuple[int, ...]
    order: Order

    def has(self, layout: "ArrayLayout") -> bool:
        """Tell whether the same lies in the same place, whatever the shapes."""
        return np.array_equal(self.order, layout.order)


@dataclass(frozen=True)
class Move:
    """One layer that moves codes: to another shape, or, with `axes`, these axes of the array in this order."""

    shape: tuple[int, ...]
    axes: tuple[int, ...] = ()


def channels_last(shape: tuple[int, ...]) -> ArrayLayout:
    """Return the layout of a tensor (C, …) or (F,) as hls4ml's convolutions want it: (…, C).

    >>> channels_last((2, 1, 3)).shape, channels_last((2, 1, 3)).order.tolist()
    ((1, 3, 2), [0, 3, 1, 4, 2, 5])
    """
    index = np.moveaxis(np.arange(math.prod(shape)).reshape(shape), 0, -1)
    return ArrayLayout(index.shape, index.reshape(-1))


def natural(shape: tuple[int, ...]) -> ArrayLayout:
    """Return the layout of a tensor as it is, such as (N, F) of nodes, whose channels come last already."""
    return ArrayLayout(shape, np.arange(math.prod(shape)))


def moves(source: ArrayLayout, target: ArrayLayout) -> list[Move] | None:
    """Return the layers that turn one layout into another, or None if one transposition and one reshape cannot.

    >>> moves(ArrayLayout((12,), np.arange(12)), channels_last((2, 3, 2)))
    [Move(shape=(2, 3, 2), axes=()), Move(shape=(3, 2, 2), axes=(1, 2, 0))]
    """
    if source.has(target):
        return [Move(target.shape)] if source.shape != target.shape else []
    for axes in permutations(range(len(target.shape))):
        before = [0] * len(axes)
        for place, axis in enumerate(axes):
            before[axis] = target.shape[place]
        if np.array_equal(source.order.reshape(before).transpose(axes).reshape(-1), target.order):
            first = [Move(tuple(before))] if tuple(before) != source.shape else []
            return [*first, Move(target.shape, axes)]
    for axes in permutations(range(len(source.shape))):
        moved = source.order.reshape(source.shape).transpose(axes)
        if np.array_equal(moved.reshape(-1), target.order):
            return [Move(moved.shape, axes), Move(target.shape)]
    return None
