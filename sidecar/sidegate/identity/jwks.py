"""The public keys of an issuer, read from a JWK Set (RFC 7517, RFC 7518, RFC 8037).

Rules it keeps: an algorithm belongs to one type of key and curve, so a key can never be used as something else (an RSA key as an HMAC
secret); symmetric algorithms and `none` don't exist here. A key that is for encryption, for another operation or algorithm, weak, private
or unreadable is left out, alone: one odd key must not lock everybody out, and a left-out key verifies nothing. Pure. Left out: fetching
and caching (`keys`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias, cast

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import Algorithm, ECAlgorithm, OKPAlgorithm, RSAAlgorithm, get_default_algorithms
from jwt.exceptions import PyJWTError

from sidegate.identity.compact import parse_strict_json
from sidegate.policy.principal import Json

PublicKey: TypeAlias = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey

MAX_KEYS: Final = 64
MIN_RSA_BITS: Final = 2048  # RFC 7518, section 3.3
MAX_RSA_BITS: Final = 8192  # a huge modulus makes each verification a burden
_PRIVATE_MEMBERS: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


class KeyShape(NamedTuple):
    """The type of key and the curve (RFC 7518 section 6, RFC 8037 section 2) that an algorithm needs."""

    key_type: str
    curve: str | None


KEY_SHAPES: Final[dict[str, KeyShape]] = {
    "RS256": KeyShape("RSA", None),
    "RS384": KeyShape("RSA", None),
    "RS512": KeyShape("RSA", None),
    "PS256": KeyShape("RSA", None),
    "PS384": KeyShape("RSA", None),
    "PS512": KeyShape("RSA", None),
    "ES256": KeyShape("EC", "P-256"),
    "ES384": KeyShape("EC", "P-384"),
    "ES512": KeyShape("EC", "P-521"),
    "EdDSA": KeyShape("OKP", "Ed25519"),
}
_ALGORITHMS: Final[dict[str, Algorithm]] = {
    name: algorithm for name, algorithm in get_default_algorithms().items() if name in KEY_SHAPES
}


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """One public key. `algorithm` None: any that fits its shape."""

    key_id: str | None
    shape: KeyShape
    algorithm: str | None
    public: PublicKey

    def fits(self, algorithm: str) -> bool:
        return KEY_SHAPES.get(algorithm) == self.shape and self.algorithm in (None, algorithm)

    def verifies(self, algorithm: str, signed: bytes, signature: bytes) -> bool:
        """Whether `signature` is this key's over `signed`. False for anything that doesn't fit, never an exception."""
        if not self.fits(algorithm):
            return False
        try:
            return bool(_ALGORITHMS[algorithm].verify(signed, self.public, signature))
        except (PyJWTError, ValueError, TypeError):
            return False


class KeySetError(Exception):
    """The document isn't a JWK Set, or has no key that could verify a token."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.way_forward = (
            "have the issuer publish a JWK Set with at least one RSA (2048 bits or more), EC or Ed25519 signing key"
        )


@dataclass(frozen=True, slots=True)
class KeySet:
    """The usable keys of one JWK Set."""

    keys: tuple[VerificationKey, ...]

    def candidates(self, key_id: str | None, algorithm: str) -> tuple[VerificationKey, ...]:
        """Keys that may have signed: those with the token's key id, or, for a token without one, the only key that fits.

        OpenID Connect Core, section 10.1: with several keys in the set the token must name one. Guessing is not offered.
        """
        fitting = tuple(key for key in self.keys if key.fits(algorithm))
        if key_id is None:
            return fitting if len(fitting) == 1 else ()
        return tuple(key for key in fitting if key.key_id == key_id)


def parse_jwks(document: bytes) -> KeySet:
    """The usable keys of a JWK Set in JSON.

    Raises:
        KeySetError: not a JWK Set, too many keys, or none that is usable.
    """
    try:
        value = parse_strict_json(document)
    except ValueError as error:
        raise KeySetError(f"the JWK Set can't be read: {error}") from None
    entries = value.get("keys") if isinstance(value, dict) else None
    if not isinstance(entries, list):
        raise KeySetError("the JWK Set has no list `keys`")
    if len(entries) > MAX_KEYS:
        raise KeySetError(f"the JWK Set has {len(entries)} keys, the limit is {MAX_KEYS}")
    keys = tuple(key for entry in entries if isinstance(entry, dict) and (key := _parse_key(entry)) is not None)
    if not keys:
        raise KeySetError("the JWK Set has no key that could verify a token")
    return KeySet(keys)


def _parse_key(entry: dict[str, Json]) -> VerificationKey | None:
    key_id, algorithm = entry.get("kid"), entry.get("alg")
    if not (key_id is None or isinstance(key_id, str)) or not _is_for_verifying(entry) or _PRIVATE_MEMBERS & entry.keys():
        return None
    if algorithm is not None and (not isinstance(algorithm, str) or algorithm not in KEY_SHAPES):
        return None
    read = _read_public(entry)
    if read is None:
        return None
    shape, public = read
    if algorithm is not None and KEY_SHAPES[algorithm] != shape:
        return None
    return VerificationKey(key_id, shape, algorithm, public)


def _is_for_verifying(entry: dict[str, Json]) -> bool:
    operations = entry.get("key_ops", ["verify"])
    return entry.get("use", "sig") == "sig" and isinstance(operations, list) and "verify" in operations


def _read_public(entry: dict[str, Json]) -> tuple[KeyShape, PublicKey] | None:
    try:
        match entry.get("kty"):
            case "RSA":
                rsa = cast(RSAPublicKey, RSAAlgorithm.from_jwk(entry))
                usable = MIN_RSA_BITS <= rsa.key_size <= MAX_RSA_BITS and rsa.public_numbers().e >= 3
                return (KeyShape("RSA", None), rsa) if usable else None
            case "EC":
                shape = KeyShape("EC", str(entry.get("crv")))
                if shape not in KEY_SHAPES.values():
                    return None
                return shape, cast(EllipticCurvePublicKey, ECAlgorithm.from_jwk(entry))
            case "OKP" if entry.get("crv") == "Ed25519":
                return KeyShape("OKP", "Ed25519"), cast(Ed25519PublicKey, OKPAlgorithm.from_jwk(entry))
    except (PyJWTError, ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return None
    return None
