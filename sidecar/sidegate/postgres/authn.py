"""Who the client is: a token as password, or OAUTHBEARER (RFC 7628). The asyncio shell around `sidegate.identity`.

A token crosses only TLS; plain text only on loopback or a Unix socket, and only when the target's manifest says so. What is
wrong with a token is said, the token itself never.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sidegate.identity.claims import principal_from_token
from sidegate.identity.discovery import discovery_url
from sidegate.identity.problem import IdentityProblem
from sidegate.identity.token import TokenVerifier
from sidegate.policy.config import ClientAuth, IdentityConfig, IssuerConfig
from sidegate.policy.principal import Principal
from sidegate.postgres.duplex import Duplex
from sidegate.postgres.frames import HEADER_BYTES, frame_length
from sidegate.postgres.messages import AUTHENTICATION_CLEARTEXT, ClientProtocolError, frame

MAX_TOKEN_MESSAGE_BYTES: Final = 70_000  # PostgreSQL's own bound on a token is 65,535 (PG_MAX_AUTH_TOKEN_LENGTH)
OAUTHBEARER: Final = b"OAUTHBEARER"


class _TooLargeError(Exception):
    """A token that nobody would verify."""


@dataclass(frozen=True, slots=True)
class AuthenticationProblem:
    """Why the client isn't let in, and how it would be."""

    message: str
    way_forward: str


async def authenticate(
    side: Duplex, identity: IdentityConfig, verifier: TokenVerifier, source_address: str, clock: Callable[[], float]
) -> Principal | AuthenticationProblem:
    """Ask for the token and verify it.

    Raises:
        ConnectionLostError: the client left.
        ClientProtocolError: it sent no such message.
    """
    try:
        if identity.client_auth is ClientAuth.OAUTH_BEARER:
            token = await _oauth_bearer(side, identity.issuers)
        else:
            token = await _token_password(side)
    except _TooLargeError:
        return AuthenticationProblem(
            f"the token's message is over {MAX_TOKEN_MESSAGE_BYTES} bytes", "ask the issuer for a token with fewer claims"
        )
    except ValueError as error:
        raise ClientProtocolError(f"authentication: {error}") from error
    if isinstance(token, AuthenticationProblem):
        return token
    verified = await verifier.verify(token, clock())  # now that it is here: the client took its time to send it
    if isinstance(verified, IdentityProblem):
        return AuthenticationProblem(verified.message, verified.way_forward)
    principal = principal_from_token(verified, identity, source_address)
    if isinstance(principal, IdentityProblem):
        return AuthenticationProblem(principal.message, principal.way_forward)
    return principal


async def _token_password(side: Duplex) -> str | AuthenticationProblem:
    side.write(AUTHENTICATION_CLEARTEXT)
    body = await _read_password_message(side)
    if not body.endswith(b"\0") or b"\0" in body[:-1]:
        raise ValueError("password message doesn't end where its password does")
    if len(body) == 1:
        return AuthenticationProblem("the password is empty", "give an OIDC token as password: PGPASSWORD=$(sidegate token ...)")
    return body[:-1].decode("ascii", "replace")


async def _read_password_message(side: Duplex) -> bytes:
    header = await side.read(HEADER_BYTES)
    length = frame_length(header, 0)
    if header[0] != ord("p"):
        raise ValueError(f"message type {header[0]} where a password is due")
    if length < HEADER_BYTES:
        raise ValueError("invalid message length")
    if length > MAX_TOKEN_MESSAGE_BYTES:
        raise _TooLargeError
    return await side.read(length - HEADER_BYTES)


async def _oauth_bearer(side: Duplex, issuers: tuple[IssuerConfig, ...]) -> str | AuthenticationProblem:
    side.write(frame(b"R", b"\0\0\0\x0a" + OAUTHBEARER + b"\0\0"))
    body = await _read_password_message(side)
    mechanism, _, rest = body.partition(b"\0")
    if mechanism != OAUTHBEARER:
        return AuthenticationProblem(
            "the client chose another SASL mechanism than OAUTHBEARER", "use PostgreSQL 18's libpq or later"
        )
    if len(rest) < 4 or int.from_bytes(rest[:4], "big") != len(rest) - 4:
        raise ValueError("initial response of another length than it says")
    token = parse_initial_response(rest[4:])
    if isinstance(token, AuthenticationProblem) or token:
        return token
    # No token yet: say where to get one. The client answers with a single 0x01 and connects again (RFC 7628, 3.2.3).
    issuer = issuers[0] if issuers else None
    document = {
        "status": "invalid_token",
        "openid-configuration": discovery_url(issuer.url) if issuer is not None else "",
        "scope": issuer.scope if issuer is not None else "",
    }
    side.write(frame(b"R", b"\0\0\0\x0b" + json.dumps(document).encode()))
    await _read_password_message(side)
    return AuthenticationProblem("no token was sent", "the client gets one from the issuer and connects again")


def parse_initial_response(data: bytes) -> str | AuthenticationProblem:
    """The bearer token of `n,,\\x01auth=Bearer TOKEN\\x01\\x01` (RFC 7628, 3.1); empty when the client has none yet.

    Raises:
        ValueError: malformed.
    """
    header, separator, rest = data.partition(b"\x01")
    if not separator or not rest.endswith(b"\x01"):
        raise ValueError("OAUTHBEARER message isn't framed by 0x01")
    flag, _, authzid = header.partition(b",")
    if flag.startswith(b"p") or flag not in (b"n", b"y"):
        return AuthenticationProblem("OAUTHBEARER has no channel binding", "set channel_binding=disable")
    if authzid != b",":
        return AuthenticationProblem("an authorization identity isn't let through", "leave authzid empty")
    auth: bytes | None = None
    for pair in rest[:-1].split(b"\x01")[:-1] if rest != b"\x01" else []:
        key, equals, value = pair.partition(b"=")
        if not equals or auth is not None or key != b"auth":
            raise ValueError("OAUTHBEARER message has other keys than auth")
        auth = value
    if auth is None:
        raise ValueError("OAUTHBEARER message without auth")
    if not auth:
        return ""
    scheme, _, token = auth.partition(b" ")
    if scheme.lower() != b"bearer" or not token.strip():
        return AuthenticationProblem("the auth key isn't a Bearer token", "send `Bearer` and the token")
    return token.strip().decode("ascii", "replace")
