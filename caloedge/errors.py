"""What a user can do wrong or lack: every such error is one line that names the thing, the place and the cure."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Report bad input in one line; the command line prints it without traceback and exits with 2."""


class UnknownName(UserError):
    """Report a plug-in name that no file answers to."""


class BadData(UserError):
    """Report a data file that cannot be used, with the file and the field."""


class Unsupported(UserError):
    """Report a network element that a reader or backend cannot take, with the node's name."""


class MissingTool(UserError):
    """Report an external program or optional package that is not installed."""


def meant(name: str, known: Iterable[str]) -> str:
    """Return which known name an unknown one resembles, to be put behind it in a message; empty when there is none.

    >>> meant("xcvu13", ["xcvu9p", "xcvu13p"])
    " (did you mean 'xcvu13p'?)"
    """
    close = difflib.get_close_matches(name.lower(), known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
