"""A study's files in a bucket, read from this machine (by obstore, the extra ``s3``)."""

from __future__ import annotations

import configparser
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.clusters.schema import Cluster
from shoal.errors import StoreError, UsageError

if TYPE_CHECKING:
    from obstore.store import S3Store

__all__ = ["BucketFiles", "find_keys", "open_bucket", "outside_address"]

_THREADS = 16
_PIECES = 8 << 20
_RECORDS = ("environment.json", "metrics.jsonl", "usage.jsonl", "log.txt", "spec.json")


def find_keys() -> dict[str, str]:
    """The keys of buckets, as other programs find them: the environment's, else those of a profile in ``~/.aws/credentials``.

    Raises:
        UsageError: there are none.
    """
    names = {
        "access_key_id": "aws_access_key_id",
        "secret_access_key": "aws_secret_access_key",
        "session_token": "aws_session_token",
    }
    found = {key: text for key, name in names.items() if (text := os.environ.get(name.upper()))}
    if "access_key_id" in found and "secret_access_key" in found:
        return found
    path = Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials").expanduser()
    profile = os.environ.get("AWS_PROFILE") or "default"
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(path)
        section = dict(parser[profile])
    except (configparser.Error, KeyError, UnicodeDecodeError):
        section = {}
    found = {key: text for key, name in names.items() if (text := section.get(name))}
    if "access_key_id" in found and "secret_access_key" in found:
        return found
    raise UsageError(
        "there are no keys for the bucket on this machine",
        hint="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or write them into ~/.aws/credentials (AWS_PROFILE names the "
        "profile).",
    )


def outside_address(cluster: Cluster) -> str:
    """The object store's address as this machine reaches it: pods may have one of their own."""
    assert cluster.store is not None
    address = cluster.store.address
    for one in cluster.object_stores.values():
        if one.inside is not None and one.inside.rstrip("/") == address:
            return one.outside.rstrip("/")
    return address


def open_bucket(cluster: Cluster) -> S3Store:
    """The cluster's bucket.

    Raises:
        UsageError: the extra is not installed, or there are no keys.
    """
    store = cluster.store
    assert store is not None
    try:
        from obstore.store import S3Store
    except ImportError:
        raise UsageError("stores in buckets need obstore", hint="pip install 'shoal[s3]'") from None
    keys = find_keys()
    address = outside_address(cluster)
    config: Any = {
        "endpoint": address,
        "region": store.region,
        "virtual_hosted_style_request": False,
        **{f"aws_{name}": text for name, text in keys.items()},
    }
    plain: Any = {"allow_http": address.startswith("http://")}
    return S3Store(store.bucket, prefix=store.prefix or None, config=config, client_options=plain)


