"""A signed token taken apart strictly, before anything in it is believed (RFC 7515 section 7.1, RFC 7519, RFC 8725).

Rules it keeps: exactly three base64url parts without padding, spaces or stray bits; JSON objects in UTF-8 without duplicate names, NaN or
half a surrogate pair, so that no two readers can see different claims; encrypted and nested tokens are refused; every header that brings
a key of its own or changes what is signed is refused. Pure. Left out: the signature (`token`), the claims' meaning (`token`, `claims`).
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass
from typing import Final

from sidegate.identity.problem import IdentityCause, IdentityProblem, quoted
from sidegate.policy.principal import Json

MAX_TOKEN_BYTES: Final = 32 * 1024  # Entra ID puts up to 200 groups in; beyond, the groups belong behind a filter at the issuer
MAX_KEY_ID: Final = 256
MAX_DEPTH: Final = 32  # of lists and objects in each other; readers differ in where they give up

_COMPACT: Final = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]*)", re.ASCII)
_ENCRYPTED: Final = re.compile(r"[A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]*){4}", re.ASCII)

# Types of token that may open a session. Others are signed by the same keys for other uses: a logout token, a security event, a
# proof of possession (RFC 8725, section 3.11: explicit typing).
_TYPES: Final = frozenset({"jwt", "at+jwt", "application/at+jwt"})

REFUSED_HEADERS: Final[dict[str, str]] = {
    "crit": "it makes extensions mandatory that the gate doesn't know",
    "b64": "it changes what is signed",
    "jwk": "it brings its own key",
    "jku": "it names where to fetch its own key",
    "x5u": "it names where to fetch its own certificate",
    "x5c": "it brings its own certificate",
    "enc": "the token is encrypted",
    "zip": "the token is compressed",
    "cty": "a token inside a token isn't read",
}

_NEW_TOKEN: Final = "get a new token from your issuer and send it whole, as the password"  # noqa: S105 - advice


class StrictJsonError(ValueError):
    """Not the JSON that every reader would read alike. The message holds nothing of the content."""

    way_forward = "have the sender write plain JSON: unique names, finite numbers, valid UTF-8"


@dataclass(frozen=True, slots=True)
class CompactToken:
    """The parts of a token, unverified. `signed` is what the signature covers."""

    algorithm: str
    key_id: str | None
    claims: dict[str, Json]
    signed: bytes
    signature: bytes


def parse_compact(token: str) -> CompactToken | IdentityProblem:
    """The token's parts, or why it can't be one."""
    if len(token) > MAX_TOKEN_BYTES:
        return IdentityProblem(
            IdentityCause.TOO_LARGE,
            f"token has {len(token)} characters, the limit is {MAX_TOKEN_BYTES}",
            "have the issuer put fewer claims in, for example only the groups that policies name",
        )
    parts = _COMPACT.fullmatch(token)
    if parts is None:
        return _malformed_shape(token)
    try:
        header = parse_strict_json(_decode_base64url(parts[1]))
        claims = parse_strict_json(_decode_base64url(parts[2]))
        signature = _decode_base64url(parts[3])
    except ValueError as error:
        return IdentityProblem(IdentityCause.MALFORMED, f"token can't be read: {error}", _NEW_TOKEN)
    if not isinstance(header, dict) or not isinstance(claims, dict):
        return IdentityProblem(
            IdentityCause.MALFORMED, "token can't be read: its header and claims must be JSON objects", _NEW_TOKEN
        )
    problem = _header_problem(header)
    if problem is not None:
        return problem
    algorithm, key_id = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str):
        return IdentityProblem(IdentityCause.ALGORITHM_REFUSED, "token names no signing algorithm", _NEW_TOKEN)
    if key_id is not None and (not isinstance(key_id, str) or not 0 < len(key_id) <= MAX_KEY_ID):
        return IdentityProblem(
            IdentityCause.HEADER_REFUSED, f"token header `kid` must be a string of at most {MAX_KEY_ID} characters", _NEW_TOKEN
        )
    return CompactToken(algorithm, key_id, claims, f"{parts[1]}.{parts[2]}".encode("ascii"), signature)


def parse_strict_json(data: bytes) -> Json:
    """The one value that every JSON reader agrees on.

    Raises:
        StrictJsonError: not UTF-8, not JSON, a name twice in one object, a number that isn't finite, half a surrogate pair, or too deep.
    """
    try:
        value: Json = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant)
        # Escapes can spell code points that are no characters; the encoder finds them, and infinities that a large exponent made.
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8")
        if not _is_shallow(value):
            raise StrictJsonError("nested too deep")
    except StrictJsonError:
        raise
    except UnicodeError:
        raise StrictJsonError("text that isn't valid Unicode") from None
    except RecursionError:
        raise StrictJsonError("nested too deep") from None
    except ValueError:
        raise StrictJsonError("not valid JSON") from None
    return value


def _header_problem(header: dict[str, Json]) -> IdentityProblem | None:
    for name, why in REFUSED_HEADERS.items():
        if name in header:
            return IdentityProblem(IdentityCause.HEADER_REFUSED, f"token header `{name}` is refused: {why}", _NEW_TOKEN)
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower() not in _TYPES:
        return IdentityProblem(
            IdentityCause.HEADER_REFUSED,
            f"token type {quoted(kind)} is refused: only ID tokens and access tokens open a session",
            _NEW_TOKEN,
        )
    return None


def _malformed_shape(token: str) -> IdentityProblem:
    if _ENCRYPTED.fullmatch(token):
        return IdentityProblem(
            IdentityCause.MALFORMED, "token is encrypted, which the gate can't read", "have the issuer send signed tokens (JWS)"
        )
    if token.count(".") != 2:
        return IdentityProblem(
            IdentityCause.MALFORMED,
            "the password isn't a signed token: three parts with dots between are wanted",
            "send an OIDC token in JWT form as the password; an opaque access token can't be verified here",
        )
    return IdentityProblem(IdentityCause.MALFORMED, "token has characters that aren't base64url", _NEW_TOKEN)


def _decode_base64url(text: str) -> bytes:
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        raise ValueError("a part isn't base64url") from None
    # The last character can carry bits that the decoder drops: one token would have several spellings.
    if base64.urlsafe_b64encode(data).rstrip(b"=") != text.encode("ascii"):
        raise ValueError("a part isn't base64url in its one canonical form")
    return data


def _unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise StrictJsonError("a name twice in one JSON object")
    return result


def _is_shallow(value: Json) -> bool:
    """Level by level, without recursion of its own."""
    level: list[Json] = [value]
    for _ in range(MAX_DEPTH):
        containers = [each for each in level if isinstance(each, list | dict)]
        if not containers:
            return True
        level = [inner for each in containers for inner in (each.values() if isinstance(each, dict) else each)]
    return False


def _refuse_constant(name: str) -> Json:
    raise StrictJsonError("a number that isn't finite")
