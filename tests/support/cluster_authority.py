"""A certificate authority for a cluster of the tests: certificates for the API server, for webhooks, and for users with groups.

Kubernetes reads a user's name from the certificate's common name and each group from an organization, which trustme can't write. Valid for a
day, from an hour ago, so that clocks that differ by a little don't matter.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_LONGEST_COMMON_NAME: Final = 64  # RFC 5280, ub-common-name
_HOUR: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its private key as PEM."""

    certificate: bytes
    key: bytes


@dataclass(frozen=True, slots=True)
class Authority:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def create(cls, name: str) -> Self:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usage = x509.KeyUsage(
            digital_signature=True,
            key_cert_sign=True,
            crl_sign=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        unsigned = _unsigned(subject, subject, key).add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        return cls(unsigned.add_extension(usage, critical=True).sign(key, hashes.SHA256()), key)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def issue_for_host(self, *names: str) -> KeyPair:
        """For a listener that is reached by these DNS names and IP addresses."""
        return self._issue([x509.NameAttribute(NameOID.COMMON_NAME, names[0])], ExtendedKeyUsageOID.SERVER_AUTH, names)

    def issue_for_user(self, user: str, groups: Sequence[str] = ()) -> KeyPair:
        """For a client that Kubernetes knows as `user`, a member of `groups`.

        Raises:
            ValueError: the name is too long for a certificate.
        """
        if len(user) > _LONGEST_COMMON_NAME:
            raise ValueError(f"the name `{user}` is longer than a certificate holds: {_LONGEST_COMMON_NAME} characters")
        organizations = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
        return self._issue([*organizations, x509.NameAttribute(NameOID.COMMON_NAME, user)], ExtendedKeyUsageOID.CLIENT_AUTH, ())

    def _issue(self, subject: Sequence[x509.NameAttribute[str]], purpose: x509.ObjectIdentifier, names: Sequence[str]) -> KeyPair:
        key = ec.generate_private_key(ec.SECP256R1())
        unsigned = _unsigned(x509.Name(subject), self.certificate.subject, key)
        unsigned = unsigned.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        if names:
            unsigned = unsigned.add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
        signed = unsigned.sign(self.key, hashes.SHA256())
        return KeyPair(signed.public_bytes(Encoding.PEM), private_pem(key))


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _unsigned(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)  # noqa: TID251 - the machine's clock is what the programs under test read
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _HOUR)
        .not_valid_after(now + 24 * _HOUR)
    )


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
