"""Host rules judged as PostgreSQL judges them, and the gate's block in a file."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.setup.host_rules import (
    LOOPBACK,
    GateRules,
    HostRule,
    Knock,
    Login,
    Transport,
    admitting,
    block,
    ways_in,
    with_block,
    without_block,
)

GATE = GateRules(("readonly", "readwrite"))
ME = Login("readonly", frozenset({"readonly", "readers"}))
OUTSIDE = ipaddress.ip_address("10.9.8.7")


def rule(text: str) -> HostRule:
    """A line without quotes, addresses in CIDR form."""
    kind, databases, roles, *rest = text.split()
    address = rest.pop(0) if kind != "local" else None
    netmask = None
    if address is not None and "/" in address:
        network = ipaddress.ip_network(address)
        address, netmask = str(network.network_address), str(network.netmask)
    return HostRule(kind, tuple(databases.split(",")), tuple(roles.split(",")), rest[0], address, netmask)


def knock(transport: Transport = Transport.PLAIN, database: str = "shop", replicates: bool = False) -> Knock:
    return Knock(ME, transport, None if transport is Transport.SOCKET else OUTSIDE, database, replicates)


@pytest.mark.parametrize(
    ("line", "lets_in"),
    [
        ("host all all all trust", True),
        ("host all all 0.0.0.0/0 md5", True),
        ("host all all ::/0 md5", False),
        ("host all all 10.9.8.7/32 scram-sha-256", True),
        ("host all all 10.9.8.6/32 scram-sha-256", False),
        ("host all all 127.0.0.1/32 trust", False),
        ("host shop all all trust", True),
        ("host other all all trust", False),
        ("host sameuser all all trust", False),
        ("host samerole all all trust", False),
        ("host replication all all trust", False),
        ("host all +readers all trust", True),
        ("host all +writers all trust", False),
        ("host all readonly all trust", True),
        ("host all other,readonly all trust", True),
        ("host all other all trust", False),
        ("host all /^read all trust", True),
        ("host /sho all all trust", True),
        ("host all all office.example trust", True),
        ("host all all .example trust", True),
        ("host all all samenet trust", True),
        ("host all all samehost trust", False),
        ("hostssl all all all trust", False),
        ("hostnossl all all all trust", True),
        ("hostgssenc all all all trust", False),
        ("local all all trust", False),
        ("host all all all reject", False),
    ],
)
def test_tells_who_gets_in(line: str, lets_in: bool) -> None:
    assert (admitting([rule(line)], knock()) is not None) is lets_in


@pytest.mark.parametrize(
    "line", ["host all all office.example reject", "host all /^read all reject", "host all all samenet reject"]
)
def test_what_cant_be_judged_closes_nothing(line: str) -> None:
    assert admitting([rule(line), rule("host all all all trust")], knock()) is not None


def test_the_first_that_matches_decides() -> None:
    reject, trust = rule("host all readonly all reject"), rule("host all all all trust")
    assert admitting([reject, trust], knock()) is None
    assert admitting([trust, reject], knock()) is trust


def test_replication_is_matched_by_its_own_word_alone() -> None:
    replicates = knock(replicates=True)
    assert admitting([rule("host all all all trust")], replicates) is None
    assert admitting([rule("host replication all all trust")], replicates) is not None


def test_a_rule_that_the_server_cant_read_lets_nobody_in() -> None:
    broken = HostRule("", (), (), "", error="invalid")
    assert admitting([broken], knock()) is None


def test_a_rule_that_waits_for_tls_counts_as_if_it_were_there() -> None:
    waiting = HostRule("hostssl", ("all",), ("all",), "trust", "all", error="hostssl record cannot match because SSL is disabled")
    assert admitting([waiting], knock(Transport.TLS)) is waiting


def test_an_address_between_two_networks_is_found() -> None:
    rules = [rule("host all all 10.0.0.0/9 reject"), rule("host all all 10.0.0.0/8 md5")]
    assert [each.method for each in ways_in(rules, ME, LOOPBACK)] == ["md5"]


# What the gate's lines hold, whatever else is there

_NAMES = st.sampled_from(["all", "readonly", "readwrite", "+readers", "other", "/^read", "+readonly"])
_DATABASES = st.sampled_from(["all", "shop", "postgres", "replication", "sameuser", "samerole", "/.*"])
_NETWORKS = st.sampled_from(
    ["all", "samehost", "samenet", "host.example", "127.0.0.1/32", "0.0.0.0/0", "::/0", "10.9.0.0/16", "::1/128"]
)
_METHODS = st.sampled_from(["trust", "md5", "scram-sha-256", "password", "cert", "reject", "peer", "ldap"])


@st.composite
def _rules(draw: st.DrawFn) -> HostRule:
    kind = draw(st.sampled_from(["local", "host", "hostssl", "hostnossl", "hostgssenc", "hostnogssenc"]))
    address = "" if kind == "local" else draw(_NETWORKS)
    return rule(f"{kind} {draw(_DATABASES)} {draw(_NAMES)} {address} {draw(_METHODS)}")


_KNOCKS = st.builds(
    Knock,
    st.sampled_from([Login(name, frozenset({name, "readers"})) for name in GATE.roles]),
    st.sampled_from([each for each in Transport if each is not Transport.SOCKET]),
    st.ip_addresses().filter(lambda each: not any(each in network for network in LOOPBACK)),
    st.sampled_from(["shop", "postgres", "readonly", "other"]),
    st.booleans(),
)


@given(st.lists(_rules(), max_size=12), _KNOCKS)
def test_nobody_gets_in_as_the_gates_role_from_outside_whatever_other_rules_say(others: list[HostRule], wanted: Knock) -> None:
    rules = [*GATE.rules(), *others]
    assert admitting(rules, wanted) is None
    assert ways_in(rules, wanted.login, LOOPBACK) == ()


@given(st.lists(_rules(), max_size=12), st.sampled_from(GATE.roles))
def test_in_the_gates_own_place_only_scram_gets_in(others: list[HostRule], role: str) -> None:
    login = Login(role, frozenset({role}))
    found = ways_in([*GATE.rules(), *others], login, ())
    assert {each.method for each in found} == {"scram-sha-256"}
    assert {each.method for each in ways_in([*GATE.rules(), *others], login, None)} == {"scram-sha-256"}


@given(st.lists(_rules(), max_size=8), _KNOCKS)
def test_every_way_in_of_a_single_address_is_among_the_ways_found(rules: list[HostRule], wanted: Knock) -> None:
    found = admitting(rules, wanted)
    assert found is None or found in ways_in(rules, wanted.login, LOOPBACK)


def test_a_gate_elsewhere_comes_by_tls_and_not_from_loopback() -> None:
    gate = GateRules(("readonly",), (ipaddress.ip_network("10.1.0.0/16"),), tls=True)
    lines = gate.lines()
    assert any(line.startswith("hostssl all") and "10.1.0.0/16 scram-sha-256" in line for line in lines)
    assert not any("127.0.0.1" in line for line in lines)
    assert ways_in(gate.rules(), ME, None) == ()


@pytest.mark.parametrize(
    "name", ["", "all", "+readers", "/.*", "@file", 'a"b', "a\nhost all all all trust", "a\\", "x" * 64, "é" * 32, "#x"]
)
def test_refuses_names_that_host_rules_read_otherwise(name: str) -> None:
    with pytest.raises(ValueError):
        GateRules((name,)).lines()


# The file

OTHERS = "# mine\nhost all all all scram-sha-256\ninclude_dir more\n"


def test_the_block_stands_before_every_other_line() -> None:
    assert with_block(OTHERS, "shop/db", GATE.lines()) == block("shop/db", GATE.lines()) + OTHERS


@given(st.text(alphabet="host all\n#\\\u2028\x0b\x85é", max_size=80), st.integers(0, 3))
def test_putting_it_there_twice_changes_nothing(others: str, moves: int) -> None:
    once = with_block(others, "shop/db", GATE.lines())
    moved = "".join(f"{line}\n" for line in others.split("\n")[:moves]) + once  # somebody put lines before it
    assert with_block(once, "shop/db", GATE.lines()) == once
    assert without_block(once, "shop/db") == others
    assert with_block(moved, "shop/db", GATE.lines()).startswith(block("shop/db", GATE.lines()))


def test_blocks_of_other_targets_stay() -> None:
    two = with_block(with_block(OTHERS, "shop/db", ["one"]), "shop/db2", ["two"])
    assert without_block(two, "shop/db") == block("shop/db2", ["two"]) + OTHERS


@pytest.mark.parametrize("text", ["# BEGIN sidegate shop/db: x\nlocal all all trust\n", "# END sidegate shop/db\n"])
def test_a_block_with_one_mark_is_left_to_people(text: str) -> None:
    with pytest.raises(ValueError):
        with_block(text, "shop/db", ["x"])
