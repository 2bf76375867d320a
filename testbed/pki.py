"""A certificate authority of an instance's own, and the certificates it issues."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

__all__ = ["Authority", "Pair", "signing_key", "write"]

_LIFE = datetime.timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, both PEM."""

    certificate: bytes
    key: bytes

    def save(self, stem: Path) -> None:
        """Write ``STEM.crt`` and ``STEM.key``."""
        write(stem.with_suffix(".crt"), self.certificate)
        write(stem.with_suffix(".key"), self.key)


class Authority:
    """Signs certificates of servers and of users: a user's name is the subject, their groups are its organizations."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._key = key
        self._certificate = certificate

    @classmethod
    def new(cls) -> Authority:
        """Make one."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "shoal-testbed")])
        builder = _builder(name, name, key.public_key()).add_extension(x509.BasicConstraints(True, None), critical=True)
        usage = x509.KeyUsage(
            digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False, key_encipherment=False,
            data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        builder = builder.add_extension(usage, critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        return cls(key, builder.sign(key, hashes.SHA256()))

    @classmethod
    def load(cls, stem: Path) -> Authority:
        """Read ``STEM.crt`` and ``STEM.key``."""
        key = serialization.load_pem_private_key(stem.with_suffix(".key").read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return cls(key, x509.load_pem_x509_certificate(stem.with_suffix(".crt").read_bytes()))

    @property
    def pair(self) -> Pair:
        """Its own certificate and key."""
        return Pair(self._certificate.public_bytes(serialization.Encoding.PEM), _pem(self._key))

    def issue(
        self,
        name: str,
        groups: Sequence[str] = (),
        hosts: Sequence[str] = (),
        life: datetime.timedelta = _LIFE,
    ) -> Pair:
        """Issue a certificate.

        Args:
            name: the common name; to Kubernetes the user's name.
            groups: the organizations; to Kubernetes the user's groups.
            hosts: names and addresses, for a server.
            life: how long it is valid; negative makes one that has expired.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
        subject = x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _builder(subject, self._certificate.subject, key.public_key(), life)
        uses = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if hosts else [])]
        builder = builder.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
        )
        if hosts:
            names = x509.SubjectAlternativeName([_host(host) for host in hosts])
            builder = builder.add_extension(names, critical=False)
        made = builder.sign(self._key, hashes.SHA256())
        return Pair(made.public_bytes(serialization.Encoding.PEM), _pem(key))


def signing_key() -> bytes:
    """A private key (PEM) to sign service accounts' tokens with."""
    return _pem(rsa.generate_private_key(public_exponent=65537, key_size=2048))


def write(path: Path, data: bytes) -> None:
    """Write a file that only its owner can read."""
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_bytes(data)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, life: datetime.timedelta = _LIFE
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    since = min(now, now + life) - datetime.timedelta(hours=1)
    builder = x509.CertificateBuilder(issuer, subject, key, x509.random_serial_number())
    return builder.not_valid_before(since).not_valid_after(now + life)


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
