"""A page of the documentation as a script: its files are written, its commands run, its shown outputs compared.

* A code block with a title that is a file name (``title="train.py"``) is that file; ``title="study.yaml, added at the end"`` is
  appended to it.
* In a ``console`` block, lines that start with ``$ `` are commands, run one after another by one shell; what stands below each is
  what it prints. A line ``…`` stands for any lines. Ids, lengths of time, sizes and decimals that are no results may differ.
* A comment ``<!-- not run: reason -->`` in front of a block keeps it from being run.

``SHOAL_WRITE_DOCS=1`` writes what was printed into the page instead of comparing.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

_BLOCK = re.compile(
    r"(?P<skip><!-- not run: [^\n]*-->\n+)?^```(?P<kind>[a-z]+)(?P<head>[^\n]*)\n(?P<body>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_TITLE = re.compile(r'title="(?P<file>[\w./-]+)(?P<added>, added[^"]*)?"')
_END = "--- end of output ---"
ELLIPSIS = "…"
HOME = "/home/ada/circle"


@dataclass
class Command:
    """A command with what the page says that it prints; ``line`` is where in the page."""

    text: str
    line: int
    shown: list[str] = field(default_factory=list)
    printed: list[str] = field(default_factory=list)

    def problem(self) -> str | None:
        """How the outputs differ, or None."""
        printed = [loose(line) for line in self.printed if line.strip()]
        position, skipping = 0, False
        for shown in self.shown:
            if not shown.strip():
                continue
            if shown.strip() == ELLIPSIS:
                skipping = True
                continue
            wanted = loose(shown)
            limit = len(printed) if skipping else position + 1
            found = next((i for i in range(position, min(limit, len(printed))) if printed[i] == wanted), None)
            if found is None:
                return f"line {self.line}: $ {self.text}\nis said to print:\n{shown}\nbut printed:\n" + "\n".join(
                    self.printed
                )
            position, skipping = found + 1, False
        if position < len(printed) and not skipping:
            return f"line {self.line}: $ {self.text}\nalso printed:\n" + "\n".join(self.printed)
        return None

    def rewritten(self) -> list[str]:
        """What was printed, cut where the page has ``…``."""
        printed = [line.rstrip() for line in self.printed]
        while printed and not printed[-1]:
            printed.pop()
        gaps = [i for i, line in enumerate(self.shown) if line.strip() == ELLIPSIS]
        if not gaps:
            return printed
        head, tail = gaps[0], len([line for line in self.shown[gaps[-1] + 1 :] if line.strip()])
        if head + tail >= len(printed):
            return printed
        return [*printed[:head], ELLIPSIS, *(printed[-tail:] if tail else [])]


def loose(line: str) -> str:
    """A line without what differs from run to run."""
    line = re.sub(r"\b[0-9a-f]{12}\b", "ID", line)
    line = re.sub(r"(?<![\w.])/[\w./-]*/(?=(circle|runs|report)\b)", "/", line)
    line = re.sub(r"~?\b\d+(\.\d+)? (ms|s|min|h)\b", "TIME", line)
    line = re.sub(r"\b\d+(\.\d+)?[KMG]i\b", "SIZE", line)
    # Results are exact: a mean, with its spread behind it or alone in a metric's cell.
    line = re.sub(r"(?<![\w.])\d+(\.\d+)?e-\d+\b|(?<![\w.±])0\.0{2,}\d+\b", "SMALL", line)
    line = re.sub(r"\b\d+\.\d+ times\b|\b\d+ times\b", "N times", line)
    return re.sub(r"\s+", " ", re.sub(r"─+", "─", line)).strip()


def run_page(page: Path, folder: Path, env: dict[str, str]) -> list[Command]:
    """Write the page's files into ``folder`` and run its commands there; returns them with what they printed."""
    commands: list[Command] = []
    text = page.read_text()
    for block in _BLOCK.finditer(text):
        if block["skip"]:
            continue
        title = _TITLE.search(block["head"])
        if title is not None:
            target = folder / title["file"]
            with target.open("a" if title["added"] else "w") as file:
                file.write(block["body"])
        elif block["kind"] == "console":
            line = text.count("\n", 0, block.start("body")) + 1
            found = _commands(block["body"], line)
            _run(found, folder, env)
            commands += found
    return commands


def rewrite_page(page: Path, commands: list[Command], folder: Path) -> None:
    """Put what was printed into the page; ``folder``, where it was run, becomes a reader's."""
    left = list(commands)

    def renew(block: re.Match[str]) -> str:
        if block["skip"] or block["kind"] != "console":
            return block[0]
        lines: list[str] = []
        for _ in _commands(block["body"], 0):
            command = left.pop(0)
            lines += [f"$ {command.text}", *(line.replace(str(folder), HOME) for line in command.rewritten())]
        return f"```console{block['head']}\n" + "\n".join(lines) + "\n```"

    page.write_text(_BLOCK.sub(renew, page.read_text()))


def _commands(body: str, line: int) -> list[Command]:
    found: list[Command] = []
    for number, text in enumerate(body.splitlines(), line):
        if text.startswith("$ "):
            found.append(Command(text[2:], number))
        else:
            found[-1].shown.append(text)
    return found


def _run(commands: list[Command], folder: Path, env: dict[str, str]) -> None:
    script = "\n".join(f"(exit $status); {command.text}\nstatus=$?; printf '\\n{_END}\\n'" for command in commands)
    done = subprocess.run(
        ["bash", "-c", f"status=0\n{script}"],
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=240,
    )
    outputs = done.stdout.decode().split(f"\n{_END}\n")
    assert len(outputs) == len(commands) + 1, done.stdout.decode()
    for command, output in zip(commands, outputs, strict=False):
        command.printed = output.splitlines()
