"""Commands whose failure their shell would hide."""

from __future__ import annotations

import shlex

from shoal.study.schema import Study

__all__ = ["PIPE_NOTE", "steps_with_pipes"]

PIPE_NOTE = (
    "of a pipe only the last command's exit code counts, so that a failure before it looks like a success. "
    "What a command prints is kept without tee (shoal logs); else put the pipe into a bash script with set -o pipefail."
)


def steps_with_pipes(study: Study) -> list[str]:
    """Names of the steps whose shell command has a pipe and does not set ``pipefail``."""
    return [name for name, step in study.steps.items() if isinstance(step.run, str) and _piped(step.run)]


def _piped(command: str) -> bool:
    if "|" not in command or "pipefail" in command:
        return False
    words = shlex.shlex(command, posix=True, punctuation_chars=True)
    words.whitespace_split = True
    try:
        return any(word in ("|", "|&") for word in words)
    except ValueError:  # quotes that only a shell understands
        return False
