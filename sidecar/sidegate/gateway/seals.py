"""Whether a seal holds: Ed25519 (RFC 8032) by one of the keys that admission publishes. What can't be read is no seal, and no key."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def is_sealed(content: bytes, signature: str | None, keys: Iterable[object]) -> bool:
    """`signature` and `keys` are base64; of the keys one must verify it."""
    try:
        sealed = base64.b64decode(signature or "", validate=True)
    except (binascii.Error, ValueError):
        return False
    return any(_verifies(key, sealed, content) for key in keys)


def _verifies(key: object, signature: bytes, content: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(base64.b64decode(str(key), validate=True)).verify(signature, content)
    except (InvalidSignature, binascii.Error, ValueError):
        return False
    return True
