"""A listener's certificates as values: what is held, which step comes next, what callers must trust meanwhile. Pure but for keys.

The rotation of the authority, so that at no moment a replica serves what a caller doesn't trust:
1. `STAGE`: the next authority is made and only trusted: bundle = current + next. All go on to serve the current one's certificate.
2. `NOTE_PUBLISHED`: every place that callers read is seen to have it; the time is written down.
3. `PROMOTE`: `settle_s` later, when every caller has read it, it signs a serving certificate. bundle = new + old.
4. `RETIRE`: `overlap_s` later, when every replica has read the new certificate, the old authority leaves the bundle.

Rules it keeps:
- `next_step` looks at what is held, at what is published and at `now`, and at nothing else: each replica comes to the same step, and the
  one whose write is first wins (the Secret's resourceVersion).
- An authority may sign for the listener's names only (name constraints), and nothing below it may sign (path length 0): who steals its
  key can't be another service.
- What can't be read as a whole is as if it weren't there: it is made anew.

Left out: reading and writing the Secret, and publishing (`keeper`).
"""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY_S: Final = 86_400.0
_TRIFLE_S: Final = 1.0  # certificates count whole seconds
_BACKDATED: Final = timedelta(hours=1)  # clocks of callers may be behind


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """In seconds. `*_renewed_before`: how long before its end the next one is made."""

    authority_s: float = 365 * DAY_S
    authority_renewed_before_s: float = 60 * DAY_S
    serving_s: float = 30 * DAY_S
    serving_renewed_before_s: float = 10 * DAY_S
    settle_s: float = 60.0
    overlap_s: float = 600.0


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its private key, as PEM."""

    certificate: bytes
    key: bytes

    @property
    def not_after(self) -> float:
        return x509.load_pem_x509_certificate(self.certificate).not_valid_after_utc.timestamp()


@dataclass(frozen=True, slots=True)
class Held:
    """What the Secret holds. INVARIANT: `serving` is signed by `authority`; times go with what they are about."""

    authority: KeyPair
    serving: KeyPair
    staged: KeyPair | None = None
    staged_published_at: float | None = None
    retiring: bytes | None = None
    promoted_at: float | None = None

    @property
    def bundle(self) -> bytes:
        """What callers must trust."""
        trusted = [self.authority.certificate, self.staged.certificate if self.staged else None, self.retiring]
        return b"".join(each.strip() + b"\n" for each in trusted if each is not None)


class Step(enum.Enum):
    NONE = enum.auto()
    CREATE = enum.auto()
    STAGE = enum.auto()
    NOTE_PUBLISHED = enum.auto()
    PROMOTE = enum.auto()
    RETIRE = enum.auto()
    REISSUE = enum.auto()


def next_step(held: Held | None, published: Sequence[bytes], names: Sequence[str], now: float, lifetimes: Lifetimes) -> Step:
    """`published`: the bundle at every place that callers read. Without any, nothing counts as published."""
    if held is None or held.authority.not_after <= now:
        return Step.CREATE
    if held.staged is None:
        if held.retiring is None and held.authority.not_after - now < lifetimes.authority_renewed_before_s:
            return Step.STAGE
    elif is_trusted(held.staged.certificate, published):
        if held.staged_published_at is None:
            return Step.NOTE_PUBLISHED
        if now >= held.staged_published_at + lifetimes.settle_s:
            return Step.PROMOTE
    if held.retiring is not None and now >= (held.promoted_at or 0.0) + lifetimes.overlap_s:
        return Step.RETIRE
    if names_in(held.serving.certificate) != set(names) or _is_worth_reissuing(held, now, lifetimes):
        return Step.REISSUE
    return Step.NONE


def _is_worth_reissuing(held: Held, now: float, lifetimes: Lifetimes) -> bool:
    """Its end is near, and another one would last longer: none outlives the authority."""
    end, possible_end = held.serving.not_after, min(now + lifetimes.serving_s, held.authority.not_after)
    return end - now < lifetimes.serving_renewed_before_s and possible_end > end + _TRIFLE_S


def take_step(step: Step, held: Held | None, names: Sequence[str], now: float, lifetimes: Lifetimes) -> Held:
    """What is held after it. Makes keys, hence not the same twice."""
    if step is Step.CREATE or held is None:
        authority = new_authority(names, now, lifetimes)
        return Held(authority, new_serving(authority, names, now, lifetimes))
    if step is Step.STAGE:
        return replace(held, staged=new_authority(names, now, lifetimes), staged_published_at=None)
    if step is Step.NOTE_PUBLISHED:
        return replace(held, staged_published_at=now)
    if step is Step.PROMOTE and held.staged is not None:
        serving = new_serving(held.staged, names, now, lifetimes)
        return Held(held.staged, serving, retiring=held.authority.certificate, promoted_at=now)
    if step is Step.RETIRE:
        return replace(held, retiring=None, promoted_at=None)
    if step is Step.REISSUE:
        return _reissued(held, names, now, lifetimes)
    return held


def _reissued(held: Held, names: Sequence[str], now: float, lifetimes: Lifetimes) -> Held:
    """An authority is bound to its names: other names need another one, as at the start."""
    if names_in(held.authority.certificate) != set(names):
        return take_step(Step.CREATE, None, names, now, lifetimes)
    return replace(held, serving=new_serving(held.authority, names, now, lifetimes))


def is_trusted(authority: bytes, bundles: Sequence[bytes]) -> bool:
    """Whether each of the bundles, of which there must be some, has this certificate."""
    wanted = x509.load_pem_x509_certificate(authority).fingerprint(hashes.SHA256())
    return bool(bundles) and all(wanted in _fingerprints(bundle) for bundle in bundles)


def is_same_bundle(one: bytes, other: bytes) -> bool:
    return _fingerprints(one) == _fingerprints(other)


def _fingerprints(bundle: bytes) -> set[bytes]:
    """Of a bundle that can't be read: none."""
    try:
        return {each.fingerprint(hashes.SHA256()) for each in x509.load_pem_x509_certificates(bundle)}
    except ValueError:
        return set()


