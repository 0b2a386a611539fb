"""A token becomes a `VerifiedToken`, or an `IdentityProblem` that says why not.

Rules it keeps: what is read before the signature is verified only chooses issuer and key; the algorithm must be allowed for the issuer and
be the key's own; the claims verified are those that were signed, parsed once; `exp` and `sub` are required; every time is compared
with the caller's `now`. Nothing here raises for what a client sent. PyJWT's algorithms verify; its clock and its claim checks are not used.
Left out: who the claims stand for (`claims`), how a client delivers the token (the gates).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sidegate.identity.compact import CompactToken, parse_compact
from sidegate.identity.jwks import KEY_SHAPES
from sidegate.identity.keys import KeySource
from sidegate.identity.problem import IdentityCause, IdentityProblem, quoted
from sidegate.policy.config import IdentityConfig, IssuerConfig
from sidegate.policy.principal import Json

_LATEST: Final = 253_402_300_799  # the end of the year 9999: later times are mistakes, and timers overflow on them
_MAX_SUBJECT: Final = 255  # OpenID Connect Core, section 2
_NEW_TOKEN: Final = "get a new token and connect again"  # noqa: S105 - advice


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """Claims that `issuer` signed for this gate and that were in force when they were verified."""

    issuer: IssuerConfig
    claims: Mapping[str, Json]
    expires_at: float

    def __repr__(self) -> str:
        """Without the claims: they are personal data and don't belong in logs by accident."""
        return f"VerifiedToken(issuer={self.issuer.url!r}, expires_at={self.expires_at})"


class TokenVerifier:
    """Verifies tokens of the configured issuers. Stateless but for the key source, which may be shared."""

    def __init__(self, config: IdentityConfig, keys: KeySource) -> None:
        self._config = config
        self._keys = keys

    async def verify(self, token: str, now: float) -> VerifiedToken | IdentityProblem:
        parsed = parse_compact(token)
        if isinstance(parsed, IdentityProblem):
            return parsed
        issuer = self._choose_issuer(parsed.claims)
        if isinstance(issuer, IdentityProblem):
            return issuer
        problem = _algorithm_problem(parsed.algorithm, issuer) or await self._signature_problem(parsed, issuer, now)
        return problem or self._verified(parsed.claims, issuer, now)

    def _choose_issuer(self, claims: Mapping[str, Json]) -> IssuerConfig | IdentityProblem:
        name = claims.get("iss")
        known = [issuer for issuer in self._config.issuers if issuer.url == name]
        if not known:
            return IdentityProblem(
                IdentityCause.UNKNOWN_ISSUER,
                f"token is from issuer {quoted(name)}, which this gate doesn't accept" if name else "token has no issuer (`iss`)",
                "get a token from "
                + (" or ".join(quoted(issuer.url) for issuer in self._config.issuers) or "a configured issuer"),
            )
        # The same issuer may be listed for several audiences, each with its own mapping of claims.
        audiences = _audiences(claims)
        return next((issuer for issuer in known if audiences & set(issuer.audiences)), known[0])

    async def _signature_problem(self, token: CompactToken, issuer: IssuerConfig, now: float) -> IdentityProblem | None:
        keys = await self._keys.find(issuer, token.key_id, token.algorithm, now)
        if isinstance(keys, IdentityProblem):
            return keys
        if any(key.verifies(token.algorithm, token.signed, token.signature) for key in keys):
            return None
        return IdentityProblem(
            IdentityCause.BAD_SIGNATURE,
            "token's signature doesn't verify: it was changed, cut off or made by someone else",
            _NEW_TOKEN,
        )

    def _verified(self, claims: Mapping[str, Json], issuer: IssuerConfig, now: float) -> VerifiedToken | IdentityProblem:
        expires_at = _time(claims, "exp")
        if expires_at is None:
            return _missing("exp")
        not_before, issued_at = _time(claims, "nbf"), _time(claims, "iat")
        for time in (expires_at, not_before, issued_at):
            if isinstance(time, IdentityProblem):
                return time
        assert not isinstance(expires_at, IdentityProblem)
        problem = (
            _audience_problem(claims, issuer)
            or _expiry_problem(expires_at, now, self._config.clock_skew_s)
            or _start_problem(not_before, "nbf", now, self._config.clock_skew_s)
            or _start_problem(issued_at, "iat", now, self._config.clock_skew_s)
            or _subject_problem(claims)
            or _purpose_problem(claims)
        )
        return problem or VerifiedToken(issuer, claims, expires_at)


