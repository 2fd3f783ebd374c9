"""The command line: each verb is a few lines around one call. Bad input ends with one line and exit code 2.

What all verbs share stands in `terminal`; the verbs, in the order of the flow, in `training`, `compiling`, `building`, `judging`,
`stories` and `listing`.
"""

import sys
from collections.abc import Callable

import typer

from caloedge.cli.building import build, emulate
from caloedge.cli.compiling import compile_, inspect
from caloedge.cli.judging import compare, report, verify
from caloedge.cli.listing import list_
from caloedge.cli.stories import reconstruct, run, study, tradeoff
from caloedge.cli.training import export, simulate, train
from caloedge.errors import UserError

INTERRUPTED = 130
"""Exit code that typer gives after Ctrl-C, as shells do."""

app = typer.Typer(
    help="Calorimeter deep learning from particle showers to bit-exact trigger firmware.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

VERBS: dict[str, Callable[..., None]] = {
    "simulate": simulate,
    "train": train,
    "export": export,
    "compile": compile_,
    "inspect": inspect,
    "build": build,
    "emulate": emulate,
    "verify": verify,
    "compare": compare,
    "report": report,
    "run": run,
    "tradeoff": tradeoff,
    "study": study,
    "reconstruct": reconstruct,
    "list": list_,
}
"""In the order of the flow, which is that of `caloedge --help`."""
for name, verb in VERBS.items():
    app.command(name)(verb)


def main() -> None:
    """Run the command line; user errors are one line on standard error and exit code 2."""
    try:
        app()
    except UserError as problem:
        print(f"caloedge: {' '.join(str(problem).split())}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    except OSError as problem:  # a folder that cannot be written, a full disk
        print(f"caloedge: {problem.filename or 'file'}: {problem.strerror or problem}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            print("caloedge: interrupted; what is finished is kept, the same command goes on", file=sys.stderr)  # noqa: T201
        raise
