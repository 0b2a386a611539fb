"""What stands open in a PostgreSQL server that is to be reached through its gate alone: from facts to observations. Pure.

Rules it keeps:
- A door is a way past the gate's decisions that is open now: as one of the gate's roles, or as anybody without a password.
- A warning is what lets others in past the gate, or would turn a mistake elsewhere into a door. Nobody but the owner can tell whether it
  is meant.
- What is in force counts: rules that were written and not loaded, or can't be read, are a door by themselves.

Left out: asking the server (`server`), and what only a connection from outside can show (`sidegate.probe`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from sidegate.setup.host_rules import SCRAM, TRUST, GateRules, HostRule, Login, ways_in
from sidegate.setup.roles import FORBIDDEN, RoleFacts, is_scram

# Predefined roles (PostgreSQL docs 21.5) that reach past what statements say. Whether the role merely may SET ROLE makes no difference.
POWERFUL: Final = {
    "pg_read_server_files": "reads files of the target's machine, its host rules and keys among them",
    "pg_write_server_files": "writes files of the target's machine, its host rules among them",
    "pg_execute_server_program": "runs programs on the target's machine, which connect from inside",
    "pg_create_subscription": "has the target connect to other servers",
    "pg_signal_backend": "ends other people's sessions",
    "pg_read_all_stats": "sees the text of other people's statements",
    "pg_monitor": "sees the text of other people's statements",
}
_DOOR_ROLES: Final = frozenset({"pg_read_server_files", "pg_write_server_files", "pg_execute_server_program"})
# Extensions and languages by whose functions SQL leaves the database.
OUTGOING: Final = {
    "dblink": "opens connections from SQL, also back into the target from inside",
    "postgres_fdw": "opens connections from SQL, also back into the target from inside",
    "mysql_fdw": "opens connections from SQL",
    "file_fdw": "reads files of the target's machine from SQL",
    "adminpack": "writes files of the target's machine from SQL",
    "pg_cron": "runs statements later, from inside, that no gate sees",
    "http": "opens connections from SQL",
    "pg_net": "opens connections from SQL",
    "plpython3u": "runs programs on the target's machine from SQL",
    "plpythonu": "runs programs on the target's machine from SQL",
    "plperlu": "runs programs on the target's machine from SQL",
    "pltclu": "runs programs on the target's machine from SQL",
    "plsh": "runs programs on the target's machine from SQL",
}


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """`extensions` None: it couldn't be looked into."""

    name: str
    lets_everyone_connect: bool = False
    extensions: frozenset[str] | None = frozenset()


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What the server says of itself. `is_stale`: a rules file is newer than what is loaded."""

    rules: tuple[HostRule, ...]
    roles: Mapping[str, RoleFacts]
    databases: tuple[DatabaseFacts, ...] = ()
    password_encryption: str = SCRAM
    scram_iterations: int = 4096
    is_stale: bool = False
    hba_file: str = ""


@dataclass(frozen=True, slots=True)
class Observation:
    is_door: bool
    problem: str
    way_forward: str

    def __str__(self) -> str:
        return f"{'open door' if self.is_door else 'warning'}: {self.problem}; fix: {self.way_forward}"


@dataclass(frozen=True, slots=True)
class Wanted:
    """`passing`: roles that the target lets pass its gate without a token, whose own ways in are meant."""

    gate: GateRules
    passing: frozenset[str] = field(default_factory=frozenset)


def review(facts: ServerFacts, wanted: Wanted) -> tuple[Observation, ...]:
    """Everything that isn't as it should be, doors first."""
    found = [
        *_rules_in_force(facts),
        *_gate_roles(facts, wanted),
        *ways_of_gate_roles(facts, wanted),
        *_others(facts, wanted),
        *_places(facts),
    ]
    return tuple(sorted(dict.fromkeys(found), key=lambda each: not each.is_door))


def _door(problem: str, way_forward: str) -> Observation:
    return Observation(True, problem, way_forward)


def _warning(problem: str, way_forward: str) -> Observation:
    return Observation(False, problem, way_forward)


def _rules_in_force(facts: ServerFacts) -> Iterator[Observation]:
    for rule in facts.rules:
        if rule.is_broken:
            yield _door(
                f"{rule.place} can't be read, so the rules before the last change are in force: {rule.error}",
                "mend the line, and reload",
            )
    if facts.is_stale:
        yield _door("the host rules were changed after they were loaded: others are in force", "SELECT pg_reload_conf()")


