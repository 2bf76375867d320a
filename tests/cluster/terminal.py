"""A command line at a terminal, as a person has it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Callable
from typing import Any

__all__ = ["at_a_terminal"]


def at_a_terminal(
    argv: list[str],
    how: dict[str, Any],
    *,
    answer: Callable[[str], str | None] = lambda _said: None,
    columns: int = 100,
) -> tuple[int, str]:
    """Run a command at a terminal of its own; return its exit code and all that it drew, without colours.

    Args:
        argv: the command line.
        how: arguments of ``Popen``.
        answer: what a person types after what was said so far; None for nothing.
        columns: width of the terminal.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    env = {name: value for name, value in how["env"].items() if name != "COLUMNS"} | {"TERM": "xterm"}
    settings = {**how, "env": env, "text": False}
    with subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, **settings) as made:
        os.close(theirs)
        said = b""
        with contextlib.suppress(OSError):  # how a terminal ends
            while chunk := os.read(ours, 4096):
                said += chunk
                typed = answer(said.decode(errors="replace"))
                if typed is not None:
                    os.write(ours, typed.encode())
        os.close(ours)
    return made.returncode, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said.decode(errors="replace"))
