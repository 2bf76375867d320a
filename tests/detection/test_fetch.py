"""RarePlanes' bucket, played by a server on this machine: listed page by page, resumed, checked, unpacked whole."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest
from PIL import Image

from shoal_earth.detection.fetch import fetch_rareplanes, list_bucket
from shoal_earth.detection.readers import read_dataset
from shoal_earth.rasters.download import Access, FetchError

QUICK = Access(attempts=2, wait=0.01, longest_wait=0.05, connect=5, read=5)


class Bucket(ThreadingHTTPServer):
    """Files by key, with a listing of two a page; the first answer for a key in ``cut`` ends half-way."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = dict(sorted(files.items()))
        self.cut: set[str] = set()
        self.tags: dict[str, str] = {}
        self.listing: bytes | None = None
        self.asked: list[tuple[str, str | None]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def tag(self, key: str) -> str:
        return self.tags.get(key) or hashlib.md5(self.files[key]).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """GET of a listing or a file, with ranges."""

    server: Bucket
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Silence."""

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        if "list-type" in query:
            self.answer(200, self.server.listing or self.page(query), {})
            return
        key = unquote(parts.path).lstrip("/")
        asked = self.headers.get("Range")
        self.server.asked.append((key, asked))
        if key not in self.server.files:
            self.answer(404, b"", {})
            return
        data, tag = self.server.files[key], f'"{self.server.tag(key)}"'
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.headers.get("If-Range") == tag else 0
        headers = {"ETag": tag}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self.answer(206 if start else 200, data[start:], headers, cut=key in self.server.cut)
        self.server.cut.discard(key)

    def page(self, query: dict[str, list[str]]) -> bytes:
        keys = [key for key in self.server.files if key.startswith(query["prefix"][0])]
        start = int(query.get("continuation-token", ["0"])[0])
        rows = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(self.server.files[key])}</Size>"
            f"<ETag>&quot;{self.server.tag(key)}&quot;</ETag></Contents>"
            for key in keys[start : start + 2]
        )
        more = f"<NextContinuationToken>{start + 2}</NextContinuationToken>" if start + 2 < len(keys) else ""
        return f'<?xml version="1.0"?><ListBucketResult>{rows}{more}</ListBucketResult>'.encode()

    def answer(self, code: int, body: bytes, headers: dict[str, str], *, cut: bool = False) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self.wfile.flush()
            self.close_connection = True


def archive(split: str, names: list[str], **more: bytes) -> bytes:
    """A tar.gz of tiles, in folders as the published ones are; ``more`` holds other members by name."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for number, name in enumerate(names):
            picture = io.BytesIO()
            Image.effect_noise((64, 48), 50 + number).convert("RGB").save(picture, format="PNG")
            member = tarfile.TarInfo(f"./{split}/PS-RGB_tiled/{name}")
            member.size = len(picture.getvalue())
            tar.addfile(member, io.BytesIO(picture.getvalue()))
        for name, data in more.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("PS-RGB_tiled/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return buffer.getvalue()


def files() -> dict[str, bytes]:
    """What of the bucket is fetched, and some of what is not."""
    content: dict[str, bytes] = {"real/metadata_annotations/RarePlanes_Public_Metadata.csv": b"a,b\n"}
    for split, scene in (("train", "1_A"), ("test", "2_B")):
        names = [f"{scene}_tile_{n}.png" for n in range(4)]
        content[f"real/tarballs/{split}/RarePlanes_{split}_PS-RGB_tiled.tar.gz"] = archive(split, names)
        content[f"real/tarballs/{split}/RarePlanes_{split}_geojson_aircraft_tiled.tar.gz"] = b"not asked for"
        labels = {
            "images": [{"id": n, "file_name": name, "width": 64, "height": 48} for n, name in enumerate(names)],
            "annotations": [{"id": 1, "image_id": 0, "category_id": 1, "bbox": [1, 1, 5, 5]}],
            "categories": [{"id": 1, "name": "Small Civil Transport/Utility"}],
        }
        content[f"real/metadata_annotations/instances_{split}_role.json"] = json.dumps(labels).encode()
        content[f"real/metadata_annotations/instances_{split}_aircraft.json"] = b"{}"
    return content


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    server = Bucket(files())
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_listing_is_read_page_by_page(bucket: Bucket) -> None:
    bucket.files["real/odd & <name>.png"] = b"abc"
    bucket.tags["real/odd & <name>.png"] = "0123-4"
    found = {entry.key: entry for entry in list_bucket(bucket.address, "real/", access=QUICK)}
    assert sorted(found) == sorted(bucket.files)
    assert found["real/odd & <name>.png"].size == 3
    assert found["real/odd & <name>.png"].checksum is None  # uploaded in parts
    assert (found["real/metadata_annotations/RarePlanes_Public_Metadata.csv"].checksum or "").startswith("d50110")


def test_what_comes_can_be_read_and_is_not_fetched_twice(bucket: Bucket, tmp_path: Path, cli: Any) -> None:
    code, out, err = cli("fetch", "--bucket", bucket.address, "--out", tmp_path / "data")
    assert code == 0, err
    assert "tiles: 8" in out
    assert {"metadata_annotations", "test", "train"} <= {p.name for p in (tmp_path / "data").iterdir()}
    assert not (tmp_path / "data" / "archives").exists()
    assert not any(key.endswith("aircraft.json") or "geojson" in key for key, _ in bucket.asked)
    dataset = read_dataset("rareplanes", tmp_path / "data")
    assert [(image.group, image.split) for image in dataset.images] == [("2_B", "test")] * 4 + [("1_A", "train")] * 4
    assert dataset.findings.counts["images"].skipped == {}
    before = len(bucket.asked)
    counts = fetch_rareplanes(tmp_path / "data", bucket.address, access=QUICK)
    assert counts == {"fetched": 0, "there": 2, "bytes": 0, "tiles": 0}
    assert len(bucket.asked) == before


def test_a_broken_connection_is_taken_up_where_it_broke(bucket: Bucket, tmp_path: Path) -> None:
    key = "real/tarballs/train/RarePlanes_train_PS-RGB_tiled.tar.gz"
    bucket.cut = {key}
    counts = fetch_rareplanes(tmp_path, bucket.address, access=QUICK, keep_archives=True)
    assert counts["tiles"] == 8
    ranges = [asked for name, asked in bucket.asked if name == key]
    assert ranges == [None, f"bytes={len(bucket.files[key]) // 2}-"]
    assert (tmp_path / "archives" / Path(key).name).read_bytes() == bucket.files[key]


def test_bytes_that_are_not_those_promised_are_refused(bucket: Bucket, tmp_path: Path) -> None:
    key = "real/metadata_annotations/instances_train_role.json"
    bucket.tags[key] = hashlib.md5(b"something else").hexdigest()
    with pytest.raises(FetchError, match="checksum differs"):
        fetch_rareplanes(tmp_path, bucket.address, access=QUICK)
    assert not (tmp_path / "metadata_annotations" / "instances_train_role.json").exists()


def test_a_damaged_archive_leaves_no_folder_of_tiles(bucket: Bucket, tmp_path: Path) -> None:
    key = "real/tarballs/train/RarePlanes_train_PS-RGB_tiled.tar.gz"
    bucket.files[key] = bucket.files[key][:-2000]
    with pytest.raises(FetchError, match="cannot be unpacked"):
        fetch_rareplanes(tmp_path, bucket.address, access=QUICK)
    assert not (tmp_path / "train" / "PS-RGB_tiled").exists()
    (tmp_path / "archives" / Path(key).name).unlink()
    bucket.files[key] = files()[key]
    assert fetch_rareplanes(tmp_path, bucket.address, access=QUICK)["tiles"] == 8


@pytest.mark.parametrize("name", ["../../evil.png", "/tmp/evil.png"])
def test_an_archive_cannot_write_elsewhere(bucket: Bucket, tmp_path: Path, name: str) -> None:
    key = "real/tarballs/train/RarePlanes_train_PS-RGB_tiled.tar.gz"
    bucket.files[key] = archive("train", ["1_A_tile_0.png"], **{name: b"x", "note.txt": b"x"})
    fetch_rareplanes(tmp_path / "out", bucket.address, access=QUICK)
    assert sorted(p.name for p in (tmp_path / "out" / "train" / "PS-RGB_tiled").iterdir()) == [
        "1_A_tile_0.png",
        "evil.png",
    ]
    assert list(tmp_path.rglob("evil.png")) == [tmp_path / "out" / "train" / "PS-RGB_tiled" / "evil.png"]


def test_two_tiles_of_one_name_are_refused(bucket: Bucket, tmp_path: Path) -> None:
    key = "real/tarballs/train/RarePlanes_train_PS-RGB_tiled.tar.gz"
    bucket.files[key] = archive("train", ["a.png"], **{"other/a.png": b"x"})
    with pytest.raises(FetchError, match=r"two files named a\.png"):
        fetch_rareplanes(tmp_path, bucket.address, access=QUICK)


def test_a_bucket_that_has_changed_is_said_to_have(bucket: Bucket, tmp_path: Path, cli: Any) -> None:
    del bucket.files["real/metadata_annotations/instances_test_role.json"]
    with pytest.raises(FetchError, match="has 1 files of labels"):
        fetch_rareplanes(tmp_path, bucket.address, access=QUICK)
    bucket.listing = b'<!DOCTYPE x [<!ENTITY a "b">]><ListBucketResult></ListBucketResult>'
    with pytest.raises(FetchError, match="holds a DTD"):
        list_bucket(bucket.address, "", access=QUICK)
    for listing in (b"<html></html>", b"hello"):
        bucket.listing = listing
        with pytest.raises(FetchError, match="no listing of a bucket"):
            list_bucket(bucket.address, "", access=QUICK)
    code, _, err = cli("fetch", "--dataset", "dota", "--out", tmp_path)
    assert code == 2
    assert "without an account" in err


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="cannot be listed"):
        list_bucket("http://127.0.0.1:9", quote("real/"), access=QUICK)


def test_what_asks_for_an_account_is_looked_for_where_it_was_put(
    tmp_path: Path, cli: Callable[..., tuple[int, str, str]]
) -> None:
    from shoal_earth.detection.readers import read_dataset
    from shoal_earth.detection.synthetic_formats import write_synthetic

    for dataset in ("dota", "xview"):
        code, _, err = cli("fetch", "--dataset", dataset, "--source", tmp_path / "nothing", "--out", tmp_path / "out")
        assert code == 2
        assert "is no folder" in err
        assert "https://" in err
        write_synthetic(dataset, tmp_path / dataset, scenes=2, side=200)
        for _ in range(2):  # a second start finds its links there
            code, out, _ = cli(
                "fetch", "--dataset", dataset, "--source", tmp_path / dataset, "--out", tmp_path / f"{dataset}-out"
            )
            assert code == 0
            assert "linked: " in out
        linked, there = (read_dataset(dataset, folder) for folder in (tmp_path / f"{dataset}-out", tmp_path / dataset))
        assert [image.name for image in linked.images] == [image.name for image in there.images]
        assert linked.box_count == there.box_count > 0
    code, _, err = cli("fetch", "--dataset", "coco", "--out", tmp_path / "x")
    assert (code, "no dataset" in err) == (2, True)
