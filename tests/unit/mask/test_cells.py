"""Cells by type and format: a table of what stands instead of them, and real values of a server decoded again by psycopg."""

from __future__ import annotations

import json
import struct

import psycopg
import pytest
from psycopg import pq
from psycopg.adapt import Transformer

from sidegate.mask.cells import column_replacement, masked_cell, scan_cell
from sidegate.mask.detectors import DETECTOR_NAMES
from sidegate.mask.json import mask_json
from sidegate.mask.kinds import (
    BINARY,
    BYTEA_OID,
    FLOAT8_OID,
    GEOMETRY_OIDS,
    INT8_OID,
    JSON_OID,
    JSONB_OID,
    MONEY_OID,
    NUMBER_COMPOUND_OIDS,
    NUMERIC_OID,
    PLAIN_COMPOUND_OIDS,
    PLAIN_OIDS,
    TEXT,
    TEXT_OIDS,
    CellKind,
    kind_of,
)
from sidegate.mask.scanner import Scanner
from sidegate.mask.tally import Tally
from sidegate.policy.decision import MaskStrategy, ValueMask
from sidegate.policy.source import PolicyRule
from tests.support.postgres_server import PostgresServer

RULE = PolicyRule("ns", "policy", "rule")
CARD = 4242424242424242


def scanner(strategy: MaskStrategy = MaskStrategy.REDACT, *names: str) -> Scanner:
    return Scanner.of((ValueMask(frozenset(names) or DETECTOR_NAMES, strategy, RULE),))


@pytest.mark.parametrize(
    ("oid", "format_code", "redact", "fixed", "partial"),
    [
        (25, TEXT, b"[masked]", b"********", b"***-**-2629"),
        (25, BINARY, b"[masked]", b"********", b"***-**-2629"),
        (1043, BINARY, b"[masked]", b"********", b"***-**-2629"),
        (19, TEXT, b"[masked]", b"********", b"***-**-2629"),
        (114, TEXT, b'"[masked]"', b'"********"', b'"[masked]"'),
        (3802, TEXT, b'"[masked]"', b'"********"', b'"[masked]"'),
        (3802, BINARY, b'\x01"[masked]"', b'\x01"********"', b'\x01"[masked]"'),
        (17, TEXT, b"\\x5b6d61736b65645d", b"\\x2a2a2a2a2a2a2a2a", None),
        (17, BINARY, b"[masked]", b"********", None),
        (20, TEXT, None, None, None),
        (23, BINARY, None, None, None),
        (1700, BINARY, None, None, None),
        (1082, TEXT, None, None, None),
        (2950, BINARY, None, None, None),
        (1009, TEXT, None, None, None),
        (18, TEXT, None, None, None),
        (99999, TEXT, None, None, None),
    ],
)
def test_a_masked_column_shows_a_legal_value_of_its_type(
    oid: int, format_code: int, redact: bytes | None, fixed: bytes | None, partial: bytes | None
) -> None:
    cell = b"583-68-2629"
    for strategy, expected in (
        (MaskStrategy.REDACT, redact),
        (MaskStrategy.FIXED_LENGTH, fixed),
        (MaskStrategy.PARTIAL, partial),
    ):
        assert masked_cell(cell, oid, format_code, strategy, None) == expected
        is_constant, value = column_replacement(oid, format_code, strategy, None)
        assert (value == expected) if is_constant else (strategy is MaskStrategy.PARTIAL)
    assert masked_cell(cell, oid, format_code, MaskStrategy.NULL, None) is None


def numeric(number: int, scale: int = 0) -> bytes:
    digits, rest = [], number
    while rest:
        digits.insert(0, rest % 10000)
        rest //= 10000
    weight = len(digits) - 1
    while digits and digits[-1] == 0:
        digits.pop()
    return struct.pack(">HhHH", len(digits), weight, 0, scale) + b"".join(struct.pack(">H", digit) for digit in digits)


def sized(value: bytes | None) -> bytes:
    return struct.pack(">i", -1) if value is None else struct.pack(">i", len(value)) + value


