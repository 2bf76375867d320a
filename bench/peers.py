"""The neighbours, as installed from the package index into an environment of their own."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from measure import PYTHON, ROOT, BenchError

VENV = ROOT / ".venv-bench"
PACKAGES = ("submitit", "snakemake")


def python() -> Path:
    """The interpreter of the peers' environment, which is made if it is not there.

    Raises:
        BenchError: it cannot be made, for example without a network.
    """
    interpreter = VENV / "bin" / "python"
    stamp = VENV / ".installed"
    if stamp.exists() and stamp.read_text().split() == list(PACKAGES):
        return interpreter
    own = ROOT / ".venv-uv" / "bin" / "uv"
    uv = shutil.which("uv") or (str(own) if own.exists() else None)
    if uv:
        commands = [
            [uv, "venv", "--quiet", "--clear", "--python", PYTHON, str(VENV)],
            [uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", str(interpreter), *PACKAGES],
        ]
    else:
        commands = [
            [PYTHON, "-m", "venv", "--clear", str(VENV)],
            [str(interpreter), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES],
        ]
    for argv in commands:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchError(f"the peers cannot be installed: {done.stderr.strip()[-500:]}")
    stamp.write_text("\n".join(PACKAGES))
    return interpreter


def versions(interpreter: Path) -> dict[str, str]:
    """Installed versions of the peers."""
    code = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
    done = subprocess.run([str(interpreter), "-c", code, *PACKAGES], capture_output=True, text=True, check=True)
    return dict(zip(PACKAGES, done.stdout.split(), strict=True))
