"""Why a token wasn't accepted: a closed list of causes, a sentence for a person, and what to do next.

Rules it keeps: a problem is a value, never an exception; it never contains a token, a part of one, or key material. What it does repeat
from an unverified token (an issuer, an algorithm, a key id) goes through `quoted`, so that nobody can write lines of their own into
a log. Left out: how a refusal looks in a protocol, which is the gates' own business.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

_MAX_QUOTED: Final = 120


class IdentityCause(enum.StrEnum):
    """What exactly was wrong, for metrics, audit and tests."""

    EXPIRED = "Expired"
    NOT_YET_VALID = "NotYetValid"
    WRONG_AUDIENCE = "WrongAudience"
    UNKNOWN_ISSUER = "UnknownIssuer"
    UNKNOWN_KEY = "UnknownKey"
    BAD_SIGNATURE = "BadSignature"
    ALGORITHM_REFUSED = "AlgorithmRefused"
    HEADER_REFUSED = "HeaderRefused"
    MALFORMED = "Malformed"
    MISSING_CLAIM = "MissingClaim"
    CLAIM_REFUSED = "ClaimRefused"
    GROUPS_INCOMPLETE = "GroupsIncomplete"
    ISSUER_UNAVAILABLE = "IssuerUnavailable"
    MISCONFIGURED = "Misconfigured"
    TOO_LARGE = "TooLarge"


@dataclass(frozen=True, slots=True)
class IdentityProblem:
    """One refused token. `message` and `way_forward` are lower case without a full stop and safe to log and to show."""

    cause: IdentityCause
    message: str
    way_forward: str

    def __str__(self) -> str:
        return f"{self.message}; {self.way_forward}"


def quoted(value: object) -> str:
    """Text from outside, in backticks, printable ASCII on one line, and short."""
    text = value if isinstance(value, str) else type(value).__name__
    clipped = text if len(text) <= _MAX_QUOTED else text[:_MAX_QUOTED] + "..."
    return "`" + "".join(c if " " <= c <= "~" and c != "`" else "?" for c in clipped) + "`"