# The Secret's form

_PAIRS: Final = (("authority", "ca"), ("serving", "tls"), ("staged", "next-ca"))


def encode_held(held: Held) -> dict[str, bytes]:
    """The Secret's data, before base64; `tls.crt` and `tls.key` are as in a Secret of type kubernetes.io/tls."""
    data: dict[str, bytes] = {}
    for attribute, stem in _PAIRS:
        pair: KeyPair | None = getattr(held, attribute)
        if pair is not None:
            data |= {f"{stem}.crt": pair.certificate, f"{stem}.key": pair.key}
    optional = {
        "previous-ca.crt": held.retiring,
        "next-ca-published-at": _seconds(held.staged_published_at),
        "promoted-at": _seconds(held.promoted_at),
    }
    return data | {name: value for name, value in optional.items() if value is not None}


def decode_held(data: Mapping[str, bytes]) -> Held | None:
    """None when a part is missing, unreadable or doesn't belong to the others: then all of it is made anew."""
    try:
        authority, serving, staged = (_pair(data, stem) for _, stem in _PAIRS)
        if authority is None or serving is None:
            return None
        x509.load_pem_x509_certificate(serving.certificate).verify_directly_issued_by(
            x509.load_pem_x509_certificate(authority.certificate)
        )
        retiring = data.get("previous-ca.crt")
        if retiring is not None:
            x509.load_pem_x509_certificate(retiring)
        published_at, promoted_at = (_time(data.get(name)) for name in ("next-ca-published-at", "promoted-at"))
    except (ValueError, TypeError, InvalidSignature):
        return None
    return Held(authority, serving, staged, published_at, retiring, promoted_at)


def _pair(data: Mapping[str, bytes], stem: str) -> KeyPair | None:
    certificate, key = data.get(f"{stem}.crt"), data.get(f"{stem}.key")
    if certificate is None or key is None:
        return None
    if x509.load_pem_x509_certificate(certificate).public_key() != load_pem_private_key(key, None).public_key():
        raise ValueError("the key is another certificate's")
    return KeyPair(certificate, key)


def _seconds(value: float | None) -> bytes | None:
    return None if value is None else f"{value:.0f}".encode()


def _time(value: bytes | None) -> float | None:
    return None if value is None else float(int(value))


# Certificates


def new_authority(names: Sequence[str], now: float, lifetimes: Lifetimes) -> KeyPair:
    """A self-signed authority for certificates of these names alone."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sidegate-authority")])
    constrained = x509.NameConstraints([_subtree(name) for name in names], None)
    unsigned = (
        _unsigned(subject, subject, key, now, lifetimes.authority_s)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(key_cert_sign=True), critical=True)
        .add_extension(constrained, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return _pair_of(unsigned.sign(key, hashes.SHA256()), key)


def new_serving(authority: KeyPair, names: Sequence[str], now: float, lifetimes: Lifetimes) -> KeyPair:
    """A certificate for a listener that is reached by these DNS names and IP addresses; it doesn't outlive its authority."""
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    issuer_key = load_pem_private_key(authority.key, None)
    assert isinstance(issuer_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    # Nothing reads the common name, and a longer one than 64 characters isn't allowed (RFC 5280, ub-common-name).
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sidegate")])
    lifetime = min(lifetimes.serving_s, issuer.not_valid_after_utc.timestamp() - now)
    unsigned = (
        _unsigned(subject, issuer.subject, key, now, lifetime)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(key_cert_sign=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    return _pair_of(unsigned.sign(issuer_key, hashes.SHA256()), key)


def names_in(certificate: bytes) -> set[str]:
    """The names that a serving certificate is for, or those that an authority may sign for."""
    read = x509.load_pem_x509_certificate(certificate)
    try:
        general = list(read.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        try:
            general = list(read.extensions.get_extension_for_class(x509.NameConstraints).value.permitted_subtrees or [])
        except x509.ExtensionNotFound:
            return set()
    return {_name_text(each) for each in general}


def _name_text(name: x509.GeneralName) -> str:
    value = name.value
    if isinstance(value, ipaddress.IPv4Network | ipaddress.IPv6Network):
        return str(value.network_address)
    return str(value)


def _unsigned(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: float, lifetime_s: float
) -> x509.CertificateBuilder:
    moment = datetime.fromtimestamp(now, UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment - _BACKDATED)
        .not_valid_after(moment + timedelta(seconds=lifetime_s))
    )


def _key_usage(*, key_cert_sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=key_cert_sign,
        crl_sign=key_cert_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pair_of(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> KeyPair:
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return KeyPair(certificate.public_bytes(Encoding.PEM), private)


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _subtree(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_network(name))
    except ValueError:
        return x509.DNSName(name)
