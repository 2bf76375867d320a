"""RarePlanes from its public bucket, over plain HTTPS: resumed, checked, and unpacked whole or not at all. And what a person
has to get, since it asks for an account: looked for where they put it.

The bucket's own listing says which files there are, how long they are and, for most, their MD5. CC BY-SA 4.0; about 3 GB.
"""

from __future__ import annotations

import re
import tarfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from shutil import copyfileobj, rmtree
from typing import Any
from urllib.parse import quote, urlencode
from xml.parsers import expat

from shoal.errors import UsageError
from shoal_earth.rasters.download import Access, Download, FetchError, download_all
from shoal_earth.rasters.output import write_error

__all__ = ["BUCKET", "Entry", "fetch_rareplanes", "link_dataset", "list_bucket"]

BUCKET = "https://rareplanes-public.s3.amazonaws.com"
_LABELS = "real/metadata_annotations/"
_TILES = {split: f"real/tarballs/{split}/RarePlanes_{split}_PS-RGB_tiled.tar.gz" for split in ("train", "test")}
_ROLES = re.compile(r"instances_(train|test)_role\.json|RarePlanes_(Train|Test)_Coco_Annotations_tiled\.json")

# Of datasets behind an account: what their folder holds, in patterns, and where they are to be had.
_ACCOUNT = {
    "dota": (
        ("labelTxt*", "train/labelTxt*"),
        "DOTA v1 is at https://captain-whu.github.io/DOTA/dataset.html (academic use only). Unpack it to train/images, "
        "train/labelTxt, val/images and val/labelTxt",
    ),
    "xview": (
        ("*.geojson",),
        "xView is at https://xviewdataset.org, after registration (CC BY-NC-SA 4.0). Unpack it to xView_train.geojson and "
        "train_images",
    ),
}


@dataclass
class Entry:
    """A file of a bucket: key, bytes, and the tag, which is the MD5 unless the file was uploaded in parts."""

    key: str = ""
    size: int = 0
    tag: str = ""

    @property
    def checksum(self) -> str | None:
        """MD5 as a multihash, where the tag is one."""
        return f"d50110{self.tag}" if re.fullmatch(r"[0-9a-f]{32}", self.tag) else None


@dataclass
class _Page:
    entries: list[Entry] = field(default_factory=list)
    next: str | None = None


def list_bucket(bucket: str, prefix: str, *, access: Access | None = None) -> list[Entry]:
    """The files of a bucket (S3, or what speaks as it does) under a prefix.

    Raises:
        FetchError: the bucket cannot be reached, or answers with something else.
    """
    import requests
    import stamina

    access = access or Access()
    found, token = list[Entry](), None
    while True:
        query = {"list-type": "2", "prefix": prefix, **({"continuation-token": token} if token else {})}
        url = f"{bucket.rstrip('/')}/?{urlencode(query)}"
        try:
            for attempt in stamina.retry_context(
                on=(requests.ConnectionError, requests.Timeout),
                attempts=access.attempts,
                wait_initial=access.wait,
                wait_max=access.longest_wait,
                timeout=None,
            ):
                with attempt:
                    answer = requests.get(url, timeout=(access.connect, access.read))
            answer.raise_for_status()
            page = _parse(answer.content)
        except requests.RequestException as error:
            raise FetchError(f"{bucket}: cannot be listed: {type(error).__name__}: {str(error)[:200]}") from None
        except (expat.ExpatError, ValueError) as error:
            raise FetchError(f"{bucket}: answers with no listing of a bucket: {error}") from None
        found += page.entries
        token = page.next
        if token is None:
            return found


def _parse(content: bytes) -> _Page:
    """One page of a listing. DTDs, and so entities, are refused."""
    page, path, text = _Page(), list[str](), list[str]()
    parser = expat.ParserCreate()

    def refuse(*_: object) -> None:
        raise ValueError("it holds a DTD")

    def start(tag: str, _: object) -> None:
        if not path and tag != "ListBucketResult":
            raise ValueError(f"it begins with <{tag}>")
        path.append(tag)
        text.clear()
        if path[1:] == ["Contents"]:
            page.entries.append(Entry())

    def end(tag: str) -> None:
        place, value = path[1:], "".join(text).strip()
        path.pop()
        text.clear()
        if place == ["NextContinuationToken"]:
            page.next = value or None
        elif len(place) == 2 and place[0] == "Contents":
            own = page.entries[-1]
            if tag == "Key":
                own.key = value
            elif tag == "Size":
                own.size = int(value)
            elif tag == "ETag":
                own.tag = value.strip('"')

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, text.append
    parser.Parse(content, True)
    return page


