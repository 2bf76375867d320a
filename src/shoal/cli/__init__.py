"""The command line: one module a verb, thin over the engine. Nothing heavy is imported before a verb needs it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from types import FrameType
from typing import Annotated

import typer

from shoal.cli import (
    approve,
    clusters,
    gc,
    import_,
    logs,
    plan,
    pull,
    report,
    results,
    retry,
    run,
    schema,
    status,
    stop,
    usage,
)
from shoal.errors import ShoalError, StudyError

__all__ = ["app", "main"]

app = typer.Typer(
    name="shoal",
    help="One short study file becomes hundreds of trained, compared models.\n\n"
    "shoal plan STUDY shows what would run, shoal run STUDY runs it, shoal results STUDY and shoal report STUDY show "
    "what came out. STUDY is a YAML file that you write: docs/tutorial.md takes ten minutes.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for verb in (
    plan,
    run,
    status,
    logs,
    stop,
    retry,
    approve,
    results,
    usage,
    report,
    pull,
    gc,
    clusters,
    import_,
    schema,
):
    verb.register(app)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"shoal {version('shoal')}")
        raise typer.Exit


@app.callback()
def _shoal(
    _asked: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point of ``shoal``: a mistake ends in one message and an exit code, never in a traceback."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # under nohup it stays ignored
            signal.signal(number, _leave)
    try:
        app()
    except ShoalError as error:
        # An error of a study file starts with its place, so that editors and terminals can jump there.
        _say(str(error) if isinstance(error, StudyError) else f"error: {error}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output has gone (`shoal plan | head`): nobody is left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        _say(f"error: {place}{error.strerror or error}")
        sys.exit(1)


def _leave(number: int, _frame: FrameType | None) -> None:
    """End as after Ctrl-C, so that what lives only as long as the command does is removed: a pod that reads a claim, a lock."""
    sys.exit(128 + number)


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        typer.echo(text, err=True)
