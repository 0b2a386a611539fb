"""Who is who where approvals are decided: the same person, the one who asks, a person at all, an approver.

Rules it keeps: to keep someone from deciding, names match generously (any case of letters, behind any prefix that an API server puts
before an issuer's names); to let someone decide, exactly. Names that start with `system:` belong to no person, unless approvers name them.

Admission, the operator and the gate that runs the statement all ask here, so that none of them knows somebody else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final, Protocol

BETWEEN_PREFIX_AND_NAME: Final = ":#/|\\"


class Approvers(Protocol):
    """Who may decide: members of these groups, and these users."""

    @property
    def groups(self) -> Collection[str]: ...

    @property
    def users(self) -> Collection[str]: ...


def is_same_person(name: str, other: str) -> bool:
    """Whether two usernames may be one person's: equal in any case of letters, or one is the other behind a prefix."""
    one, two = sorted((name.casefold(), other.casefold()), key=len)
    if one == two:
        return True
    return bool(one) and two.endswith(one) and two[-len(one) - 1] in BETWEEN_PREFIX_AND_NAME


def is_one_of(names: Iterable[str], username: str) -> bool:
    """Whether `username` may be somebody with one of these names."""
    return any(is_same_person(username, each) for each in names)


def approver_groups(approvers: Approvers, username: str, groups: Collection[str]) -> tuple[str, ...] | None:
    """Those of `groups` that make them an approver, none needed when named themselves; None: they aren't one."""
    counting = tuple(sorted({str(each) for each in approvers.groups} & {str(each) for each in groups}))
    return counting if counting or username in approvers.users else None


def is_person(username: str, approvers: Approvers) -> bool:
    """Kubernetes keeps `system:` for its own names. One that approvers list is somebody's wish."""
    return not username.casefold().startswith("system:") or username in approvers.users
