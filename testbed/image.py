"""Images made on this machine, where no registry is: Debian with Python 3, as an archive that containerd imports."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from testbed.binaries import BuildError

__all__ = ["PAUSE", "PYTHON", "archive"]

PYTHON = "shoal.test/python:3.11"
#: What holds a pod's network; the same files, another command.
PAUSE = "shoal.test/pause:1"
_RELEASE = "bookworm"
_PACKAGES = ("python3", "ca-certificates")
# Nothing that a pod reads.
_LEFT_OUT = (
    "var/cache/apt",
    "var/lib/apt/lists",
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "dev",
    "proc",
    "sys",
)


def archive() -> Path:
    """Make the images, once, and return the archive of both (OCI layout in a tar).

    Raises:
        BuildError: there is no debootstrap, or it failed.
    """
    recipe = [_RELEASE, _PACKAGES, _LEFT_OUT, Path(__file__).read_text()]
    digest = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "shoal" / "testbed" / "images"
    path = cache / f"{digest}.tar"
    if path.exists():
        return path
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".making-") as making:
        root = Path(making) / "root"
        _debootstrap(root)
        layer = Path(making) / "layer.tar"
        with tarfile.open(layer, "w") as tar:
            tar.add(root, arcname=".", filter=_kept)
        layout = Path(making) / "images.tar"
        _pack(layout, layer, {PYTHON: ["python3"], PAUSE: ["/bin/sleep", "infinity"]})
        layout.replace(path)
    return path


def _debootstrap(root: Path) -> None:
    if shutil.which("debootstrap") is None:
        raise BuildError("the image is made with debootstrap, which is not there: apt-get install debootstrap")
    command = ["debootstrap", "--variant=minbase", f"--include={','.join(_PACKAGES)}", _RELEASE, str(root), *_mirror()]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise BuildError("debootstrap failed:\n" + "\n".join(done.stdout.splitlines()[-10:]))
    # So that a pod that is not root reaches what is mounted below.
    (root / "root").chmod(0o755)


def _mirror() -> list[str]:
    """Where this machine's own packages come from, if it is the same release."""
    fields = "$(SITE) $(CODENAME) $(COMPONENT) $(CREATED_BY)"
    try:
        said = subprocess.run(
            ["apt-get", "indextargets", "--format", fields], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return []
    lines = (line.split() for line in said.stdout.splitlines())
    return [line[0] for line in lines if line[1:] == [_RELEASE, "main", "Packages"]][:1]


def _kept(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    inside = member.name.removeprefix("./")
    if any(inside.startswith(f"{folder}/") for folder in _LEFT_OUT):
        return None
    return member


def _pack(path: Path, layer: Path, commands: dict[str, list[str]]) -> None:
    """Write an OCI layout with one image for each command, all of the same layer."""
    with tarfile.open(path, "w") as tar:
        _add(tar, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        size, digest = layer.stat().st_size, _digest(layer)
        with layer.open("rb") as file:
            _add(tar, f"blobs/sha256/{digest}", file, size)
        described = []
        for name, command in commands.items():
            config = json.dumps(_config(command, digest)).encode()
            manifest = json.dumps(_manifest(config, size, digest)).encode()
            for blob in (config, manifest):
                _add(tar, f"blobs/sha256/{hashlib.sha256(blob).hexdigest()}", blob)
            entry = _descriptor("application/vnd.oci.image.manifest.v1+json", manifest)
            described.append({**entry, "annotations": {"io.containerd.image.name": name}})
        _add(tar, "index.json", json.dumps({"schemaVersion": 2, "manifests": described}).encode())


def _config(command: Sequence[str], layer: str) -> dict[str, object]:
    path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {
        "architecture": {"aarch64": "arm64"}.get(os.uname().machine, "amd64"),
        "os": "linux",
        "config": {"Env": [path], "Cmd": list(command), "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer}"]},
    }


def _manifest(config: bytes, size: int, layer: str) -> dict[str, object]:
    media = "application/vnd.oci.image.layer.v1.tar"
    return {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": _descriptor("application/vnd.oci.image.config.v1+json", config),
        "layers": [{"mediaType": media, "size": size, "digest": f"sha256:{layer}"}],
    }


def _descriptor(media: str, blob: bytes) -> dict[str, object]:
    return {"mediaType": media, "size": len(blob), "digest": f"sha256:{hashlib.sha256(blob).hexdigest()}"}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _add(tar: tarfile.TarFile, name: str, data: bytes | BinaryIO, size: int | None = None) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data) if isinstance(data, bytes) else int(size or 0)
    tar.addfile(entry, io.BytesIO(data) if isinstance(data, bytes) else data)
