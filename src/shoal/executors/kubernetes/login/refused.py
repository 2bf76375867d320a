"""What can be said of a login that a server refuses: when it expired, as far as it tells itself, and how to renew it."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime

from shoal.executors.kubernetes.login.model import Login, Plugin
from shoal.executors.kubernetes.login.plugin import Material, how_to_log_in

__all__ = ["expiry", "how_to_renew", "what_expired"]

_WORKS = "kubectl get pods has to work."
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.S)
_VERSION, _UTC_TIME = 0xA0, 0x17


def what_expired(used: Material, now: float) -> str | None:
    """Say that the token, or the client certificate, of a request had expired; None where that is not so, or not known.

    Args:
        used: what the request was made with.
        now: seconds since 1970.
    """
    name = "token" if used.token is not None else "client certificate"
    end = expiry(used)
    if end is None or end > now:
        return None
    return f"its {name} expired on {datetime.fromtimestamp(end, UTC):%Y-%m-%d at %H:%M} UTC"


def expiry(used: Material) -> float | None:
    """When credentials expire by their own word, in seconds since 1970; None for what does not say so."""
    if used.token is not None:
        return _token_end(used.token)
    return _certificate_end(used.certificate) if used.certificate is not None else None


def how_to_renew(login: Login, used: Material) -> str:
    """What a person does about a login that is refused; it depends on where the credentials are from."""
    who = login.credentials
    if who.token_file is not None:
        return f"A new token belongs into {who.token_file}, which is read anew for each request; {_WORKS}"
    if who.plugin is not None and who.token is None and who.username is None and who.certificate is None:
        return _renew_plugin(who.plugin)
    if used.token is not None:
        return f"Log in anew: a new token belongs into {login.source}; {_WORKS}"
    if used.certificate is not None:
        return f"Log in anew: get a new kubeconfig from your cluster's portal or admins, in place of {login.source}; {_WORKS}"
    return f"Log in anew; {_WORKS}"


def _renew_plugin(plugin: Plugin) -> str:
    return f"{how_to_log_in(plugin)} What it keeps may have to be removed first (kubectl oidc-login clean)."


def _token_end(token: str) -> float | None:
    """The ``exp`` of a JSON web token."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        body = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError):
        return None
    end = body.get("exp") if isinstance(body, dict) else None
    return float(end) if isinstance(end, int | float) and not isinstance(end, bool) and 0 <= end < 1 << 37 else None


def _certificate_end(pem: bytes) -> float | None:
    """The end of the validity of the first certificate (RFC 5280, 4.1), which the standard library does not read."""
    found = _PEM.search(pem)
    if found is None:
        return None
    try:
        _, certificate = next(_parts(base64.b64decode(found[1])))
        _, signed = next(_parts(certificate))
        fields = [part for part in _parts(signed) if part[0] != _VERSION]
        # Serial number, algorithm and issuer come before the two times of the validity.
        kind, end = list(_parts(fields[3][1]))[1]
        text = end.decode("ascii")
        if kind == _UTC_TIME:
            text = ("20" if int(text[:2]) < 50 else "19") + text
        return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except (binascii.Error, ValueError, LookupError, StopIteration):
        return None


def _parts(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and content of each part of a DER sequence.

    Raises:
        LookupError: it is cut off.
    """
    at = 0
    while at < len(data):
        tag, length = data[at], data[at + 1]
        at += 2
        if length & 0x80:
            size = length & 0x7F
            length = int.from_bytes(data[at : at + size], "big")
            at += size
        if at + length > len(data):
            raise LookupError("cut off")
        yield tag, data[at : at + length]
        at += length