def fetch_rareplanes(
    out: Path, bucket: str = BUCKET, *, access: Access | None = None, keep_archives: bool = False
) -> dict[str, int]:
    """Fetch RarePlanes' real tiles and their labels of roles into the layout that the reader takes.

    What is there already is not fetched again; a folder of tiles is there whole or not at all.

    Args:
        out: folder; ``metadata_annotations``, ``train/PS-RGB_tiled`` and ``test/PS-RGB_tiled`` are made in it.
        bucket: address of the bucket or of a mirror.
        access: how to speak to the server.
        keep_archives: keep the archives, in ``archives``.

    Returns:
        ``fetched`` and ``there`` (files), ``bytes`` received, ``tiles`` unpacked.

    Raises:
        FetchError: something is missing in the bucket, cannot be fetched, or is damaged.
        WriteError: the disk is full.
    """
    access = access or Access()
    entries = {entry.key: entry for entry in list_bucket(bucket, _LABELS, access=access)}
    labels = sorted(key for key in entries if _ROLES.fullmatch(key.removeprefix(_LABELS)))
    # The files by role are small and clean; those with all attributes hold the role too.
    labels = [key for key in labels if key.endswith("_role.json")] or labels
    if len(labels) != 2:
        raise FetchError(
            f"{bucket}: has {len(labels)} files of labels under {_LABELS}, and should have those of train and of test",
            hint="The bucket may have changed: see the registry of open data on AWS for RarePlanes.",
        )
    wanted = [_download(bucket, entries[key], out / "metadata_annotations" / Path(key).name) for key in labels]
    missing = {split: key for split, key in _TILES.items() if not (out / split / "PS-RGB_tiled").is_dir()}
    if missing:
        entries |= {entry.key: entry for entry in list_bucket(bucket, "real/tarballs/", access=access)}
    archives = {split: out / "archives" / Path(key).name for split, key in missing.items()}
    for split, key in missing.items():
        if key not in entries:
            raise FetchError(f"{bucket}: has no {key}", hint="The bucket may have changed.")
        wanted.append(_download(bucket, entries[key], archives[split]))
    counts = download_all(wanted, access)
    counts["tiles"] = 0
    for split, archive in archives.items():
        counts["tiles"] += _unpack(archive, out / split / "PS-RGB_tiled")
        if not keep_archives:
            archive.unlink()
    if not keep_archives and (out / "archives").is_dir() and not any((out / "archives").iterdir()):
        (out / "archives").rmdir()
    return counts


def _download(bucket: str, entry: Entry, path: Path) -> Download:
    return Download(f"{bucket.rstrip('/')}/{quote(entry.key)}", path, entry.size, entry.checksum)


def _unpack(archive: Path, folder: Path) -> int:
    """The PNG files of an archive, whatever folders they are in there, into one folder that appears when all are there."""
    part = folder.with_name(f".{folder.name}.part")
    rmtree(part, ignore_errors=True)
    count = 0
    try:
        part.mkdir(parents=True)
        with tarfile.open(archive, "r|*") as tar:
            for member in tar:
                name = PurePosixPath(member.name).name
                # Links and devices are passed over, and a file keeps nothing of its path: it cannot leave the folder.
                if not member.isfile() or not name.lower().endswith(".png") or name.startswith("."):
                    continue
                source: Any = tar.extractfile(member)
                with source, (part / name).open("xb") as target:
                    copyfileobj(source, target)
                count += 1
    except FileExistsError as error:
        raise FetchError(f"{archive}: holds two files named {Path(str(error.filename)).name}") from None
    except (tarfile.TarError, EOFError) as error:
        raise FetchError(f"{archive}: cannot be unpacked: {error}", hint="Remove it, and fetch again.") from None
    except OSError as error:
        if error.errno is None:  # gzip's own
            raise FetchError(f"{archive}: cannot be unpacked: {error}", hint="Remove it, and fetch again.") from None
        raise write_error(folder, error) from None
    if not count:
        raise FetchError(f"{archive}: holds no tile", hint="The bucket may have changed.")
    part.replace(folder)
    return count


def link_dataset(dataset: str, source: Path, out: Path) -> dict[str, int]:
    """Links, in ``out``, to what lies in the folder of a dataset that somebody fetched by hand.

    So that a study has one step for all its datasets: it says early, and in words, what is missing.

    Args:
        dataset: ``dota`` or ``xview``.
        source: the folder, as published.
        out: where the links go.

    Raises:
        UsageError: the folder is not there, or is not laid out as this dataset is.
    """
    patterns, where = _ACCOUNT[dataset]
    if not any(True for pattern in patterns for _ in source.glob(pattern)):
        found = "is no folder" if not source.is_dir() else f"holds neither {' nor '.join(patterns)}"
        raise UsageError(f"{source}: {found}, so there is no {dataset}", hint=f"{where} in that folder.")
    entries = sorted(path for path in source.iterdir() if not path.name.startswith("."))
    out.mkdir(parents=True, exist_ok=True)
    for path in entries:
        link = out / path.name
        if link.is_symlink():
            link.unlink()
        link.symlink_to(path.resolve(), target_is_directory=path.is_dir())
    return {"linked": len(entries)}