def array(oid: int, *elements: bytes | None) -> bytes:
    return struct.pack(">iiIii", 1, None in elements, oid, len(elements), 1) + b"".join(map(sized, elements))


def record(*fields: tuple[int, bytes | None]) -> bytes:
    return struct.pack(">i", len(fields)) + b"".join(struct.pack(">I", oid) + sized(value) for oid, value in fields)


INT8_CARD = struct.pack(">q", CARD)

SCANNED: list[tuple[int, int, bytes, bytes | None]] = [
    (25, TEXT, b"card 4242 4242 4242 4242!", b"card [masked]!"),
    (25, BINARY, b"card 4242 4242 4242 4242!", b"card [masked]!"),
    (99999, TEXT, b"a@example.com", b"[masked]"),
    (99999, BINARY, b"a@example.com", None),
    (114, TEXT, b'{"pan": 4242424242424242, "s": "a@example.com x"}', b'{"pan": "[masked]", "s": "[masked] x"}'),
    (3802, BINARY, b'\x01{"pan": [4242424242424242, 1]}', b'\x01{"pan": ["[masked]", 1]}'),
    (3802, TEXT, b'{"4242424242424242": -4242424242424242.50}', b'{"[masked]": "[masked]"}'),
    (3802, TEXT, rb'{"a": "x\njohn@example.com\n"}', rb'{"a": "x[masked]\n"}'),
    (114, TEXT, b'"4242 4242 4242 4242"', b'"[masked]"'),
    (114, TEXT, b"4242424242424242", b'"[masked]"'),
    (17, TEXT, b"\\x" + b"id 4242424242424242".hex().encode(), b"\\x" + b"id [masked]".hex().encode()),
    (17, TEXT, rb"\000 4242424242424242", rb"\000 [masked]"),
    (17, TEXT, rb"\064\062\064\062424242424242", b"[masked]"),
    (17, BINARY, b"\x00\xff4242424242424242", b"\x00\xff[masked]"),
    (20, TEXT, b"4242424242424242", None),
    (20, BINARY, INT8_CARD, None),
    (20, BINARY, struct.pack(">q", -CARD), None),
    (701, TEXT, b"4.242424242424242e+15", None),
    (701, TEXT, b"378282246310005", None),
    (701, BINARY, struct.pack(">d", CARD), None),
    (790, TEXT, b"$42,424,242,424,242.42", None),
    (790, TEXT, b"$4,242,424,242,424,242.00", None),
    (790, BINARY, INT8_CARD, None),
    (790, BINARY, struct.pack(">q", CARD * 100), None),
    (1700, TEXT, b"4242424242424242.00", None),
    (1700, BINARY, numeric(CARD), None),
    (1700, BINARY, numeric(5555550000000000 + 5), numeric(5555550000000000 + 5)),  # no check digit
    (1700, BINARY, numeric(4000000000000002), None),
    (1009, TEXT, b'{a,"4242 4242 4242 4242"}', b'{a,"[masked]"}'),
    (1009, BINARY, array(25, b"a", b"4242424242424242"), array(25, b"a", b"[masked]")),
    (1016, TEXT, b"{1,4242424242424242}", None),
    (1016, BINARY, array(20, struct.pack(">q", 1), INT8_CARD), array(20, struct.pack(">q", 1), None)),
    (1231, BINARY, array(1700, numeric(CARD)), array(1700, None)),
    (3807, BINARY, array(3802, b'\x01"4242424242424242"'), array(3802, b'\x01"[masked]"')),
    (2249, TEXT, b'(1,"4242 4242 4242 4242")', b'(1,"[masked]")'),
    (2249, BINARY, record((23, b"\0\0\0\1"), (20, INT8_CARD)), record((23, b"\0\0\0\1"), (20, None))),
    (2249, BINARY, record((2249, record((1700, numeric(CARD))))), record((2249, record((1700, None))))),
    (99999, BINARY, record((25, b"4242424242424242")), record((25, b"[masked]"))),
    (2287, BINARY, array(2249, record((20, INT8_CARD))), array(2249, record((20, None)))),
    (3926, TEXT, b"[1,4242424242424242)", None),
    (3926, BINARY, b"\x02" + struct.pack(">i", 8) + INT8_CARD + struct.pack(">i", 8) + INT8_CARD, None),
    (1562, TEXT, b"a@example.com", None),
    (600, BINARY, struct.pack(">dd", 1.5, float(CARD)), None),
    (602, BINARY, b"\1" + struct.pack(">idd", 1, 1.5, float(CARD)), None),
    (2249, BINARY, record((99999, numeric(CARD))), record((99999, None))),  # a domain over numeric
    (99998, BINARY, array(99999, struct.pack(">d", float(CARD))), array(99999, None)),  # of a domain over float8
]


