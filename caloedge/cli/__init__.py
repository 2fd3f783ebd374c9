"""The command line: each verb is a few lines around one call. Bad input ends with one line and exit code 2.

What all verbs share stands in `answer`, `terminal` and `completion`; the verbs, in the order of the flow, in `training`,
`compiling`, `building`, `checking`, `workflows`, `judging`, `listing` and `beginning`.
"""

import sys
import traceback
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated, Any

import typer

from caloedge.cli.answer import plain
from caloedge.cli.beginning import new
from caloedge.cli.building import build, emulate
from caloedge.cli.checking import compare, report, verify
from caloedge.cli.compiling import compile_, inspect
from caloedge.cli.judging import fidelity
from caloedge.cli.listing import list_
from caloedge.cli.training import convert, export, simulate, train
from caloedge.cli.workflows import reconstruct, run, tradeoff
from caloedge.errors import UserError, meant

GOOD, BAD_RESULT, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
"""Exit codes; the last is what shells give after Ctrl-C."""
EXIT_CODES = (
    "Exit codes: 0 done; 1 a check failed (an output code differs, a design is not routed or misses its clock); 2 bad input or "
    "a missing tool, said in one line; 130 interrupted, the same command goes on."
)
UsageProblem: Any = typer.BadParameter.__base__
"""Exception of typer for every malformed call; it has no public name."""

app = typer.Typer(
    help="Calorimeter deep learning from particle showers to bit-exact trigger firmware.",
    epilog=EXIT_CODES,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

VERBS: dict[str, Callable[..., None]] = {
    "simulate": simulate,
    "convert": convert,
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
    "reconstruct": reconstruct,
    "fidelity": fidelity,
    "list": list_,
    "new": new,
}
"""Commands in the order of the flow, which is that of `caloedge --help`."""
for name, verb in VERBS.items():
    app.command(name)(verb)


def _show_version(requested: bool) -> None:
    if requested:
        print(f"caloedge {version('caloedge')}")  # noqa: T201
        raise typer.Exit


@app.callback()
def _start(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        context.get_help()


def main() -> None:
    """Run the command line; whatever a user can mend is one line on standard error and exit code 2."""
    sys.exit(_run())


def _run() -> int:
    try:
        code = int(app(standalone_mode=False, prog_name="caloedge") or GOOD)
    except UsageProblem as problem:
        place = problem.ctx.command_path if problem.ctx else "caloedge"
        resembles = meant(getattr(problem, "option_name", ""), getattr(problem, "possibilities", None) or ())
        message = problem.message if resembles else problem.format_message()
        return _complain(f"{message.rstrip('.')}{resembles}; see: {place} --help")
    except UserError as problem:
        return _complain(str(problem))
    except ModuleNotFoundError as problem:  # of a plug-in of one's own, or an installation that is not whole
        place = traceback.extract_tb(problem.__traceback__)[-1]
        return _complain(
            f"{place.filename}:{place.lineno}: no module {problem.name!r}; "
            "install it, or put it on Python's path or beside the recipe"
        )
    except OSError as problem:  # a folder that cannot be written, a full disk
        return _complain(f"{problem.filename or 'file'}: {problem.strerror or problem}")
    if code == INTERRUPTED:
        return _complain("interrupted; what is finished is kept, the same command goes on", INTERRUPTED)
    return code


def _complain(text: str, code: int = BAD_INPUT) -> int:
    """Print one line on standard error; return the exit code."""
    print(f"caloedge: {plain(' '.join(text.split()))}", file=sys.stderr)  # noqa: T201
    return code
