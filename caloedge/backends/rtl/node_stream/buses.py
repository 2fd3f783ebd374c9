"""Words of several lanes side by side on one bus."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from caloedge.backends.rtl.node_stream.words import NodeNetwork, Word, Words
from caloedge.compiler.fixed import Format


@dataclass(frozen=True)
class Bus:
    """Words of several lanes side by side, lane after lane, each word as wide as its format."""

    name: str
    words: Words
    widths: tuple[int, ...]

    @property
    def bits(self) -> int:
        """Width of one lane's words."""
        return sum(self.widths)

    def word(self, word: Word, lane: int = 0) -> str:
        """Return the part of the bus that is a word of a lane."""
        index = self.words.index(word)
        low = lane * self.bits + sum(self.widths[:index])
        return f"{self.name}[{low + self.widths[index] - 1}:{low}]"


def bus(name: str, words: Words, network: NodeNetwork) -> Bus:
    """Return a bus of words."""
    return Bus(name, words, tuple(network.format(word).width for word in words))


def joined(parts: Iterable[str]) -> str:
    """Return parts side by side, the first in the lowest bits."""
    return f"{{{', '.join(reversed(list(parts)))}}}"


def extended(part: str, fmt: Format, width: int) -> str:
    """Return a part of a bus, one bit at least wide, extended to a width as its format says."""
    more = width - fmt.width
    if not more:
        return part
    sign = re.sub(r"\[(\d+):\d+\]$", r"[\1]", part) if fmt.signed else "1'b0"
    return f"{{{{{more}{{{sign}}}}}, {part}}}"


def positive(word: Word, ends: Bus, lane: int, network: NodeNetwork) -> str:
    """Return a bit that tells whether a word of a lane is above zero."""
    if not word.maker:
        return f"1'b{int(word.index > 0)}"
    part = ends.word(word, lane)
    return f"($signed({part}) > 0)" if network.format(word).signed else f"(|{part})"


def signed_bits(words: Words, network: NodeNetwork) -> int:
    """Return the bits of a signed word that holds each of some words."""
    return max(network.format(word).width + int(not network.format(word).signed) for word in words)


def signed_words(words: Words, bits: int, ends: Bus, lane: int, network: NodeNetwork) -> list[str]:
    """Return words of a lane as signed ones."""
    return [extended(ends.word(word, lane), network.format(word), bits) for word in words]
