"""PostgreSQL's host rules (`pg_hba.conf`), as values: the gate's own, and who gets in by those that are there. Pure.

Rules it keeps:
- The first rule that matches decides, as in PostgreSQL (hba.c, check_hba); none that matches is a rejection.
- What can't be judged from here (host names, regular expressions, the target's own networks) opens a door where it would let in, and
  closes none where it would reject.
- Addresses are judged by one of each interval between the bounds of all rules: so the answer holds for every address.

The view that rules come from doesn't tell quoted names from keywords: a rule for a role that is really called `all` is taken for all.
Left out: reading the server's rules, and writing the file.
"""

from __future__ import annotations

import enum
import ipaddress
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

LOOPBACK: Final[tuple[Network, ...]] = (ipaddress.ip_network("127.0.0.1/32"), ipaddress.ip_network("::1/128"))
REJECT: Final = "reject"
SCRAM: Final = "scram-sha-256"
TRUST: Final = "trust"
# Somewhere that no rule names: documentation addresses (RFC 5737, RFC 3849)
_ELSEWHERE: Final[tuple[Address, ...]] = (ipaddress.ip_address("192.0.2.1"), ipaddress.ip_address("2001:db8::1"))
_ANY_DATABASE: Final = "any other"
_WRITABLE: Final = re.compile(r"""[^\x00-\x20\x7f"+/@\\#,][^\x00-\x20\x7f"\\]*""")
NAME_BYTES: Final = 63  # PostgreSQL cuts longer names


class Transport(enum.Enum):
    """How a connection comes."""

    SOCKET = "over the Unix socket"
    PLAIN = "without TLS"
    TLS = "with TLS"
    GSS = "with GSSAPI encryption"


_TYPES: Final = {
    "local": {Transport.SOCKET},
    "host": {Transport.PLAIN, Transport.TLS, Transport.GSS},
    "hostssl": {Transport.TLS},
    "hostnossl": {Transport.PLAIN, Transport.GSS},
    "hostgssenc": {Transport.GSS},
    "hostnogssenc": {Transport.PLAIN, Transport.TLS},
}


@dataclass(frozen=True, slots=True)
class HostRule:
    """One rule as `pg_hba_file_rules` shows it. `error` is why the server can't read it (then it has no type), or can't use it as it is
    configured now, as a line for TLS without TLS: that one is in force.
    """

    type: str
    databases: tuple[str, ...]
    roles: tuple[str, ...]
    method: str
    address: str | None = None
    netmask: str | None = None
    options: tuple[str, ...] = ()
    file: str = ""
    line: int = 0
    error: str | None = None

    @property
    def is_broken(self) -> bool:
        return self.error is not None and not self.type

    @property
    def place(self) -> str:
        return f"line {self.line} of `{self.file}`" if self.file else f"line {self.line}"


@dataclass(frozen=True, slots=True)
class Login:
    """A role that knocks; `groups` are all the roles that it is a member of, at however many removes, and itself."""

    role: str
    groups: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Knock:
    """One connection: `address` None over the socket. `replicates`: by the physical replication protocol."""

    login: Login
    transport: Transport
    address: Address | None
    database: str
    replicates: bool = False


class _Match(enum.Enum):
    NO = enum.auto()
    MAYBE = enum.auto()
    YES = enum.auto()


def _best(found: Iterable[_Match]) -> _Match:
    return max(found, key=lambda each: each.value, default=_Match.NO)


def _worst(found: Iterable[_Match]) -> _Match:
    return min(found, key=lambda each: each.value)


# Judging


def admitting(rules: Sequence[HostRule], knock: Knock) -> HostRule | None:
    """The rule that lets the knock in, or may; None: it is rejected."""
    for rule in rules:
        if rule.is_broken:
            continue
        match = _matches(rule, knock)
        if match is _Match.NO or (match is _Match.MAYBE and rule.method == REJECT):
            continue
        return rule if rule.method != REJECT else None
    return None