def _gate_roles(facts: ServerFacts, wanted: Wanted) -> Iterator[Observation]:
    for name in wanted.gate.roles:
        role = facts.roles.get(name)
        if role is None:
            yield _door(
                f"the gate's role `{name}` isn't there: whoever may make roles could make it", "run this command with --apply"
            )
            continue
        for attribute, (word, power) in FORBIDDEN.items():
            if getattr(role, attribute):
                yield _door(f"the gate's role `{name}` may {power}", f"ALTER ROLE with {word}; --apply does it")
        if not role.can_log_in:
            yield _warning(f"the gate's role `{name}` can't log in, so the gate can't use it", "run this command with --apply")
        if not is_scram(role.secret):
            what = "no password" if role.secret is None else "a password that isn't kept by scram-sha-256"
            yield _door(f"the gate's role `{name}` has {what}", "run this command with --apply")
        for group in sorted(role.groups - {name}):
            yield from _membership(facts, name, group)


def _membership(facts: ServerFacts, name: str, group: str) -> Iterator[Observation]:
    way_forward = f"REVOKE `{group}` from it, or from the role between them"
    held = facts.roles.get(group)
    for attribute, (_, power) in FORBIDDEN.items():
        if held is not None and getattr(held, attribute):
            yield _door(f"the gate's role `{name}` is a member of `{group}`, which may {power}", way_forward)
    if group in POWERFUL:
        problem = f"the gate's role `{name}` is a member of `{group}`, which {POWERFUL[group]}"
        yield Observation(group in _DOOR_ROLES, problem, way_forward)


def ways_of_gate_roles(facts: ServerFacts, wanted: Wanted) -> Iterator[Observation]:
    """How the gate's own roles get in: from where they mustn't, and from the gate's own place without proof."""
    write = "put this command's lines before all others; --hba-file does it"
    for name in wanted.gate.roles:
        login = _login(facts, name)
        outside = ways_in(facts.rules, login, wanted.gate.networks)
        anywhere = ways_in(facts.rules, login, ())
        socket = ways_in(facts.rules, login, None)
        for rule in outside:
            how = "without any password" if rule.method == TRUST else f"by {rule.method}"
            yield _door(f"the gate's role `{name}` gets in from outside {how}: {rule.place}", write)
        for rule in socket:
            if rule.method not in (SCRAM, "peer"):  # peer: the machine's user of that name, which is nobody
                yield _door(f"the gate's role `{name}` gets in over the socket by {rule.method}: {rule.place}", write)
        for rule in anywhere:
            if rule.method != SCRAM and rule not in outside:
                yield _door(f"the gate's role `{name}` gets in from the gate's own place by {rule.method}: {rule.place}", write)
        if not any(rule.method == SCRAM for rule in (*anywhere, *socket)):
            yield _warning(f"the gate's role `{name}` is let in from nowhere by {SCRAM}, so the gate can't use it", write)


def _login(facts: ServerFacts, name: str) -> Login:
    role = facts.roles.get(name)
    return Login(name, (role.groups if role is not None else frozenset()) | {name})


def _others(facts: ServerFacts, wanted: Wanted) -> Iterator[Observation]:
    """Roles that aren't the gate's."""
    if facts.password_encryption != SCRAM:
        yield _warning(
            f"password_encryption is `{facts.password_encryption}`: passwords that are set anew can be computed from what is stored",
            f"ALTER SYSTEM SET password_encryption = '{SCRAM}'",
        )
    by_rule: dict[HostRule, list[str]] = {}
    for name, role in sorted(facts.roles.items()):
        if role.can_log_in and name not in wanted.gate.roles and name not in wanted.passing:
            for rule in ways_in(facts.rules, _login(facts, name), wanted.gate.networks):
                by_rule.setdefault(rule, []).append(name)
    for rule, names in by_rule.items():
        named = ", ".join(f"`{each}`" for each in names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        if rule.method == TRUST:
            yield _door(f"{rule.place} lets {named} in from outside without any password", "write a method that asks for one")
        else:
            yield _warning(
                f"{rule.place} lets {named} in from outside, past the gate, by {rule.method}",
                "name the roles that must come that way, as the application's, and let `host all all all reject` be the last line",
            )
    for rule in facts.rules:
        if rule.method == TRUST and rule not in by_rule:
            where = "over the socket" if rule.type == "local" else f"from {rule.address}"
            yield _warning(
                f"{rule.place} asks nobody {where} for a password: whoever gets into the pod gets in as {', '.join(rule.roles)}",
                "write `peer` for the socket, scram-sha-256 for loopback",
            )


def _places(facts: ServerFacts) -> Iterator[Observation]:
    for database in facts.databases:
        if database.lets_everyone_connect:
            yield _warning(
                f"every role may connect to database `{database.name}`",
                f'REVOKE CONNECT ON DATABASE "{database.name}" FROM PUBLIC, and grant it to those who need it',
            )
        if database.extensions is None:
            yield _warning(
                f"database `{database.name}` couldn't be looked into", "run the check as a superuser who may connect to it"
            )
            continue
        for name in sorted(database.extensions & OUTGOING.keys()):
            yield _warning(
                f"database `{database.name}` has `{name}`, which {OUTGOING[name]}",
                "drop it, or REVOKE EXECUTE on its functions and USAGE on its servers from the gate's roles and from PUBLIC",
            )
