"""The protocol spoken by hand: whatever sequence of messages a client sends, a gate that lets everything through answers as the target does.

The random half builds sessions from building blocks, good and bad, in any order, cut into pieces anywhere, and compares every answer, field
by field, with PostgreSQL's own. What ends the session is in the fixed half, since after it there is nothing to compare.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from tests.support import wire_messages as m
from tests.support.endpoint import Endpoint
from tests.support.postgres_server import PostgresServer
from tests.support.wire import WireClient

END = b"the end"
SOURCE_FIELDS = frozenset("FLR")  # file, line, routine
STATEMENTS = ("", "a", "b")
PORTALS = ("", "p")
QUERIES = (
    "SELECT 1",
    "SELECT 1 AS one; SELECT 'two', NULL",
    "SELECT id, name, tags FROM customers ORDER BY id LIMIT 3",
    "",
    ";",
    "-- nothing",
    "BEGIN",
    "BEGIN; SELECT 1",
    "COMMIT",
    "ROLLBACK",
    "SAVEPOINT s",
    "ROLLBACK TO SAVEPOINT s",
    "RELEASE SAVEPOINT s",
    "SELECT 1/0",
    "SELECT 1; SELECT 1/0; SELECT 3",
    "SELEC 1",
    "SELECT nothing FROM customers",
    "UPDATE accounts SET balance = balance + 1 WHERE id = 1",
    "INSERT INTO accounts (id, owner) VALUES (1, 'again')",
    "SELECT balance FROM accounts WHERE id = 1",
    "SET application_name TO 'by hand'",
    "SET timezone TO 'Asia/Tokyo'",
    "SHOW timezone",
    "PREPARE a (int) AS SELECT $1 + 1",
    "EXECUTE a (41)",
    "DEALLOCATE a",
    "DEALLOCATE ALL",
    "DISCARD ALL",
    "DECLARE c CURSOR FOR SELECT id FROM accounts ORDER BY id",
    "DECLARE h CURSOR WITH HOLD FOR SELECT id FROM accounts ORDER BY id LIMIT 4",
    "FETCH 2 FROM c",
    "FETCH ALL FROM h",
    "CLOSE h",
    "CLOSE ALL",
    "LISTEN heard",
    "NOTIFY heard, 'you'",
    "SELECT warn('x')",
    "EXPLAIN (COSTS OFF) SELECT 1",
    "COPY (SELECT 1, 'x') TO STDOUT",
    "COPY prod.settings TO STDOUT (FORMAT binary)",
)
TO_PREPARE = (
    "SELECT $1::int4 + 1",
    "SELECT $1::text, $2::int4",
    "SELECT id FROM accounts ORDER BY id LIMIT 5",
    "SELECT 1/$1::int4",
    "UPDATE accounts SET balance = balance WHERE id = $1",
    "SELECT wrong",
    "SELEC",
    "",
    "SELECT 1; SELECT 2",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "SET timezone TO 'UTC'",
    "COPY (SELECT 2) TO STDOUT",
)

name = st.sampled_from(STATEMENTS)
portal = st.sampled_from(PORTALS)
value = st.sampled_from([b"1", b"0", b"7", b"x", b"", None, b"\0\0\0\1"])
simple = st.sampled_from(QUERIES).map(m.query)
parse = st.builds(m.parse, st.sampled_from(TO_PREPARE), name, st.sampled_from([(), (23,), (25, 23)]))
bind = st.builds(
    lambda values, statement, portal, formats, results: m.bind(
        values, statement=statement, portal=portal, formats=formats, result_formats=results
    ),
    st.lists(value, max_size=2),
    name,
    portal,
    st.sampled_from([(), (0,), (1,)]),
    st.sampled_from([(), (0,), (1,), (1, 0)]),
)
describe = st.one_of(name.map(m.describe_statement), portal.map(m.describe_portal))
execute = st.builds(m.execute, portal, st.sampled_from([0, 0, 0, 1, 3]))
close = st.one_of(name.map(m.close_statement), portal.map(m.close_portal))
copy_in = st.builds(
    lambda lines, end: m.query("COPY audit_trail (what) FROM STDIN") + b"".join(map(m.copy_data, lines)) + end,
    st.lists(st.sampled_from([b"one\n", b"two\nthr", b"ee\n", b"", b"too\tmany\n"]), max_size=4),
    st.sampled_from([m.copy_done(), m.copy_fail("enough")]),
)
usual = st.builds(
    lambda statement, values: m.parse(statement) + m.bind(values) + m.describe_portal() + m.execute() + m.sync(),
    st.sampled_from(TO_PREPARE),
    st.lists(value, max_size=2),
)
stray = st.sampled_from([m.copy_data(b"stray"), m.copy_done(), m.copy_fail("stray")])  # PostgreSQL ignores these outside of COPY
block = st.one_of(simple, parse, bind, describe, execute, close, copy_in, usual, st.just(m.sync()), st.just(m.flush()), stray)


def answers(client: WireClient, data: bytes, cuts: list[int]) -> list[m.Reply]:
    """Send it in pieces; everything that comes back until both sides are known to be in the same place."""
    data += m.sync() + m.query("ROLLBACK") + m.query(f"SELECT '{END.decode()}'")
    start = 0
    for cut in [*sorted({cut % len(data) for cut in cuts}), len(data)]:
        client.send(data[start:cut])
        start = cut
    replies: list[m.Reply] = []
    while m.DataRow((END,)) not in replies[-3:]:
        replies += client.receive_until_ready()
    return replies


def log_in(endpoint: Endpoint, database: str) -> WireClient:
    client = WireClient.tcp("127.0.0.1", endpoint.port)
    client.log_in("readwrite", database, endpoint.password("readwrite"))
    return client


@pytest.fixture
def twins(postgres: PostgresServer) -> Iterator[tuple[str, str]]:
    """Two copies of the shop: what the control writes, the other doesn't see."""
    names = postgres.create_database(), postgres.create_database()
    yield names
    for database in names:
        postgres.drop_database(database)