def ways_in(rules: Sequence[HostRule], login: Login, inside: Sequence[Network] | None) -> tuple[HostRule, ...]:
    """Every rule by which the role gets in over the network from outside of `inside`, each once. `inside` None: over the socket."""
    found: dict[HostRule, None] = {}
    for database, replicates in _databases(rules, login):
        for transport in Transport:
            if (transport is Transport.SOCKET) != (inside is None):
                continue
            near = Knock(login, transport, None, database, replicates)
            concerned = [each for each in rules if not each.is_broken and _matches_but_for_address(each, near) is not _Match.NO]
            addresses: Iterable[Address | None] = (None,) if inside is None else _representatives(concerned, inside)
            for address in addresses:
                rule = admitting(concerned, Knock(login, transport, address, database, replicates))
                if rule is not None:
                    found[rule] = None
    return tuple(found)


def _databases(rules: Sequence[HostRule], login: Login) -> Iterator[tuple[str, bool]]:
    yield "", True  # replication has none
    yield _ANY_DATABASE, False
    yield login.role, False
    named = {each for rule in rules for each in rule.databases} - {"all", "replication", "sameuser", "samerole", "samegroup"}
    for name in sorted(named | login.groups):
        yield name, False


def _representatives(rules: Sequence[HostRule], inside: Sequence[Network]) -> list[Address]:
    networks = [*inside, *(each for rule in rules if (each := _network(rule)) is not None)]
    found: set[Address] = set(_ELSEWHERE)
    for network in networks:
        for bound in (int(network.network_address) - 1, int(network.network_address), int(network.broadcast_address) + 1):
            if 0 <= bound < 2**network.max_prefixlen:
                found.add(ipaddress.IPv4Address(bound) if network.version == 4 else ipaddress.IPv6Address(bound))
    outside = [each for each in found if not any(each in network for network in inside)]
    return sorted(outside, key=lambda each: (each not in _ELSEWHERE, each.version, int(each)))


def _matches(rule: HostRule, knock: Knock) -> _Match:
    return _worst((_matches_but_for_address(rule, knock), _address(rule, knock.address)))


def _matches_but_for_address(rule: HostRule, knock: Knock) -> _Match:
    if knock.transport not in _TYPES.get(rule.type, set(Transport)):
        return _Match.NO
    known = _Match.YES if rule.type in _TYPES else _Match.MAYBE
    database = _best(_database(word, knock) for word in rule.databases)
    return _worst((known, database, _best(_role(word, knock.login) for word in rule.roles)))


def _database(word: str, knock: Knock) -> _Match:
    if knock.replicates:
        return _Match.YES if word == "replication" else _Match.NO
    if word == "all":
        return _Match.YES
    if word == "sameuser":
        return _Match.YES if knock.database == knock.login.role else _Match.NO
    if word in ("samerole", "samegroup"):
        return _Match.YES if knock.database in knock.login.groups | {knock.login.role} else _Match.NO
    if word == "replication":
        return _Match.NO
    if word.startswith("/"):
        return _Match.MAYBE
    return _Match.YES if word == knock.database else _Match.NO


def _role(word: str, login: Login) -> _Match:
    if word == "all":
        return _Match.YES
    if word.startswith("/"):
        return _Match.MAYBE
    if word.startswith("+"):
        return _Match.YES if word[1:] in login.groups | {login.role} else _Match.NO
    return _Match.YES if word == login.role else _Match.NO


def _address(rule: HostRule, address: Address | None) -> _Match:
    if address is None:
        return _Match.YES
    if rule.address == "all":
        return _Match.YES
    if rule.address == "samehost":
        return _Match.NO  # its own addresses, which nobody outside has
    network = _network(rule)
    if network is None:
        return _Match.MAYBE
    return _Match.YES if address.version == network.version and address in network else _Match.NO