@pytest.mark.parametrize(("oid", "format_code", "cell", "expected"), SCANNED, ids=str)
def test_a_find_in_a_cell_leaves_a_legal_value(oid: int, format_code: int, cell: bytes, expected: bytes | None) -> None:
    tally = Tally()
    assert scan_cell(kind_of(oid, format_code), cell, scanner(), tally) == expected
    assert tally.take() == ({} if expected == cell else {RULE: 1})


STARTING = [
    b"4242424242424242",
    b"583-68-2629",
    b"DE89370400440532013000",
    b"AKIA3JMGPT7QX3W6NQXQ",
    b"sk_live_4eC39HqLyjWDarjtT1zdp7dc",
]


@pytest.mark.parametrize("secret", STARTING)
def test_the_length_before_a_value_is_no_part_of_it(secret: bytes) -> None:
    """Lengths of 48 to 57, 65 to 90 and 97 to 122 bytes read like a digit or letter in front of the value."""
    for size in range(len(secret), 300):
        value = secret.ljust(size)
        shown = b"[masked]".ljust(size - len(secret) + 8)
        for cell, expected in (
            (array(25, b"x", value), array(25, b"x", shown)),
            (record((25, value), (25, value)), record((25, shown), (25, shown))),
            (record((2249, record((1009, array(25, value))))), record((2249, record((1009, array(25, shown)))))),
            (hstore(value), None),  # no type of PostgreSQL's own: NULL
        ):
            assert scan_cell(CellKind.COMPOUND_BINARY, cell, scanner(), Tally()) == expected, size


def hstore(value: bytes) -> bytes:
    """hstore_send: a count, then keys and values behind their lengths."""
    return struct.pack(">ii", 1, 1) + b"k" + struct.pack(">i", len(value)) + value


def test_compounds_too_deep_to_be_read_show_nothing() -> None:
    for value in (INT8_CARD, b"4242424242424242".ljust(49)):
        cell = value
        for _ in range(40):
            cell = record((2249, cell))
        shown = scan_cell(CellKind.COMPOUND_BINARY, cell, scanner(), Tally())
        assert shown is not None
        assert value not in shown


CLEAN: list[tuple[int, int, bytes]] = [
    (25, TEXT, b"nothing here"),
    (114, TEXT, b'{"a": [1, 2.5, "x"]}'),
    (3802, BINARY, b'\x01{"a": 0.4242424242424242}'),
    (17, TEXT, b"\\x00ff"),
    (17, TEXT, b"\\xodd"[:5]),
    (20, BINARY, struct.pack(">q", 1234567890123456)),
    (701, BINARY, struct.pack(">d", 4.2424242424242)),
    (701, BINARY, struct.pack(">d", float("nan"))),
    (701, BINARY, struct.pack(">d", float("inf"))),
    (701, TEXT, b"1e+300"),
    (1700, BINARY, struct.pack(">HhHH", 0, 0, 0xC000, 0)),  # NaN
    (1700, BINARY, struct.pack(">HhHH", 0, 0, 0xD000, 0x20)),  # infinity
    (1700, BINARY, b"short"),
    (1016, BINARY, array(20, struct.pack(">q", 7))),
    (1009, BINARY, struct.pack(">iiI", 0, 0, 25)),
    (99999, BINARY, b"\x00\x01\x02"),
    (99999, BINARY, b""),
    (1186, TEXT, b"1 day 02:03:04"),
]