class BucketFiles:
    """A study's part of a bucket.

    Args:
        store: the bucket, below the prefix of the store.
        study: name of the study.
    """

    def __init__(self, store: S3Store, study: str) -> None:
        self._store, self._study = store, study

    def check(self) -> None:
        """See whether this machine's keys open the bucket.

        Raises:
            StoreError: they do not, or there is no such bucket.
        """
        next(self._list(f"{self._study}/"), None)

    def outputs(self, step: str, task: str, folder: Path) -> None:
        """Bring what a task made into an empty folder here.

        Raises:
            StoreError: it is not there, or the bucket cannot be read.
        """
        home = f"{self._study}/{step}/{task}"
        listed = self._get(f"{home}/out.json")
        if listed is not None:
            tree = json.loads(listed)
            entries: dict[str, dict[str, Any]] = tree["files"]
        else:
            prefix = f"{home}/out/"
            tree = {}
            entries = {path.removeprefix(prefix): {"key": path.removeprefix(f"{home}/")} for path in self._list(prefix)}
        root = Path(os.path.realpath(folder))

        def place(path: str) -> Path:
            found = Path(os.path.normpath(root / path))
            if not found.is_relative_to(root) or found == root:
                raise StoreError(f"a file list in the bucket leads out of its folder: {path!r}")
            return found

        def one(path: str, entry: dict[str, Any]) -> None:
            target = place(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            self._download(f"{home}/{entry['key']}", target)
            if entry.get("executable"):
                target.chmod(0o755)

        with ThreadPoolExecutor(_THREADS) as pool:
            for done in [pool.submit(one, path, entry) for path, entry in entries.items()]:
                done.result()
        for path, target in (tree.get("links") or {}).items():
            place(path).parent.mkdir(parents=True, exist_ok=True)
            place(path).symlink_to(target)

    def records(
        self,
        folder: Path,
        tasks: Sequence[str],
        *,
        pictures: bool = False,
        skip: Callable[[str], bool] = lambda _: False,
    ) -> int:
        """Bring the small files of attempts that a pod's last word does not hold; return how many came.

        Args:
            folder: the study's folder here.
            tasks: ``STEP/TASK``.
            pictures: whether those for the report come too.
            skip: which paths to leave as they are.
        """
        wanted: list[str] = []
        for task in tasks:
            for path in self._list(f"{self._study}/{task}/attempts/"):
                if path.rpartition("/")[2] in _RECORDS:
                    wanted.append(path)
            if pictures:
                wanted += self._list(f"{self._study}/{task}/out/pictures/")

        def one(path: str) -> None:
            below = path.removeprefix(f"{self._study}/")
            target = Path(os.path.normpath(folder / below))
            if skip(below) or not target.is_relative_to(folder):
                return
            target.parent.mkdir(parents=True, exist_ok=True)
            making = target.with_name(f".{target.name}.{os.getpid()}.part")
            self._download(path, making)
            making.replace(target)

        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(one, wanted))
        return len(wanted)

    def result(self, step: str, task: str) -> dict[str, Any] | None:
        """A task's result; None where there is none."""
        found = self._get(f"{self._study}/{step}/{task}/result.json")
        read = json.loads(found) if found is not None else None
        return read if isinstance(read, dict) else None

    def put(self, path: str, data: bytes) -> None:
        """Write a file below the study's folder.

        Raises:
            StoreError: it cannot be written.
        """
        import obstore
        from obstore.exceptions import BaseError

        try:
            obstore.put(self._store, f"{self._study}/{path}", data)
        except BaseError as error:
            raise _said(error, "written") from error

    def _get(self, path: str) -> bytes | None:
        import obstore
        from obstore.exceptions import BaseError, NotFoundError

        try:
            return bytes(obstore.get(self._store, path).bytes())
        except (NotFoundError, FileNotFoundError):
            return None
        except BaseError as error:
            raise _said(error) from error

    def _download(self, path: str, target: Path) -> None:
        import obstore
        from obstore.exceptions import BaseError

        try:
            with target.open("wb") as file:
                for piece in obstore.get(self._store, path).stream(min_chunk_size=_PIECES):
                    file.write(piece)
        except BaseError as error:
            raise _said(error) from error

    def _list(self, prefix: str) -> Iterator[str]:
        import obstore
        from obstore.exceptions import BaseError

        try:
            for page in obstore.list(self._store, prefix):
                yield from (str(one["path"]) for one in page)
        except BaseError as error:
            raise _said(error) from error


def _said(error: Exception, done: str = "read") -> StoreError:
    text = " ".join(str(error).split())
    if (code := re.search(r"<Code>(\w+)</Code>", text)) is not None:
        said = re.search(r"<Message>(.*?)</Message>", text)
        if "status code: 403" in text or "status code: 401" in text:
            return StoreError(
                f"the object store does not accept this machine's keys for the bucket: {code[1]}",
                hint="They are those of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, else of ~/.aws/credentials.",
            )
        text = f"{code[1]}: {said[1]}" if said else code[1]
    return StoreError(f"the bucket cannot be {done}: {text[:300]}", hint="Are keys, bucket and endpoint right?")
