"""What the engine answers. A decision is a value with its cause attached; a denial is never an exception.

INVARIANT: a `Permit` is made by the engine alone, and nothing reaches the target without one. The seal below makes a
forged permit an error at run time; the type makes a forgotten one an error at check time.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias

from sidegate.policy.reason import Reason
from sidegate.policy.source import PolicyRule, Source

ENGINE_SEAL: Final = object()


class Permit:
    """The token without which no byte is sent to the target. `covers` names what it was given for, for logs and tests."""

    __slots__ = ("covers", "revision", "source")

    def __init__(self, seal: object, covers: str, source: Source, revision: str) -> None:
        if seal is not ENGINE_SEAL:
            raise PermissionError("a permit comes from a decision and from nowhere else")
        self.covers = covers
        self.source = source
        self.revision = revision

    def __repr__(self) -> str:
        return f"Permit({self.covers} by {self.source} at {self.revision})"


class MaskStrategy(enum.StrEnum):
    """What a client sees instead of a masked value. For a type that can't hold it, NULL."""

    REDACT = "Redact"  # a fixed word
    NULL = "Null"
    PARTIAL = "Partial"  # the last four characters stay
    FIXED_LENGTH = "FixedLength"  # eight asterisks, whatever the length was
    HASH = "Hash"  # keyed, so that equal values stay equal
    PSEUDONYM = "Pseudonym"  # another value of the same form, keyed, and translated back where a statement compares with it


# Where rules mask one value differently, the first of these that any of them names is used: what shows least comes first.
STRICTEST_FIRST: Final = (
    MaskStrategy.NULL,
    MaskStrategy.REDACT,
    MaskStrategy.FIXED_LENGTH,
    MaskStrategy.HASH,
    MaskStrategy.PSEUDONYM,
    MaskStrategy.PARTIAL,
)
# What these show of a value is the same wherever the value stands. So they are for values that clients didn't choose: the hash or pseudonym
# of a guess would tell where else the guess is right.
KEYED: Final = frozenset({MaskStrategy.HASH, MaskStrategy.PSEUDONYM})


def strictest(strategies: Iterable[MaskStrategy]) -> MaskStrategy:
    """The one that shows least; of none, the one that shows nothing."""
    return min(strategies, key=STRICTEST_FIRST.index, default=MaskStrategy.NULL)


class ColumnUse(enum.StrEnum):
    """Whether a masked column may stand elsewhere than in the output."""

    REFUSED = "Refused"
    EQUALITY = "Equality"  # compared with a bound parameter
    AGGREGATE = "Aggregate"  # summed, averaged and counted over groups of `min_group_size` values or more
    ALLOWED = "Allowed"


MIN_GROUP_SIZE: Final = 5


@dataclass(frozen=True, slots=True)
class ColumnMask:
    """Mask every column with one of `names` (lower case) in a matching relation; `schemas`/`tables` None: in every one."""

    names: frozenset[str]
    schemas: frozenset[str] | None
    tables: frozenset[str] | None
    strategy: MaskStrategy
    use: ColumnUse
    source: PolicyRule
    min_group_size: int = MIN_GROUP_SIZE


@dataclass(frozen=True, slots=True)
class ValueMask:
    """Mask whatever these detectors find, in any column, message or error."""

    detectors: frozenset[str]
    strategy: MaskStrategy
    source: PolicyRule


@dataclass(frozen=True, slots=True)
class Masks:
    """Every mask that a decision obliges the gate to apply. They add up over all policies."""

    columns: tuple[ColumnMask, ...] = ()
    values: tuple[ValueMask, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.columns or self.values)


@dataclass(frozen=True, slots=True)
class ApprovalTerms:
    """Who may approve, how many must, and how long an approval stays usable."""

    approver_groups: frozenset[str]
    approver_users: frozenset[str]
    required: int
    expires_after_s: float


@dataclass(frozen=True, slots=True)
class Allow:
    """`observed` is what an Observe-mode policy would have said: it is recorded, and the statement passes."""

    permit: Permit
    masks: Masks
    source: Source
    revision: str
    reason: Reason = Reason.GRANTED
    observed: Deny | RequireApproval | None = None


@dataclass(frozen=True, slots=True)
class Deny:
    """`detail` names the statement's own part that led here (lower case, no full stop, user input in backticks)."""

    reason: Reason
    source: Source
    revision: str
    detail: str = ""
    way_forward: str = ""

    @property
    def hint(self) -> str:
        return self.way_forward or self.reason.way_forward


@dataclass(frozen=True, slots=True)
class RequireApproval:
    """Held until approved by `terms`; `permit` is used only after the approval was verified. `at_commit`: it runs, and the end of
    its transaction is held.
    """

    terms: ApprovalTerms
    permit: Permit
    masks: Masks
    source: Source
    revision: str
    detail: str = ""
    reason: Reason = Reason.APPROVAL_REQUIRED
    at_commit: bool = False


@dataclass(frozen=True, slots=True)
class Measure:
    """Run it where it can be taken back, read the impact, and decide again.

    `more_than` is the lowest row limit at stake. `asks_reach`: what its CASCADE takes with it has to be known
    first, and it has to be seen that it was that.
    """

    more_than: int
    permit: Permit
    masks: Masks
    source: Source
    revision: str
    asks_reach: bool = False


Decision: TypeAlias = Allow | Deny | RequireApproval | Measure
