"""A bucket of an S3 object store, spoken to with nothing but the standard library.

It travels into pods beside the agent, so it is one file for Python 3.8 and newer: get, put, put in parts, list, delete, and
a put that fails where the object is there already. Requests are signed as AWS describes it (Signature Version 4), addresses
are path-style, which every S3 server understands. What may go away by itself (lost connections, 5xx, "slow down") is tried
again; a download goes on where it broke off.
"""

import datetime
import hashlib
import hmac
import http.client
import os
import random
import ssl
import threading
import time
import urllib.parse
import urllib.request
import xml.etree.ElementTree as ElementTree
from typing import Any, Dict, Iterator, List, Optional, Tuple

PART = 32 << 20  # bytes sent in one request; larger files go up in parts
MOST_PARTS = 9000  # S3 takes 10,000
TRIES = 7
TIMEOUT = 60.0
_CHUNK = 1 << 20
_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_EMPTY = hashlib.sha256(b"").hexdigest()
_UNRESERVED = "-_.~"


class S3Error(OSError):
    """The store said no, or nothing at all.

    Attributes:
        status: the HTTP status, 0 where no answer came.
        code: the store's word for it, for example ``NoSuchKey``.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__("%s%s%s" % (code or "no answer", ": " if message else "", message))
        self.status, self.code = status, code


class Bucket:
    """A bucket, and the keys to it. May be used by several threads at once.

    Args:
        endpoint: address of the store, for example ``https://s3.example.org``.
        name: of the bucket.
        region: as the store calls it; most stores of one's own take any.
        key: access key.
        secret: secret key.
        token: session token of temporary keys.
        tries: how often to ask where that may help.
    """

    def __init__(
        self,
        endpoint: str,
        name: str,
        region: str,
        key: str,
        secret: str,
        token: Optional[str] = None,
        tries: int = TRIES,
    ) -> None:
        parts = urllib.parse.urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("the endpoint %r is no address such as https://s3.example.org" % endpoint)
        self.name, self._region, self._tries = name, region, tries
        self._key, self._secret, self._token = key, secret, token
        self._tls = parts.scheme == "https"
        self._host, self._port = parts.hostname, parts.port
        self._shown = parts.netloc.rpartition("@")[2]
        self._base = parts.path.rstrip("/") + "/" + urllib.parse.quote(name, safe=_UNRESERVED)
        proxy = urllib.request.getproxies().get(parts.scheme)
        self._proxy = urllib.parse.urlsplit(proxy) if proxy and not urllib.request.proxy_bypass(self._shown) else None
        self._local = threading.local()

    # -- what one does with it

    def get(self, key: str) -> Optional[bytes]:
        """Return what an object holds, or None where there is none."""
        status, _, body = self._request("GET", key, missing=True)
        return None if status == 404 else body

    def size(self, key: str) -> Optional[int]:
        """Return the size of an object in bytes, or None where there is none."""
        status, headers, _ = self._request("HEAD", key, missing=True)
        return None if status == 404 else int(headers.get("content-length") or 0)

    def put(self, key: str, data: bytes) -> None:
        """Write an object: it is the old one or the whole new one at any moment."""
        self._request("PUT", key, body=data)

    def create(self, key: str, data: bytes) -> bool:
        """Write an object if there is none of that name; return whether it is this one that is there now.

        A store that does not know conditional writes is asked beforehand, which leaves a moment in which two may win.
        """
        try:
            self._request("PUT", key, body=data, headers={"if-none-match": "*"})
            return True
        except S3Error as error:
            if error.status == 412:
                # An answer that was lost on the way makes a second try meet its own first.
                return self.get(key) == data
            if error.status != 501:
                raise
        if self.size(key) is not None:
            return self.get(key) == data
        self.put(key, data)
        return True

    def upload(self, key: str, path: str) -> int:
        """Write a file as an object, in parts where it is large; return how many bytes that were."""
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size <= PART:
                data = file.read()
                self.put(key, data)
                return len(data)
            return self._upload_parts(key, file, max(PART, -(-size // MOST_PARTS)))

    def _upload_parts(self, key: str, file: Any, part: int) -> int:
        _, _, answer = self._request("POST", key, {"uploads": ""})
        upload = _text(_parse(answer), "UploadId")
        try:
            total = 0
            tags: List[str] = []
            while True:
                data = file.read(part)
                if not data and tags:
                    break
                query = {"partNumber": str(len(tags) + 1), "uploadId": upload}
                _, headers, _ = self._request("PUT", key, query, body=data)
                tags.append(headers.get("etag", ""))
                total += len(data)
            root = ElementTree.Element("CompleteMultipartUpload")
            for number, tag in enumerate(tags, 1):
                made = ElementTree.SubElement(root, "Part")
                ElementTree.SubElement(made, "PartNumber").text = str(number)
                ElementTree.SubElement(made, "ETag").text = tag
            _, _, answer = self._request("POST", key, {"uploadId": upload}, body=ElementTree.tostring(root))
            # A store may begin its answer with 200 and then fail.
            if answer and _name(_parse(answer)) == "Error":
                raise S3Error(200, _text(_parse(answer), "Code"), _text(_parse(answer), "Message"))
            return total
        except BaseException:
            try:
                self._request("DELETE", key, {"uploadId": upload}, missing=True)
            except OSError:
                pass  # the store's own rules clear away what is left of it
            raise

    def download(self, key: str, path: str, size: Optional[int] = None) -> None:
        """Bring an object into a file, which is whole or not there.

        Args:
            key: the object.
            path: the file; its folder is made.
            size: what it has to be in bytes.

        Raises:
            S3Error: there is no such object, or it has another size.
        """
        os.makedirs(os.path.dirname(path), exist_ok=True)
        making = "%s.%d.%d.part" % (path, os.getpid(), threading.get_ident())
        try:
            with open(making, "wb") as file:
                self._stream(key, file)
                got = file.tell()
            if size is not None and got != size:
                raise S3Error(0, "Changed", "%s has %d bytes and should have %d" % (key, got, size))
            os.replace(making, path)
        except BaseException:
            try:
                os.unlink(making)
            except OSError:
                pass
            raise

    def _stream(self, key: str, file: Any) -> None:
        tag = ""
        for attempt in range(TRIES):
            headers = {"range": "bytes=%d-" % file.tell(), "if-match": tag} if file.tell() and tag else {}
            if not headers:
                file.seek(0)
                file.truncate()
            try:
                _, said, whole = self._request("GET", key, headers=headers, into=file)
                tag = said.get("etag", "")
                if whole is not None:
                    return
            except S3Error as error:
                if error.status not in (0, 412, 416) or attempt == TRIES - 1:
                    raise
                tag = "" if error.status else tag
            _pause(attempt)
        raise S3Error(0, "", "%s broke off %d times" % (key, TRIES))

    def delete(self, key: str) -> None:
        """Remove an object; none there is fine."""
        self._request("DELETE", key, missing=True)

    def list(self, prefix: str) -> Iterator[Tuple[str, int]]:
        """Yield key and size of every object whose key begins so."""
        token = None  # type: Optional[str]
        while True:
            query = {"list-type": "2", "prefix": prefix, "encoding-type": "url"}
            if token:
                query["continuation-token"] = token
            _, _, body = self._request("GET", "", query)
            root = _parse(body)
            coded = _text(root, "EncodingType") == "url"
            for entry in root:
                if _name(entry) == "Contents":
                    key = _text(entry, "Key")
                    yield (urllib.parse.unquote_plus(key) if coded else key), int(_text(entry, "Size") or 0)
            token = _text(root, "NextContinuationToken")
            if _text(root, "IsTruncated") != "true" or not token:
                return

    # -- requests

    def _request(
        self,
        method: str,
        key: str,
        query: Optional[Dict[str, str]] = None,
        body: bytes = b"",
        headers: Optional[Dict[str, str]] = None,
        missing: bool = False,
        into: Any = None,
    ) -> Tuple[int, Dict[str, str], Any]:
        """Ask, again where that may help; return status, headers and body.

        With ``into`` the body goes into that file, and None in its place says that it broke off.
        """
        for attempt in range(self._tries):
            wait = None  # type: Optional[float]
            try:
                status, said, data = self._once(method, key, query or {}, body, headers or {}, into)
            except (OSError, http.client.HTTPException) as error:
                self._drop()
                if isinstance(error, ssl.SSLCertVerificationError) or attempt == self._tries - 1:
                    raise S3Error(0, "", "%s cannot be reached: %s" % (self._shown, error)) from None
            else:
                if status < 300 or (missing and status == 404):
                    return status, said, data
                failed = _error(status, data)
                if status not in _AGAIN or attempt == self._tries - 1:
                    raise failed
                try:
                    wait = min(30.0, float(said.get("retry-after", "")))
                except ValueError:
                    pass
            _pause(attempt, wait)
        raise AssertionError

    def _once(
        self, method: str, key: str, query: Dict[str, str], body: bytes, headers: Dict[str, str], into: Any
    ) -> Tuple[int, Dict[str, str], Any]:
        path = self._base + ("/" + urllib.parse.quote(key.encode("utf-8"), safe="/" + _UNRESERVED) if key else "")
        signed = self._sign(method, path, query, body, headers)
        target = path + ("?" + _query(query) if query else "")
        connection = self._connect()
        if self._proxy is not None and not self._tls:
            target = "http://%s%s" % (self._shown, target)
        connection.request(method, target, body=body if body or method in ("PUT", "POST") else None, headers=signed)
        answer = connection.getresponse()
        said = {name.lower(): text for name, text in answer.getheaders()}
        if into is None or answer.status >= 300:
            data = answer.read()
        else:
            data = b""
            if answer.status != 206:
                into.seek(0)
                into.truncate()
            if not _copy(answer, into):
                self._drop()
                return 0, said, None
        if answer.will_close:
            self._drop()
        return answer.status, said, data

    def _connect(self) -> http.client.HTTPConnection:
        held = getattr(self._local, "connection", None)
        if held is not None:
            return held  # type: ignore[no-any-return]
        via = self._proxy
        host, port = (via.hostname or "", via.port or 80) if via is not None else (self._host, self._port)
        made = None  # type: Any
        if self._tls:
            made = http.client.HTTPSConnection(host, port, timeout=TIMEOUT, context=ssl.create_default_context())
            if via is not None:
                made.set_tunnel(self._host, self._port or 443)
        else:
            made = http.client.HTTPConnection(host, port, timeout=TIMEOUT)
        self._local.connection = made
        return made  # type: ignore[no-any-return]

    def _drop(self) -> None:
        held = getattr(self._local, "connection", None)
        if held is not None:
            held.close()
            self._local.connection = None

    def _sign(
        self, method: str, path: str, query: Dict[str, str], body: bytes, headers: Dict[str, str]
    ) -> Dict[str, str]:
        """Return the headers with the signature: AWS Signature Version 4."""
        moment = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
        day = moment[:8]
        content = hashlib.sha256(body).hexdigest() if body else _EMPTY
        sent = dict(headers, host=self._shown)
        sent["x-amz-date"], sent["x-amz-content-sha256"] = moment, content
        if self._token:
            sent["x-amz-security-token"] = self._token
        names = ";".join(sorted(sent))
        lines = "".join("%s:%s\n" % (name, sent[name].strip()) for name in sorted(sent))
        request = "\n".join([method, path, _query(query), lines, names, content])
        scope = "%s/%s/s3/aws4_request" % (day, self._region)
        text = "AWS4-HMAC-SHA256\n%s\n%s\n%s" % (moment, scope, hashlib.sha256(request.encode()).hexdigest())
        key = ("AWS4" + self._secret).encode()
        for part in (day, self._region, "s3", "aws4_request"):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
        sent["authorization"] = "AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, Signature=%s" % (
            self._key, scope, names, signature,
        )  # fmt: skip
        return sent


def _copy(answer: http.client.HTTPResponse, into: Any) -> bool:
    """Read a body into a file; return whether all of it came."""
    while True:
        try:
            block = answer.read(_CHUNK)
        except (OSError, http.client.HTTPException):
            return False
        if not block:
            # A connection that closes early ends the stream without a word.
            return not answer.length
        into.write(block)


def _query(query: Dict[str, str]) -> str:
    quoted = [
        (urllib.parse.quote(name, safe=_UNRESERVED), urllib.parse.quote(text, safe=_UNRESERVED))
        for name, text in query.items()
    ]
    return "&".join("%s=%s" % pair for pair in sorted(quoted))


def _pause(attempt: int, wait: Optional[float] = None) -> None:
    time.sleep(wait if wait is not None else min(20.0, 0.25 * 2**attempt) * random.uniform(0.5, 1.0))


def _error(status: int, data: Optional[bytes]) -> S3Error:
    try:
        root = _parse(data or b"")
        return S3Error(status, _text(root, "Code"), _text(root, "Message"))
    except ElementTree.ParseError:
        word = http.client.responses.get(status, "")
        return S3Error(status, "NoSuchKey" if status == 404 else word.replace(" ", ""), "HTTP status %d" % status)


def _parse(data: bytes) -> ElementTree.Element:
    return ElementTree.fromstring(data)


def _name(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _text(element: ElementTree.Element, name: str) -> str:
    for child in element:
        if _name(child) == name:
            return child.text or ""
    return ""