@pytest.mark.timeout(600)
@settings(
    max_examples=250,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)
@given(blocks=st.lists(block, min_size=1, max_size=12), cuts=st.lists(st.integers(0, 4000), max_size=6))
def test_any_sequence_is_answered_as_by_the_target(
    endpoint: Endpoint, postgres: PostgresServer, twins: tuple[str, str], blocks: list[bytes], cuts: list[int]
) -> None:
    data = b"".join(blocks)
    with log_in(postgres.endpoint, twins[0]) as control, log_in(endpoint, twins[1]) as client:
        expected = comparable(answers(control, data, []), control)
        note(f"{blocks}")
        found = comparable(answers(client, data, cuts), client)
    assert found == expected


def comparable(replies: list[m.Reply], client: WireClient) -> list[object]:
    """Without what may differ: the process id of whoever notifies, the words for a syntax error, which the gate finds itself, and where in
    PostgreSQL's source an error was raised, which it can't know when it answers in the target's place.
    """
    found: list[object] = []
    for reply in replies:
        if isinstance(reply, m.NotificationResponse):
            assert client.key is not None
            found.append(("notification", reply.channel, reply.payload))
        elif isinstance(reply, m.ErrorResponse | m.NoticeResponse):
            is_syntax = reply.sqlstate == "42601"
            fields = {letter: value for letter, value in reply.fields.items() if letter not in SOURCE_FIELDS and not is_syntax}
            found.append((type(reply).__name__, reply.severity, reply.sqlstate, fields))
        else:
            found.append(reply)
    return found


def test_a_statement_of_eight_mebibytes_is_answered(endpoint: Endpoint, shop: str) -> None:
    with log_in(endpoint, shop) as client:
        text = "x" * (8 << 20)
        assert client.rows(f"SELECT length('{text}')") == [(str(len(text)).encode(),)]


def test_a_cell_of_forty_megabytes_comes_through_whole(endpoint: Endpoint, shop: str) -> None:
    with log_in(endpoint, shop) as client:
        ((cell,),) = client.rows("SELECT repeat('0123456789', 4000000)")
        assert cell is not None
        assert len(cell) == 40_000_000
        assert cell == b"0123456789" * 4_000_000


