"""Beats as lists of words: word 0 in the lowest bits."""

from collections.abc import Sequence


def pack(words: Sequence[int], bits: int) -> int:
    """Return the beat that holds these words; negative ones as two's complement.

    >>> hex(pack([1, -2, 3], 4))
    '0x3e1'
    """
    return sum((word % (1 << bits)) << (at * bits) for at, word in enumerate(words))


def unpack(beat: int, count: int, bits: int, signed: bool = False) -> list[int]:
    """Return the words of a beat.

    >>> unpack(0x3E1, 3, 4, signed=True)
    [1, -2, 3]
    """
    words = [(beat >> (at * bits)) % (1 << bits) for at in range(count)]
    return [word - (1 << bits) if signed and word >> (bits - 1) else word for word in words]