@pytest.mark.parametrize(("oid", "format_code", "cell"), CLEAN, ids=str)
def test_a_cell_without_finds_is_the_same_object(oid: int, format_code: int, cell: bytes) -> None:
    kind = kind_of(oid, format_code)
    if cell == b"\\xodd":
        assert scan_cell(kind, cell, scanner(), Tally()) is None  # no bytea that can be read: nothing of it passes
        return
    assert scan_cell(kind, cell, scanner(), Tally()) is cell


def test_null_strategy_makes_the_whole_cell_null() -> None:
    for oid, cell in ((25, b"card 4242424242424242"), (114, b'{"a": "4242424242424242"}'), (17, b"4242424242424242")):
        assert scan_cell(kind_of(oid, TEXT), cell, scanner(MaskStrategy.NULL), Tally()) is None


def test_json_stays_json_whatever_is_masked() -> None:
    documents = [
        '{"a": 4242424242424242e0}',
        '{"a": "\\u0034242424242424242"}',
        '{"a": "\\"4242424242424242\\""}',
        '["a@example.com", "583-68-2629", 4242424242424242]',
        '"-----BEGIN PRIVATE KEY-----\\nMII="',
        '{"k": "-----BEGIN PRIVATE KEY-----\\nMII", "b": 1}',
        '{"a":"4242","b":"4242"}',
    ]
    for strategy in (MaskStrategy.REDACT, MaskStrategy.PARTIAL, MaskStrategy.FIXED_LENGTH):
        for document in documents:
            masked = mask_json(document.encode(), scanner(strategy), Tally())
            assert masked is not None
            json.loads(masked)
            if document != documents[-1]:
                assert masked != document.encode()


def test_a_find_across_strings_hides_the_whole_document() -> None:
    document = b'{"k": "-----BEGIN PRIVATE KEY-----", "b": "MII"}'
    assert mask_json(document, scanner(), Tally()) == b'"[masked]"'


def test_a_deep_document_is_masked_whole() -> None:
    document = b"[" * 20000 + b'"a@example.com"' + b"]" * 20000
    assert mask_json(document, scanner(), Tally()) == b'"[masked]"'


# ---- real values -------------------------------------------------------------------------------------------------------------------------

HOLDING = [
    "'4242 4242 4242 4242'::text",
    "'4242424242424242'::varchar(20)",
    "'4242424242424242'::char(30)",
    "'4242424242424242'::name",
    "4242424242424242::int8",
    "4242424242424242::numeric",
    "4242424242424242.10::numeric(20,2)",
    "(-4242424242424242)::numeric",
    "4000000000000002::numeric",
    "4242424242424242::float8",
    "4000000000000002::float8",
    "4242424242424242::money",
    "'4242424242424242'::bytea",
    "'{\"pan\": 4242424242424242}'::json",
    '\'{"pan": "4242424242424242"}\'::jsonb',
    "'{\"pan\": 4242424242424242}'::jsonb",
    "to_jsonb(4242424242424242)",
    "ARRAY['4242 4242 4242 4242', 'x']",
    "ARRAY[4242424242424242, 1]",
    "ARRAY[4242424242424242::numeric]",
    "ARRAY['4242424242424242'::bytea]",
    "ARRAY['\"4242424242424242\"'::jsonb]",
    "ROW(1, 4242424242424242::int8)",
    "ROW(1, '4242424242424242'::text, ROW(4242424242424242::numeric))",
    "ARRAY[ROW(1, 4242424242424242::int8)]",
    "ROW('4242424242424242'::bytea)",
    "int8range(1, 4242424242424242)",
    "numrange(4242424242424242, NULL)",
    "int8multirange(int8range(1, 4242424242424242))",
    "ARRAY[int8range(1, 4242424242424242)]",
    "('4242424242424242', 4242424242424242)::pair",
    "'<a>4242424242424242</a>'::text",
    "to_tsvector('simple', 'pay 4242424242424242')",
    "'{a@example.com}'::text[]",
    "B'1010'::text || ' 583-68-2629'",
]
CLEAR = [
    "'nothing'::text",
    "1234567890123456::int8",
    "0.4242424242424242::float8",
    "4242.424242424242::float8",
    "0.4242424242424242::numeric",
    "12345678901234567890.5::numeric",
    "'NaN'::numeric",
    "'Infinity'::float8",
    "12.34::money",
    "'\\x00ff'::bytea",
    '\'{"a": [1, 2.5, "x"]}\'::jsonb',
    "'d290f1ee-6c54-4b01-90e6-d701748f0851'::uuid",
    "'2024-01-02 03:04:05.678901+00'::timestamptz",
    "'2024-01-02'::date",
    "'1 day 02:03:04'::interval",
    "ARRAY[1, 2, 3]",
    "ARRAY['a', NULL, 'b']",
    "ARRAY[1.5, 2.5]::numeric[]",
    "ROW(1, 'x', now())",
    "int8range(1, 10)",
    "'192.168.100.200/32'::inet",
    "'fe80::1234:5678:9abc'::inet",
    "ARRAY['2011-02-03 04:05:06.789012'::timestamp]",
    "tsrange('2011-02-03 04:05:06.789012', '2011-02-03 04:05:07.789012')",
    "tstzmultirange(tstzrange('2011-02-03 04:05:06.789012+00', '2011-02-03 04:05:07.789012+00'))",
    "'00:11:22:33:44:55'::macaddr",
    "true",
    "4.2::float4",
    "B'1010'",
    "point(1, 2)",
    "'a'::\"char\"",
    "''::text",
    # Their bytes, read as 64-bit numbers from every place on, would be a card's number.
    "int4range(1, 5)",
    "ARRAY[int4range(1, 2)]",
    "int4multirange(int4range(1, 2))",
    "tstzrange('2024-01-01', '2024-02-01')",
    "tsrange('2024-01-01', '2024-01-02')",
    "daterange('2024-01-01', '2024-02-01')",
    "tstzmultirange(tstzrange('2024-01-01', '2024-02-01'))",
    "ROW(1, int4range(1, 5))",
]


