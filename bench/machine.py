"""The machine that numbers come from, without its name or any path of it."""

from __future__ import annotations

import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path


def load() -> float:
    """Processes that wanted a core over the last minute, on average."""
    return os.getloadavg()[0]


def facts(load_before: float, load_after: float, seconds: float) -> dict[str, str]:
    """What a reader has to know to judge the numbers."""
    from shoal.executors.local.machine import count_cpus, cpu_name, find_memory

    shared = " (the machine was shared: other work ran beside)" if load_before > count_cpus() / 4 else ""
    words = ["python", f"bench/{Path(sys.argv[0]).name}", *_without_files(sys.argv[1:])]
    return {
        "command": " ".join(words),
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, took {seconds / 60:.1f} min",
        "CPU": f"{cpu_name()}, {count_cpus():g} cores",
        "memory": f"{find_memory() / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}{_distribution()}",
        "Python": f"{platform.python_version()} ({platform.python_implementation()})",
        "packages": ", ".join(f"{name} {version(name)}" for name in ("shoal", "pydantic", "typer", "rich", "pyyaml")),
        "load average": f"{load_before:.1f} before{shared}, {load_after:.1f} after",
    }


def _without_files(arguments: list[str]) -> list[str]:
    # Where figures were written says nothing about them, and names folders of this machine.
    kept = [argument for argument in arguments if not argument.startswith(("--write=", "--json=", "--update"))]
    files = {i for i, argument in enumerate(kept) if argument in ("--write", "--json")}
    return [argument for i, argument in enumerate(kept) if i not in files and i - 1 not in files]


def _distribution() -> str:
    try:
        return f", {platform.freedesktop_os_release()['PRETTY_NAME']}"
    except (OSError, KeyError):
        return ""
