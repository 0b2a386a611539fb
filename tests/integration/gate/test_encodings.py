"""Clients with another encoding than UTF-8: converted as the target itself converts, whatever is asked; and no way to have the gate and the
target read a statement differently.

The measure is the target: the same bytes are sent to it directly and through the gate, and the answers must be the same bytes.
"""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Iterator, Sequence

import psycopg
import pytest

from sidegate.policy.config import ColumnMatch, RuleAction, RuleConfig
from sidegate.postgres.encodings import ENCODINGS, Encoding, Untranslatable
from sidegate.record.reader import find_recordings
from tests.integration.gate.conftest import config_with, error_in, run_sidegate, running
from tests.support import wire_messages as m
from tests.support.gate import GateProcess
from tests.support.issuer import Issuer
from tests.support.postgres_server import PostgresServer
from tests.support.wire import WireClient

MASK = RuleConfig("secret", RuleAction.MASK, columns=(ColumnMatch("password"), ColumnMatch("ssn")))
SECRET = "078-05-1120"
# SJIS: two bytes a character, and the second of these is a backslash's or a quote-like one's.
SO, HYO, NO = "ソ".encode("cp932"), "表".encode("cp932"), "能".encode("cp932")
assert all(code[1:] == b"\\" for code in (SO, HYO, NO))


@pytest.fixture(scope="module")
def gate(postgres: PostgresServer, issuer: Issuer) -> Iterator[GateProcess]:
    with running(config_with(postgres, issuer, MASK)) as gate:
        yield gate


@pytest.fixture(scope="module")
def database(postgres: PostgresServer) -> str:
    name = postgres.create_database()
    with postgres.admin(name) as admin:
        admin.execute(f"""
            CREATE TABLE words (id int, word text, ssn text); GRANT ALL ON words TO readwrite;
            INSERT INTO words VALUES (1, 'Grüße', '{SECRET}'), (2, '表能ソ', '{SECRET}'), (3, '€', '{SECRET}'), (4, '한', '{SECRET}');
            CREATE TABLE "größe" ("straße" text); GRANT ALL ON "größe" TO readwrite
        """)
    return name


class Pair:
    """The same client twice: at the target, and behind the gate."""

    def __init__(self, server: PostgresServer, gate: GateProcess, issuer: Issuer, database: str, encoding: str | None) -> None:
        parameters = {} if encoding is None else {"client_encoding": encoding}
        endpoint = gate.endpoint(issuer)
        self.direct = WireClient.tcp("127.0.0.1", server.endpoint.port)
        self.gated = WireClient.tcp("127.0.0.1", gate.port)
        self.direct.log_in("readwrite", database, server.endpoint.password("readwrite"), **parameters)
        self.gated.log_in("readwrite", database, endpoint.password("readwrite"), **parameters)

    def close(self) -> None:
        self.direct.close()
        self.gated.close()

    def said(self, *messages: bytes, times: int = 1, pieces: int | None = None) -> list[tuple[bytes, ...]]:
        """What both answer, up to so many ReadyForQuery; asserts that it is the same, and returns it as bytes."""
        self.direct.send(*messages)
        if pieces is None:
            self.gated.send(*messages)
        else:
            self.gated.send_in_pieces(b"".join(messages), pieces)
        expected = raw_replies(self.direct, times)
        actual = raw_replies(self.gated, times)
        assert [without_places(reply) for reply in actual] == [without_places(reply) for reply in expected]
        return actual


def raw_replies(client: WireClient, times: int) -> list[tuple[bytes, ...]]:
    """Type and body of each, less ParameterStatus: those come at another moment, and `parameters` below looks at them."""
    replies: list[tuple[bytes, ...]] = []
    while times:
        kind, length = struct.unpack(">cI", client.read_exactly(5))
        body = client.read_exactly(length - 4)
        if kind == b"S":
            name, value, _ = body.split(b"\0")
            client.parameters[name.decode()] = value.decode()
            continue
        replies.append((kind, body))
        times -= kind == b"Z"
    return replies


