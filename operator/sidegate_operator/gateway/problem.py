"""Why the gateway doesn't do what it was asked: a closed list of kinds, each with its HTTP status. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from sidegate.gateway.messages import Problem


class Kind(enum.Enum):
    """The word for programs, the status, the title for people."""

    MALFORMED = ("Malformed", 400, "not a request of this protocol")
    UNAUTHENTICATED = ("Unauthenticated", 401, "the token isn't good here")
    ANOTHERS = ("Anothers", 403, "it is another pod's")
    NOT_FOUND = ("NotFound", 404, "there is none")
    WRONG_METHOD = ("WrongMethod", 405, "that isn't done here")
    NAME_TAKEN = ("NameTaken", 409, "the name is another's")
    NOTHING_TO_TAKE = ("NothingToTake", 409, "there is no approval to take")
    ENDED = ("Ended", 409, "it has ended")
    NOT_EXECUTED = ("NotExecuted", 409, "it has no outcome to be told of")
    TOO_LARGE = ("TooLarge", 413, "the body is too large")
    UNUSABLE = ("Unusable", 422, "no approval request can be made of it")
    OVER_QUOTA = ("OverQuota", 429, "too many are pending")
    TOO_OFTEN = ("TooOften", 429, "too many were asked for")
    TOO_MANY = ("TooMany", 429, "too many at once")
    UNGUARDED = ("Unguarded", 503, "decisions aren't guarded")
    UNAVAILABLE = ("Unavailable", 503, "the operator can't serve it now")

    @property
    def word(self) -> str:
        return self.value[0]

    @property
    def status(self) -> int:
        return self.value[1]

    @property
    def may_be_asked_again(self) -> bool:
        """At once, for nothing was done, and it passes. A quota is no such thing: the statement is refused."""
        return self in {Kind.TOO_MANY, Kind.UNGUARDED, Kind.UNAVAILABLE}


@dataclass(frozen=True, slots=True)
class Refusal:
    kind: Kind
    detail: str
    way_forward: str

    def body(self) -> Problem:
        word, status, title = self.kind.value
        return Problem(type=word, title=title, status=status, detail=self.detail, way_forward=self.way_forward)


def unavailable(detail: str, way_forward: str = "ask again; another replica may answer") -> Refusal:
    return Refusal(Kind.UNAVAILABLE, detail, way_forward)