def _algorithm_problem(algorithm: str, issuer: IssuerConfig) -> IdentityProblem | None:
    # Both lists must have it: a configuration that names HS256 doesn't make it verifiable.
    if algorithm in issuer.algorithms and algorithm in KEY_SHAPES:
        return None
    usable = [name for name in issuer.algorithms if name in KEY_SHAPES]
    return IdentityProblem(
        IdentityCause.ALGORITHM_REFUSED,
        f"token is signed with {quoted(algorithm)}, which isn't accepted from issuer {quoted(issuer.url)}",
        "have the issuer sign with " + (" or ".join(usable) or "an algorithm of a public key, and list it for the issuer"),
    )


def _audiences(claims: Mapping[str, Json]) -> set[str]:
    audience = claims.get("aud")
    if isinstance(audience, str):
        return {audience}
    # A list with anything but strings in it is no audience at all (RFC 7519, section 4.1.3).
    if isinstance(audience, list) and all(isinstance(one, str) for one in audience):
        return {one for one in audience if isinstance(one, str)}
    return set()


def _audience_problem(claims: Mapping[str, Json], issuer: IssuerConfig) -> IdentityProblem | None:
    if claims.get("aud") is None:
        return _missing("aud")
    if _audiences(claims) & set(issuer.audiences):
        return None
    return IdentityProblem(
        IdentityCause.WRONG_AUDIENCE,
        "token is for another audience",
        "ask the issuer for a token for "
        + (" or ".join(quoted(one) for one in issuer.audiences) or "an audience of this gate's"),
    )


def _time(claims: Mapping[str, Json], name: str) -> float | IdentityProblem | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LATEST or not math.isfinite(value):
        return IdentityProblem(IdentityCause.MALFORMED, f"token claim `{name}` isn't a time in seconds", _NEW_TOKEN)
    return float(value)


def _expiry_problem(expires_at: float, now: float, skew_s: float) -> IdentityProblem | None:
    if now < expires_at + skew_s:
        return None
    return IdentityProblem(IdentityCause.EXPIRED, f"token expired {now - expires_at:.0f} s ago", _NEW_TOKEN)


def _start_problem(at: float | IdentityProblem | None, name: str, now: float, skew_s: float) -> IdentityProblem | None:
    if not isinstance(at, float) or at <= now + skew_s:
        return None
    return IdentityProblem(
        IdentityCause.NOT_YET_VALID,
        f"token isn't valid yet: `{name}` is {at - now:.0f} s ahead",
        "wait, or set the clocks of issuer and gate right",
    )


def _subject_problem(claims: Mapping[str, Json]) -> IdentityProblem | None:
    subject = claims.get("sub")
    if subject is None:
        return _missing("sub")
    if isinstance(subject, str) and 0 < len(subject) <= _MAX_SUBJECT:
        return None
    return IdentityProblem(
        IdentityCause.CLAIM_REFUSED, f"token claim `sub` must be a string of 1 to {_MAX_SUBJECT} characters", _NEW_TOKEN
    )


def _purpose_problem(claims: Mapping[str, Json]) -> IdentityProblem | None:
    # Logout tokens and security events (RFC 8417; OpenID Connect Back-Channel Logout, section 2.4) have issuer, audience and
    # subject like an ID token, and travel through more hands.
    if "events" not in claims:
        return None
    return IdentityProblem(
        IdentityCause.CLAIM_REFUSED, "token reports events (`events`): it isn't one to log in with", _NEW_TOKEN
    )


def _missing(name: str) -> IdentityProblem:
    return IdentityProblem(
        IdentityCause.MISSING_CLAIM,
        f"token has no claim `{name}`",
        "have the issuer put it in, or send the right one of its tokens",
    )
