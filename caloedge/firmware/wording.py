"""English articles that depend on the word behind them."""

import re

# What is spoken with a vowel first: not a unit or a U-net, but an hour, an 8-bit code, an ECAL sum.
_VOWEL = re.compile(
    r"(?!(?i:uni|us[eu]|uti|ubi|eu|one|once)|U(?![a-z]))(?i:[aeiou]|hour|honest|heir)|8|1[18](?!\d)|[FHLMNRSX](?![a-z])"
)


def with_article(noun: str) -> str:
    """Return a noun behind its indefinite article.

    >>> [with_article(noun) for noun in ("window", "event", "hour", "unit", "8-bit code", "ECAL sum", "LHC crossing", "U-net")]
    ['a window', 'an event', 'an hour', 'a unit', 'an 8-bit code', 'an ECAL sum', 'an LHC crossing', 'a U-net']
    """
    return f"{'an' if _VOWEL.match(noun) else 'a'} {noun}"
