"""Which Python packages this process can import, for the records of runs and tasks."""

from __future__ import annotations

import re

__all__ = ["installed"]


def installed() -> dict[str, str]:
    """Name to version, by name; of a package that is there twice, the one that is imported."""
    from importlib.metadata import distributions

    found: dict[str, str] = {}
    for distribution in distributions():
        # The head is enough: `distribution.metadata` parses every package's long description too, which takes ten times as long.
        text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
        head = dict(re.findall(r"^(Name|Version):[ \t]*(.+?)[ \t\r]*$", text.partition("\n\n")[0], re.MULTILINE))
        name = head.get("Name") or distribution.metadata["Name"]
        if name:
            found.setdefault(name, head.get("Version") or distribution.version)
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))