@pytest.fixture(scope="module")
def connection(postgres: PostgresServer) -> psycopg.Connection:
    name = postgres.create_database()
    with postgres.admin(name) as opened:
        opened.execute("CREATE TYPE pair AS (a text, b int8)")
        opened.commit()
        yield opened
    postgres.drop_database(name)


def raw_cell(connection: psycopg.Connection, expression: str, format_code: int) -> tuple[int, bytes]:
    result = connection.pgconn.exec_params(f"SELECT {expression}".encode(), None, result_format=format_code)
    assert result.status == pq.ExecStatus.TUPLES_OK, result.error_message
    value = result.get_value(0, 0)
    assert value is not None
    return result.ftype(0), value


@pytest.mark.parametrize("format_code", [TEXT, BINARY])
@pytest.mark.parametrize("expression", HOLDING)
def test_real_values_with_a_secret_are_masked_and_decode(
    connection: psycopg.Connection, expression: str, format_code: int
) -> None:
    oid, value = raw_cell(connection, expression, format_code)
    masked = scan_cell(kind_of(oid, format_code), value, scanner(), Tally())
    if masked is None:
        return
    assert masked != value
    loaded = Transformer(connection).get_loader(oid, pq.Format(format_code)).load(masked)
    for shown in (str(loaded), loaded.hex() if isinstance(loaded, bytes) else "", str(masked)):
        for secret in ("4242424242424242", "4242 4242", "a@example", "583-68", b"42424242".hex()):
            assert secret not in shown


@pytest.mark.parametrize("format_code", [TEXT, BINARY])
@pytest.mark.parametrize("expression", CLEAR)
def test_real_values_without_a_secret_pass_unchanged(connection: psycopg.Connection, expression: str, format_code: int) -> None:
    oid, value = raw_cell(connection, expression, format_code)
    assert scan_cell(kind_of(oid, format_code), value, scanner(), Tally()) is value