def test_a_session_that_trickles_in_byte_by_byte(endpoint: Endpoint, shop: str) -> None:
    with WireClient.tcp("127.0.0.1", endpoint.port) as client:
        client.send_in_pieces(m.startup({"user": "readonly", "database": shop}))
        replies = client.receive_until(m.Authentication)
        assert isinstance(replies[-1], m.Authentication)
    with log_in(endpoint, shop) as client:
        client.send_in_pieces(m.query("SELECT 1") + m.parse("SELECT $1::int") + m.bind([b"2"]) + m.execute() + m.sync())
        replies = client.receive_until_ready(2)
        assert m.DataRow((b"1",)) in replies
        assert m.DataRow((b"2",)) in replies


def test_a_portal_goes_on_after_other_statements(endpoint: Endpoint, shop: str) -> None:
    with log_in(endpoint, shop) as client:
        client.ask("BEGIN")
        client.send(
            m.parse("SELECT id FROM accounts ORDER BY id", "walk"),
            m.bind(statement="walk", portal="w"),
            m.execute("w", 2),
            m.sync(),
        )
        assert m.PORTAL_SUSPENDED in client.receive_until_ready()
        assert client.rows("SELECT 'between'") == [(b"between",)]
        client.send(m.execute("w", 2), m.sync())
        assert client.receive_until_ready()[:3] == [m.DataRow((b"3",)), m.DataRow((b"4",)), m.PORTAL_SUSPENDED]
        client.ask("COMMIT")
        client.send(m.execute("w", 1), m.sync())
        error = client.receive_until_ready()[0]
        assert isinstance(error, m.ErrorResponse)
        assert error.sqlstate == "34000"


def test_a_protocol_newer_than_all_is_negotiated(endpoint: Endpoint, shop: str) -> None:
    with WireClient.tcp("127.0.0.1", endpoint.port) as client:
        replies = client.log_in("readonly", shop, endpoint.password("readonly"), version=0x0003270F, **{"_pq_.test": "1"})
        assert m.NegotiateProtocolVersion(m.PROTOCOL_3_2, ("_pq_.test",)) in replies
        assert client.key is not None
        assert len(client.key.key) > 4
        assert client.rows("SELECT 1") == [(b"1",)]


@pytest.mark.parametrize("version", [m.PROTOCOL_3_0, m.PROTOCOL_3_2], ids=["3.0", "3.2"])
def test_a_cancel_request_needs_the_right_key(endpoint: Endpoint, postgres: PostgresServer, shop: str, version: int) -> None:
    with WireClient.tcp("127.0.0.1", endpoint.port) as client:
        client.log_in("readonly", shop, endpoint.password("readonly"), version=version)
        assert client.key is not None
        client.send(m.query("SELECT pg_sleep(30), 'by hand'"))
        postgres.wait_for_query("pg_sleep(30), 'by hand'", shop)
        wrong = bytes([client.key.key[0] ^ 1]) + client.key.key[1:]
        for key in (wrong, client.key.key):
            with WireClient.tcp("127.0.0.1", endpoint.port) as other:
                other.send(m.cancel_request(client.key.pid, key))
                assert other.is_closed_by_peer()
            if key == wrong:
                postgres.wait_for_query("pg_sleep(30), 'by hand'", shop)
        error = client.receive_until_ready()[1]
        assert isinstance(error, m.ErrorResponse)
        assert error.sqlstate == "57014"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", id="HTTP"),
        pytest.param(m.packet(m.PROTOCOL_3_0, b"user\0x"), id="start-up without its end"),
        pytest.param(m.packet(0x00020000, b"user\0x\0\0"), id="protocol 2"),
        pytest.param(b"\0\0\0\4", id="too short a packet"),
        pytest.param(b"\x7f\xff\xff\xff" + m.packet(m.PROTOCOL_3_0)[4:], id="too long a packet"),
        pytest.param(
            m.ssl_request() + m.startup({"user": "x", "database": "x"}), id="bytes behind SSLRequest in the same packet"
        ),
    ],
)
def test_a_bad_start_up_is_refused_and_closed(endpoint: Endpoint, data: bytes) -> None:
    with WireClient.tcp("127.0.0.1", endpoint.port) as client:
        client.send(data)
        client.shut_down_writing()
        assert_refused(client)


def assert_refused(client: WireClient) -> None:
    """Whatever comes, it isn't a session: the peer closes without AuthenticationOk."""
    received = client.read_to_end()
    assert m.message(b"R", b"\0\0\0\0") not in received
    assert b"Z\0\0\0\5I" not in received