def without_places(reply: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Of an error only what a program reads and its message: where in the target's source it was raised is the target's own."""
    kind, body = reply
    if kind != b"E":
        return reply
    fields = {field[:1]: field[1:] for field in body.split(b"\0") if field}
    return kind, *(fields.get(key, b"") for key in (b"S", b"C", b"M"))


def query(text: bytes) -> bytes:
    return m.message(b"Q", text + b"\0")


def cells(replies: Sequence[tuple[bytes, ...]]) -> list[bytes]:
    """The values of one-column rows."""
    return [body[6:] for kind, body in replies if kind == b"D"]


@pytest.fixture
def pair(
    postgres: PostgresServer, gate: GateProcess, issuer: Issuer, database: str, request: pytest.FixtureRequest
) -> Iterator[Pair]:
    made = Pair(postgres, gate, issuer, database, getattr(request, "param", None))
    yield made
    made.close()


def begun_with(encoding: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("pair", [encoding], indirect=True)


# ---- every code ------------------------------------------------------------------------------------------------------------------------

# Codes that the target has and the gate refuses: characters that Python's codec lacks. Refused is safe.
LEFT_OUT = {"EUC_KR": 2, "UHC": 189}
LEFT_OUT_CHARACTERS = {"EUC_KR": 1, "UHC": 189, "GBK": 1}


def to_utf8(encoding: Encoding, code: bytes) -> str | None:
    try:
        return encoding.to_utf8(code).decode()
    except Untranslatable:
        return None


def from_utf8(encoding: Encoding, character: str) -> bytes | None:
    try:
        return encoding.from_utf8(character.encode())
    except Untranslatable:
        return None


@pytest.fixture(scope="module")
def converter(postgres: PostgresServer, database: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    with postgres.admin(database) as admin:
        for name, takes, gives, call in (("dec", "bytea", "text", "convert_from"), ("enc", "text", "bytea", "convert_to")):
            admin.execute(
                f"CREATE FUNCTION pg_temp.{name}(v {takes}, e name) RETURNS {gives} LANGUAGE plpgsql AS "
                f"$$BEGIN RETURN {call}(v, e); EXCEPTION WHEN OTHERS THEN RETURN NULL; END$$"
            )
        yield admin


@pytest.mark.parametrize("name", [name for name in ENCODINGS if name != "SQL_ASCII"])
def test_every_code_and_character_means_what_it_means_to_the_target(
    converter: psycopg.Connection[tuple[object, ...]], name: str
) -> None:
    encoding = ENCODINGS[name]
    codes = [bytes([first]) for first in range(1, 256)]
    if not encoding.has_single_bytes:
        codes += [bytes([first, second]) for first in range(128, 256) for second in range(1, 256)]
    characters = [
        chr(number) for number in (*range(1, 0xD800), *range(0xE000, 0x10000), *range(0x1F300, 0x1F600), 0x20000, 0x10FFFF)
    ]
    left_out = left_out_characters = 0
    decoding = converter.execute("SELECT b, pg_temp.dec(b, %s) FROM unnest(%s::bytea[]) b", (name, codes))
    for code, expected in decoding:
        assert isinstance(code, bytes)
        actual = to_utf8(encoding, code)
        left_out += actual is None and expected is not None
        assert actual in (None, expected), code.hex()
    encodable = converter.execute("SELECT t, pg_temp.enc(t, %s) FROM unnest(%s::text[]) t", (name, characters))
    for character, expected in encodable:
        assert isinstance(character, str)
        written = from_utf8(encoding, character)
        left_out_characters += written is None and expected is not None
        assert written in (None, expected), hex(ord(character))
        if written is not None and len(written) > 2:
            assert to_utf8(encoding, written) == character
    assert (left_out, left_out_characters) == (LEFT_OUT.get(name, 0), LEFT_OUT_CHARACTERS.get(name, 0))


# ---- the same as without a gate --------------------------------------------------------------------------------------------------------


@begun_with("LATIN1")
def test_a_session_that_begins_in_latin1_is_answered_in_latin1(pair: Pair) -> None:
    assert pair.gated.parameters["client_encoding"] == "LATIN1"
    assert cells(pair.said(query(b"SELECT word FROM words WHERE word = 'Gr\xfc\xdfe'"))) == [b"Gr\xfc\xdfe"]
    pair.said(query('SELECT \'ß\' AS "größer"; SELECT "straße" FROM "größe"'.encode("latin-1")))
    pair.said(query('SELECT * FROM "größer"'.encode("latin-1")))
    pair.said(query("SELECT fehlt AS ä FROM words".encode("latin-1")))


@begun_with("win1252")
def test_names_and_parameters_of_the_extended_protocol_are_converted(pair: Pair) -> None:
    name = "größe".encode("cp1252")
    parse = m.message(b"P", name + b"\0" + "SELECT $1::text AS ä, length($1) -- ü".encode("cp1252") + b"\0\0\0")
    values = struct.pack(">HHI", 0, 1, 3) + "€ß€".encode("cp1252") + b"\0\0"
    bind = m.message(b"B", name + b"\0" + name + b"\0" + values)
    describe = m.message(b"D", b"S" + name + b"\0"), m.message(b"D", b"P" + name + b"\0")
    execute = m.message(b"E", name + b"\0" + b"\0\0\0\0")
    close = m.message(b"C", b"S" + name + b"\0")
    for pieces in (None, 1, 3):
        replies = pair.said(parse, bind, *describe, execute, close, m.sync(), pieces=pieces)
        assert any("€ß€".encode("cp1252") in body for kind, body in replies if kind == b"D")


@begun_with("SQL_ASCII")
def test_sql_ascii_passes_what_the_target_has(pair: Pair) -> None:
    assert pair.gated.parameters["client_encoding"] == "SQL_ASCII"
    assert "表能ソ".encode() in cells(pair.said(query("SELECT word FROM words WHERE word <> 'ß'".encode())))


@pytest.mark.parametrize(
    "text", [b"SET client_encoding = 'SJIS'", b"SET NAMES 'sjis'", b"set session client_encoding to shift_jis"]
)
def test_a_plain_set_changes_the_encoding_from_the_next_message_on(pair: Pair, text: bytes) -> None:
    if text.endswith(b"shift_jis"):
        text = text.replace(b"shift_jis", b"sjis")
    select = query(b"SELECT '" + HYO + SO + b"', word FROM words WHERE id = 2")
    replies = pair.said(query(text), select, times=2)
    assert pair.gated.parameters["client_encoding"] == "SJIS"
    pair.said(query(b"SET client_encoding TO 'UTF8'"), query("SELECT '表'".encode()), times=2)
    assert pair.gated.parameters["client_encoding"] == "UTF8"
    assert sum((HYO + SO) in body for kind, body in replies if kind == b"D") == 1


def test_the_rest_of_the_string_is_answered_in_the_new_encoding(pair: Pair) -> None:
    said = pair.said(query(b"SET client_encoding = 'SJIS'; SELECT word FROM words WHERE id = 2"), pieces=7)
    assert cells(said) == [HYO + NO + SO]
    assert pair.gated.parameters["client_encoding"] == "SJIS"


def test_a_string_that_fails_takes_its_change_back(pair: Pair) -> None:
    pair.said(query(b"SET client_encoding = 'LATIN1'; SELECT 1/0"))
    assert pair.gated.parameters["client_encoding"] == "UTF8"
    pair.said(query("SELECT 'ü', '表'".encode()))


@begun_with("LATIN1")
def test_reset_all_and_discard_all_bring_back_what_the_session_began_with(pair: Pair) -> None:
    for reset in (b"RESET ALL", b"DISCARD ALL"):
        pair.said(query(b"SET client_encoding = 'WIN1252'"), query(b"SELECT '\x80'"), times=2)
        pair.said(query(reset), query(b"SELECT '\xfc'"), times=2)
        assert pair.gated.parameters["client_encoding"] == pair.direct.parameters["client_encoding"] == "LATIN1"


# ---- what can't be converted -----------------------------------------------------------------------------------------------------------


@begun_with("LATIN1")
def test_a_character_without_an_equivalent_is_an_error_and_the_session_lives(pair: Pair) -> None:
    said = pair.said(query(b"SELECT word FROM words WHERE id IN (1, 3) ORDER BY id"))
    assert [kind for kind, _ in said] == [b"T", b"D", b"E", b"Z"]
    pair.said(query(b"SELECT word FROM words WHERE id = 1"))


@begun_with("LATIN1")
def test_in_a_transaction_such_an_error_fails_it(pair: Pair) -> None:
    for steps in (
        [query(b"SELECT word FROM words WHERE id = 3")],
        [m.parse("SELECT word FROM words WHERE id = 3"), m.bind(), m.execute(), m.sync()],
    ):
        pair.said(query(b"BEGIN"))
        assert pair.said(*steps)[-1] == (b"Z", b"E")
        pair.said(query(b"ROLLBACK"))


@begun_with("LATIN1")
def test_what_such_a_statement_wrote_in_the_extended_protocol_is_undone(pair: Pair) -> None:
    insert = m.parse("INSERT INTO words SELECT 99, U&'\\20AC' RETURNING word")
    said = pair.said(insert, m.bind(), m.execute(), m.sync(), query(b"SELECT count(*) FROM words WHERE id = 99"), times=2)
    assert [kind for kind, _ in said][:4] == [b"1", b"2", b"E", b"Z"]
    assert cells(said) == [b"0"]


@begun_with("SJIS")
@pytest.mark.parametrize(
    "text", [b"SELECT '\x83'", b"SELECT '\x83\x27'", b"SELECT '\xfd'", b"SELECT '\x80'", b"SELECT 1 AS a\x81"]
)
def test_bytes_that_are_no_character_are_refused_as_the_target_does(pair: Pair, text: bytes) -> None:
    said = pair.said(query(text))
    assert b"22021" in said[0][1]
    pair.said(query(b"SELECT '" + SO + b"'"))


@begun_with("WIN1252")
def test_bytes_that_stand_for_nothing_fail_a_pipeline_up_to_its_sync(pair: Pair) -> None:
    bad = m.message(b"P", b"\0SELECT '\x81'\0\0\0")
    pair.said(query(b"BEGIN"))
    assert pair.said(bad, m.bind(), m.execute(), m.sync())[-1] == (b"Z", b"E")
    pair.said(query(b"ROLLBACK"))
    bound = m.message(b"B", b"\0\0" + struct.pack(">HHI", 0, 1, 1) + b"\x81" + b"\0\0")
    pair.said(m.parse("SELECT $1::text"), bound, m.execute(), m.sync())


# ---- security --------------------------------------------------------------------------------------------------------------------------


@begun_with("SJIS")
@pytest.mark.parametrize(
    "text",
    [
        b"SELECT '" + HYO + b"' || 'x' AS a",  # the quote ends the string: the backslash before it is half of a character
        b"SELECT E'" + HYO + b"' AS a, 1 AS b",
        b"SELECT '" + SO + b"' AS a, ssn AS b FROM words WHERE '" + NO + b"' <> ''",
        b'SELECT 1 AS "' + HYO + b'", 2 AS "' + SO + b'"',
        b"SELECT $" + HYO + b"$ ' $" + HYO + b"$",
    ],
)
def test_a_trail_byte_is_never_a_backslash_or_a_quote(pair: Pair, text: bytes) -> None:
    pair.gated.send(query(text))
    gated = raw_replies(pair.gated, 1)
    assert SECRET.encode() not in b"".join(body for _, body in gated)
    if b"ssn" not in text:
        pair.gated.send(query(b"SELECT 1"))
        raw_replies(pair.gated, 1)
        pair.said(query(text))


@pytest.mark.parametrize("encoding", ["SJIS", "GBK", "UHC", "WIN1252", "LATIN1", "GB18030", "SQL_ASCII"])
def test_masks_hold_in_every_encoding(gate: GateProcess, issuer: Issuer, database: str, encoding: str) -> None:
    with WireClient.tcp("127.0.0.1", gate.port) as client:
        client.log_in("readwrite", database, gate.endpoint(issuer).password("readwrite"))
        client.send(query(f"SET client_encoding = '{encoding}'; SELECT ssn AS a FROM words LIMIT 4".encode()))
        said = raw_replies(client, 1)
        assert len(cells(said)) == 4
        assert SECRET.encode() not in b"".join(body for _, body in said)


@pytest.mark.parametrize(
    "text",
    [
        "SET LOCAL client_encoding = 'LATIN1'",
        "RESET client_encoding",
        "SET client_encoding TO DEFAULT",
        "SELECT set_config('client_encoding', 'LATIN1', false)",
        "SELECT set_config('client_encoding', 'UTF8', false)",
        "SELECT 1; SET client_encoding = 'UTF8'",
        "SET client_encoding = 'WIN1252'; SET client_encoding = 'UTF8'",
        "SET client_encoding = 'WIN1252'; RESET ALL",
        "SET client_encoding = 'WIN1252'; BEGIN",
        "SET client_encoding = 'UTF8'; COMMIT",
        "BEGIN; SET client_encoding = 'UTF8'",
        "SET client_encoding = 'EUC_JP'",
        "SET client_encoding = 'no_such'",
    ],
)
@begun_with("SJIS")
def test_no_other_way_changes_the_encoding(pair: Pair, text: str) -> None:
    error = error_in(pair.gated.ask(text))
    assert error.sqlstate == "42501"
    assert pair.gated.parameters["client_encoding"] == "SJIS"
    for messages in ([m.parse(text), m.bind(), m.execute(), m.sync()],):
        pair.gated.send(*messages)
        assert error_in(pair.gated.receive_until_ready()).sqlstate in ("42501", "42601")
    pair.said(query(b"SELECT '" + SO + b"'"))


@begun_with("LATIN1")
def test_in_a_transaction_the_encoding_stays(pair: Pair) -> None:
    pair.gated.ask("BEGIN")
    assert error_in(pair.gated.ask("SET client_encoding = 'UTF8'")).fields["H"]
    pair.gated.ask("ROLLBACK")
    pair.said(query(b"SELECT '\xfc'"))


def test_the_target_never_leaves_utf8_and_recordings_are_utf8(
    gate: GateProcess, issuer: Issuer, database: str, postgres: PostgresServer
) -> None:
    with WireClient.tcp("127.0.0.1", gate.port) as client:
        client.log_in("readwrite", database, gate.endpoint(issuer).password("readwrite"))
        before = set(find_recordings(gate.state / "recordings"))
        client.send(query(b"SET client_encoding = 'SJIS'"), query(b"SELECT '" + HYO + b"' AS kept, pg_client_encoding()"))
        said = raw_replies(client, 2)
        assert b"UTF8" in b"".join(body for kind, body in said if kind == b"D")
        client.send(m.message(b"X"))
    newest = max(before, key=lambda path: path.stat().st_mtime_ns)
    assert "表" in run_sidegate("replay", newest).stdout


# ---- COPY and binary format ------------------------------------------------------------------------------------------------------------


@begun_with("LATIN1")
def test_copy_says_its_encoding_or_is_refused(pair: Pair) -> None:
    assert "ENCODING 'LATIN1'" in error_in(pair.gated.ask('COPY "groesse" FROM STDIN')).fields["H"]
    assert "ENCODING 'LATIN1'" in error_in(pair.gated.ask("COPY (SELECT 1) TO STDOUT")).fields["H"]
    copy = query("COPY \"größe\" FROM STDIN (ENCODING 'LATIN1')".encode("latin-1"))
    for client in (pair.direct, pair.gated):
        client.send(copy)
        assert client.read_exactly(1) == b"G"
        client.read_exactly(struct.unpack(">I", client.read_exactly(4))[0] - 4)
        client.send(m.copy_data(b"gr\xfcn\n"), m.copy_done())
        assert raw_replies(client, 1)[-1] == (b"Z", b"I")
    pair.said(query('SELECT * FROM "größe"'.encode("latin-1")))


@begun_with("LATIN1")
def test_binary_format_is_refused_where_it_could_be_text(pair: Pair) -> None:
    pair.gated.send(m.parse("SELECT 'x'::text"), m.bind(result_formats=[1]), m.execute(), m.sync())
    assert error_in(pair.gated.receive_until_ready()).sqlstate == "0A000"
    pair.gated.send(m.parse("SELECT $1::text"), m.bind([b"\xfc"], formats=[1]), m.execute(), m.sync())
    assert error_in(pair.gated.receive_until_ready()).sqlstate == "0A000"
    pair.gated.send(query(b"BEGIN"), query(b"DECLARE c BINARY CURSOR FOR SELECT word FROM words WHERE id = 1"), query(b"FETCH c"))
    said = raw_replies(pair.gated, 3)
    assert [without_places(reply)[2] for reply in said if reply[0] == b"E"] == [b"0A000"]
    assert said[-1] == (b"Z", b"E")
    pair.gated.ask("ROLLBACK")
    pair.said(query(b"SELECT '\xfc'"))


# ---- drivers ---------------------------------------------------------------------------------------------------------------------------


def test_psycopg_speaks_latin1_from_the_start_and_sjis_by_set(gate: GateProcess, issuer: Issuer, database: str) -> None:
    dsn = gate.endpoint(issuer).dsn("readwrite", database)
    with psycopg.connect(dsn, autocommit=True, client_encoding="latin1") as connection:
        assert connection.info.encoding == "iso8859-1"
        assert connection.execute("SELECT word FROM words WHERE word = %s", ["Grüße"]).fetchall() != []
        with pytest.raises(psycopg.errors.UntranslatableCharacter):
            connection.execute("SELECT word FROM words WHERE id = %s", [2])
        connection.execute("SET client_encoding TO 'SJIS'")
        assert connection.execute("SELECT word FROM words WHERE word = %s", ["表能ソ"]).fetchall() == [("表能ソ",)]


def test_psqls_encoding_command_changes_it(gate: GateProcess, issuer: Issuer, database: str, postgres: PostgresServer) -> None:
    endpoint = gate.endpoint(issuer)
    done = subprocess.run(
        [postgres.installation.program("psql"), "-X", "-A", "-t", "-q", endpoint.dsn("readwrite", database)],
        input=b"\\encoding WIN1252\nSELECT word FROM words WHERE id = 3;\n\\encoding\n\\encoding SJIS\nSELECT word FROM words WHERE id = 2;\n",
        env={**os.environ, "PGCLIENTENCODING": "LATIN1"},
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.splitlines() == [b"\x80", b"WIN1252", HYO + NO + SO]