@pytest.mark.parametrize("format_code", [TEXT, BINARY])
@pytest.mark.parametrize("expression", [*HOLDING, *CLEAR])
@pytest.mark.parametrize("strategy", list(MaskStrategy))
def test_masked_columns_of_every_type_decode(
    connection: psycopg.Connection, expression: str, format_code: int, strategy: MaskStrategy
) -> None:
    oid, value = raw_cell(connection, expression, format_code)
    masked = masked_cell(value, oid, format_code, strategy, b"key")
    if masked is not None:
        Transformer(connection).get_loader(oid, pq.Format(format_code)).load(masked)


def test_types_that_pass_unread_can_not_hold_a_card_number(connection: psycopg.Connection) -> None:
    """For each type that is never looked into: its extreme values, as text and as the digits in it, hold nothing."""
    extremes = [
        "true",
        "'x'::\"char\"",
        "(-32768)::int2",
        "(-2147483648)::int4",
        "4294967295::oid",
        "'3.4028235e+38'::float4",
        "4242424242424242::float4",
        "'294276-12-31 23:59:59.999999'::timestamp",
        "'294276-12-31 23:59:59.999999+00'::timestamptz",
        "'5874897-12-31'::date",
        "'23:59:59.999999'::time",
        "'23:59:59.999999+15:59:59'::timetz",
        "'42424242-4242-4242-4242-424242424242'::uuid",
        "'42:42:42:42:42:42'::macaddr",
        "'FFFFFFFF/FFFFFFFF'::pg_lsn",
        "'255.255.255.255/32'::inet",
        "'178000000 years 12 mons 2147483647 days 2562047788:00:54.775807'::interval",
        "tsrange('294276-12-31 23:59:59.999998', '294276-12-31 23:59:59.999999')",
        "ARRAY['2011-02-03'::date, '2012-02-03'::date, '2013-02-03'::date]",
        "ARRAY[4242, 4242, 4242, 4242]",
        "ARRAY['42424242-4242-4242-4242-424242424242'::uuid]",
    ]
    for expression in extremes:
        oid, value = raw_cell(connection, expression, TEXT)
        assert kind_of(oid, TEXT) is CellKind.PLAIN, expression
        assert kind_of(oid, BINARY) is CellKind.PLAIN, expression
        assert scanner().find(value) == [], expression
    for expression in (
        "int4range(-2147483648, 2147483647)",
        "tsrange('4713-01-01 BC', '294276-12-31')",
        "'-178000000 years'::interval",
    ):
        oid, value = raw_cell(connection, expression, BINARY)
        assert kind_of(oid, BINARY) is CellKind.PLAIN, expression
        assert scanner().find(raw_cell(connection, expression, TEXT)[1]) == [], expression


def test_the_tables_name_the_types_that_they_mean(connection: psycopg.Connection) -> None:
    tables = {
        TEXT_OIDS: "text varchar bpchar name xml unknown",
        PLAIN_OIDS: "bool char int2 int4 oid xid cid float4 date time timetz timestamp timestamptz uuid macaddr macaddr8 pg_lsn void "
        "interval inet cidr",
        PLAIN_COMPOUND_OIDS: "_bool _int2 _int4 _oid _xid _cid _float4 _date _time _timetz _timestamp _timestamptz _interval _uuid _inet "
        "_cidr _macaddr _macaddr8 _pg_lsn int4range daterange tsrange tstzrange int4multirange datemultirange tsmultirange "
        "tstzmultirange _int4range _daterange _tsrange _tstzrange _int4multirange _datemultirange _tsmultirange _tstzmultirange",
        GEOMETRY_OIDS: "point lseg path box polygon line circle",
        NUMBER_COMPOUND_OIDS: "_int8 _numeric _float8 _money _bytea _json _jsonb int8range _int8range numrange _numrange int8multirange "
        "_int8multirange nummultirange _nummultirange",
        frozenset(
            {JSON_OID, JSONB_OID, BYTEA_OID, INT8_OID, FLOAT8_OID, MONEY_OID, NUMERIC_OID}
        ): "json jsonb bytea int8 float8 money numeric",
    }
    for oids, names in tables.items():
        rows = connection.execute("SELECT typname FROM pg_type WHERE oid = ANY(%s)", [sorted(oids)]).fetchall()
        assert sorted(name for (name,) in rows) == sorted(names.split())
