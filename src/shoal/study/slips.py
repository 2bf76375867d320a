"""What people write where ``{name}`` is meant, out of the habit of another tool."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["slip_for", "spaced"]

_SPACED = re.compile(r"(?<![{$])\{(?:\s+([A-Za-z_][\w.-]*)\s*|([A-Za-z_][\w.-]*)\s+)\}(?!\})")


def slip_for(name: str, texts: Iterable[str]) -> str | None:
    """The first thing in the texts that is nearly ``{name}``: ``{{name}}``, ``${name}``, ``$name``, ``{ name }``, ``{name``."""
    word = re.escape(name)
    nearly = re.compile(
        rf"\{{\{{\s*{word}\s*\}}\}}|\$\{{{word}\}}|\$\({word}\)|\${word}\b|\{{\s*{word}\s*\}}|\{{{word}\b|(?<![\w.-]){word}\}}|<{word}>"
    )
    for text in texts:
        if (found := nearly.search(text)) is not None:
            return found[0]
    return None


def spaced(text: str, known: Iterable[str]) -> list[tuple[str, int, int]]:
    """Known names in braces with spaces, which stand for themselves: name, and from which character to before which."""
    names = set(known)
    found = ((match[1] or match[2], *match.span()) for match in _SPACED.finditer(text))
    return [(name, start, end) for name, start, end in found if name in names]