def _network(rule: HostRule) -> Network | None:
    """None: it isn't given by numbers, or by a mask that is no prefix."""
    if rule.address is None:
        return None
    try:
        if rule.netmask is None:
            return ipaddress.ip_network(rule.address, strict=False)
        if ":" not in rule.netmask:
            return ipaddress.ip_network(f"{rule.address}/{rule.netmask}", strict=False)
        mask = int(ipaddress.IPv6Address(rule.netmask))
        length = mask.bit_count()
        if mask != ((1 << length) - 1) << (128 - length):
            return None
        return ipaddress.ip_network(f"{rule.address}/{length}", strict=False)
    except ValueError:
        return None


# The gate's own


@dataclass(frozen=True, slots=True)
class GateRules:
    """From where the gate comes, and whether it must come by TLS. Loopback means the socket too."""

    roles: tuple[str, ...]
    networks: tuple[Network, ...] = field(default=LOOPBACK)
    tls: bool = False

    @property
    def is_beside(self) -> bool:
        return any(each in LOOPBACK for each in self.networks)

    def rules(self) -> tuple[HostRule, ...]:
        """In this order: the gate, then nobody as one of its roles, from anywhere and into anything."""
        kind = "hostssl" if self.tls else "host"
        let_in = [
            HostRule(kind, ("all",), self.roles, SCRAM, str(each.network_address), str(each.netmask)) for each in self.networks
        ]
        socket = HostRule("local", ("all",), self.roles, SCRAM if self.is_beside else REJECT)
        return (
            socket,
            HostRule("local", ("replication",), self.roles, REJECT),
            *let_in,
            HostRule("host", ("all",), self.roles, REJECT, "all"),
            HostRule("host", ("replication",), self.roles, REJECT, "all"),
        )

    def lines(self) -> tuple[str, ...]:
        """As the file has them.

        Raises:
            ValueError: a role's name that host rules would read otherwise.
        """
        for each in self.roles:
            if _WRITABLE.fullmatch(each) is None or len(each.encode()) > NAME_BYTES or each == "all":
                raise ValueError(f"role `{each}` has a name that host rules would read as something else")
        named = ",".join(f'"{each}"' for each in self.roles)
        return tuple(_line(each, named) for each in self.rules())


def _line(rule: HostRule, roles: str) -> str:
    address = str(_network(rule)) if rule.netmask is not None else rule.address or ""
    return " ".join(part for part in (f"{rule.type:<7}", f"{rule.databases[0]:<11}", roles, address, rule.method) if part)


# The file


_BEGIN: Final = "# BEGIN sidegate {name}: made by `sidegate setup postgres`, which keeps it first; leave it as it is"
_END: Final = "# END sidegate {name}"
_LINE: Final = re.compile(r"[^\n]*\n|[^\n]+")


def block(name: str, lines: Sequence[str]) -> str:
    """The lines between their marks. `name` is the target's, with its namespace."""
    return "\n".join((_BEGIN.format(name=name), *lines, _END.format(name=name))) + "\n"


def with_block(text: str, name: str, lines: Sequence[str]) -> str:
    """The file with the block, before every other rule: once, however often it is put there.

    Raises:
        ValueError: a block of that name begins and doesn't end, or the other way round.
    """
    return block(name, lines) + without_block(text, name)


def without_block(text: str, name: str) -> str:
    kept: list[str] = []
    is_inside = False
    end = _END.format(name=name)
    for line in _LINE.findall(text):
        bare = line.rstrip("\r\n")
        begins, ends = bare.startswith(f"# BEGIN sidegate {name}:"), bare == end
        if (begins and is_inside) or (ends and not is_inside):
            raise ValueError(f"the marks of sidegate's block `{name}` don't match")
        if not (begins or ends or is_inside):
            kept.append(line)
        is_inside = begins or (is_inside and not ends)
    if is_inside:
        raise ValueError(f"sidegate's block `{name}` has no end")
    return "".join(kept)
