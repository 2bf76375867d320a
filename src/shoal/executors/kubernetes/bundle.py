"""What travels to pods in ConfigMaps: the agent, a step's code, and specifications too long for an annotation."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from shoal.errors import UsageError
from shoal.units import format_size

__all__ = ["AGENT_FILES", "MOST_CODE", "PIECE", "Code", "agent_digest", "agent_files", "pack"]

PIECE = 700 * 1024
"""Bytes in one ConfigMap: the API server takes 1 MiB, and base64 on the way makes three bytes four."""
MOST_CODE = 8 * PIECE
AGENT_FILES = ("agent.py", "pod.py", "s3.py", "staging.py")
"""One folder in the pod. The last two serve stores in buckets."""


@dataclass(frozen=True, slots=True)
class Code:
    """Code of a step, packed.

    Attributes:
        digest: of the archive, which is made without times and owners.
        pieces: a gzipped tar archive, cut so that each piece fits into a ConfigMap.
    """

    digest: str
    pieces: tuple[bytes, ...]


def pack(files: Mapping[str, tuple[bytes, bool]], step: str = "") -> Code | None:
    """Pack a step's code; None where there is none.

    Args:
        files: path relative to the study file, to content and whether it is executable.
        step: name of the step, for errors.

    Raises:
        UsageError: packed, it is larger than a few ConfigMaps hold.
    """
    if not files:
        return None
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name in sorted(files):
            content, executable = files[name]
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755 if executable else 0o644
            archive.addfile(entry, io.BytesIO(content))
    packed = gzip.compress(raw.getvalue(), 9, mtime=0)
    if len(packed) > MOST_CODE:
        raise UsageError(
            f"the code of step {step} is {format_size(len(packed))} when packed; pods can be given {format_size(MOST_CODE)}",
            hint="Name fewer files under code: of the step, or put the code into the image.",
        )
    return Code(hashlib.sha256(packed).hexdigest(), tuple(packed[i : i + PIECE] for i in range(0, len(packed), PIECE)))


@cache
def agent_files() -> dict[str, str]:
    """The agent and what starts it in a pod, by file name."""
    here = Path(__file__).parent
    homes = {"agent.py": here.parent.parent / "agent"}
    return {name: (homes.get(name, here) / name).read_text(encoding="utf-8") for name in AGENT_FILES}


@cache
def agent_digest() -> str:
    """The digest of `agent_files`."""
    digest = hashlib.sha256()
    for name, text in sorted(agent_files().items()):
        digest.update(f"{name}\0{hashlib.sha256(text.encode()).hexdigest()}\n".encode())
    return digest.hexdigest()


def zipped(text: str) -> str:
    """The text gzipped, in base64."""
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode("ascii")


def binary(content: bytes) -> Any:
    """Bytes as a manifest has them."""
    return base64.b64encode(content).decode("ascii")
