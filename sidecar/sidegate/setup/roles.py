"""The gate's roles in PostgreSQL: what is made of each, as SQL that holds no password. Pure: salts are arguments.

Rules it keeps:
- A password leaves this machine as a SCRAM verifier alone: it stands in no statement, so in no log, and the server can't learn it.
- A role that is as it should be gets no statement; one with the same password keeps its verifier.
- A superuser is never made a gate's role: what it owns and may do can't be told from what the target needs it for.

What the roles may do in the databases is their owner's business, and no statement here grants anything.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sidegate.postgres.scram import derive_keys, prepare_password

MIN_ITERATIONS: Final = 4096  # PostgreSQL's default, and the least that the gate accepts
SALT_BYTES: Final = 16
_VERIFIER: Final = re.compile(r"SCRAM-SHA-256\$([1-9][0-9]{0,9}):([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+):([A-Za-z0-9+/=]+)")
# Attribute, the statement's word when it must not be there, and what it would let the role do.
FORBIDDEN: Final = {
    "is_superuser": ("NOSUPERUSER", "do everything, and read and write the machine's files"),
    "bypasses_rls": ("NOBYPASSRLS", "see rows that row security hides"),
    "replicates": ("NOREPLICATION", "copy the whole cluster by the replication protocol"),
    "creates_roles": ("NOCREATEROLE", "make roles that the host rules let in from elsewhere"),
}


@dataclass(frozen=True, slots=True)
class RoleFacts:
    """A role as the server has it. `groups` are the roles it is a member of, at however many removes. `secret`: its verifier or hash."""

    name: str
    can_log_in: bool = True
    is_superuser: bool = False
    bypasses_rls: bool = False
    replicates: bool = False
    creates_roles: bool = False
    secret: str | None = None
    groups: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement to run; `shown` is what people see of it, without the verifier."""

    text: str
    shown: str


class UnusableRole(Exception):  # noqa: N818 - a state of the server
    """What is there can't become the gate's role."""

    def __init__(self, problem: str, way_forward: str) -> None:
        super().__init__(problem)
        self.way_forward = way_forward


def scram_verifier(password: str, salt: bytes, iterations: int = MIN_ITERATIONS) -> str:
    """As PostgreSQL stores it in pg_authid (docs 53.8)."""
    keys = derive_keys(prepare_password(password), salt, iterations)
    stored = hashlib.sha256(keys.client_key).digest()
    return f"SCRAM-SHA-256${iterations}:{_base64(salt)}${_base64(stored)}:{_base64(keys.server_key)}"


def is_verifier_of(secret: str | None, password: str) -> bool:
    """Whether it was made of this password, with as many iterations as the gate accepts."""
    found = _VERIFIER.fullmatch(secret or "")
    if found is None or int(found[1]) < MIN_ITERATIONS:
        return False
    try:
        salt = base64.b64decode(found[2], validate=True)
    except ValueError:
        return False
    return hmac.compare_digest(scram_verifier(password, salt, int(found[1])), secret or "")


def is_scram(secret: str | None) -> bool:
    return _VERIFIER.fullmatch(secret or "") is not None


def role_statements(name: str, password: str, facts: RoleFacts | None, salt: bytes, iterations: int) -> Iterator[Statement]:
    """What makes the role as it should be; nothing when it is.

    Raises:
        UnusableRole: it is a superuser.
    """
    if facts is not None and facts.is_superuser:
        raise UnusableRole(
            f"role `{name}` is a superuser", "give the gate a role of its own, with the rights that its grants need"
        )
    words = ["LOGIN"] if facts is None or not facts.can_log_in else []
    words += [word for attribute, (word, _) in FORBIDDEN.items() if facts is None or getattr(facts, attribute)]
    verb = "CREATE" if facts is None else "ALTER"
    secret = None
    if facts is None or not is_verifier_of(facts.secret, password):
        secret = scram_verifier(password, salt, max(iterations, MIN_ITERATIONS))
    if not words and secret is None:
        return
    start = " ".join((verb, "ROLE", quoted(name), *words))
    if secret is None:
        yield Statement(f"{start};", f"{start};")
    else:
        yield Statement(f"{start} PASSWORD '{secret}';", f"{start} PASSWORD '<SCRAM verifier of the credential>';")


def quoted(name: str) -> str:
    """An identifier."""
    return '"' + name.replace('"', '""') + '"'


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
