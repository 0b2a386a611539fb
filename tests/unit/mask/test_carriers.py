"""Every detector's values in every type that can carry them, as a real server sends them: text and binary results, COPY in three formats.

What a client receives is searched for the value's letters and digits in a row, whatever stands between them, under every reading that the
mask package knows: so a value that is only written otherwise counts as shown.
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import pq, sql

from sidegate.mask.cells import scan_cell
from sidegate.mask.detectors import DETECTOR_NAMES
from sidegate.mask.kinds import BINARY, TEXT, kind_of
from sidegate.mask.numbers import loose_texts
from sidegate.mask.reading import fold, narrow, unescape
from sidegate.mask.scanner import Scanner
from sidegate.mask.tally import Tally
from sidegate.mask.text import mask_channel, mask_fields, mask_parameter, mask_payload
from sidegate.policy.decision import Masks, MaskStrategy, ValueMask
from sidegate.policy.source import PolicyRule
from sidegate.postgres.copy_out import CopyFormat, CopyKind, CopyOutRewriter
from sidegate.postgres.results import FieldDescription, Reach, ResultPlan, plan_result
from tests.support.postgres_server import PostgresServer

RULE = PolicyRule("ns", "policy", "rule")
MASK = ValueMask(DETECTOR_NAMES, MaskStrategy.REDACT, RULE)
SCANNER = Scanner.of((MASK,))

SECRETS = {
    "payment-card": "4242424242424242",
    "payment-card, spaces": "4242 4242 4242 4242",
    "payment-card, no-break spaces": "4242\u00a04242\u00a04242\u00a04242",
    "payment-card, zero width": "4242\u200b4242\u200b4242\u200b4242",
    "payment-card, bidirectional": "\u202d4242\u202c4242\u20664242\u20694242",
    "payment-card, soft hyphens": "4242\u00ad4242\u00ad4242\u00ad4242",
    "payment-card, line breaks": "4242\n4242\n4242\n4242",
    "payment-card, dashes": "4242\u20134242\u20134242\u20134242",
    "payment-card, keycaps": "".join(f"{digit}\ufe0f\u20e3" for digit in "4242424242424242"),
    "payment-card, full width": "４２４２４２４２４２４２４２４２",
    "payment-card, Bengali": "৪২৪২ ৪২৪২ ৪২৪২ ৪২৪২",
    "us-ssn": "583-68-2629",
    "us-ssn, Devanagari": "५८३-६८-२६२९",
    "email": "john.doe@example.com",
    "email, full width": "john.doe＠example．com",
    "iban": "DE89370400440532013000",
    "iban, spaces": "DE89 3704 0044 0532 0130 00",
    "aws-access-key": "AKIA3JMGPT7QX3W6NQXQ",
    "aws-access-key, mathematical": "𝐀𝐊𝐈𝐀3JMGPT7QX3W6NQXQ",
    "aws-access-key, secret": "rv4j3j7q8M3ywp9yM26QjKvxSRn2yP9WmrVN69RS",
    "github-token": "ghp_66m4xR95mJ6wXMyXV4rh75V7KXPqn6Vsmh9S",
    "github-token, full width": "ｇｈｐ＿66m4xR95mJ6wXMyXV4rh75V7KXPqn6Vsmh9S",
    "slack-token": "xoxb-333936589769-2tkwKMkT5g2yPWNzPPPQW46S",
    "stripe-key": "sk_live_4eC39HqLyjWDarjtT1zdp7dc",
    "google-api-key": "AIzaSyA1b2C3d4E5f6G7h8I9j0KaLbMcNdOePfQ",
    "jwt": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
    "pem-private-key": "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBg\n-----END PRIVATE KEY-----",
}

# `{}` is the value as a literal of text.
CARRIERS = {
    "text": "{}::text",
    "text in prose": "'before it ' || {} || ' and after it'",
    "text of a length that reads like a digit": "rpad({}, 49)",
    "varchar": "{}::varchar(200)",
    "char": "{}::char(200)",
    "name": "{}::name",
    "bytea": "convert_to({}, 'UTF8')",
    "bytea among others": "'\\x00ff'::bytea || convert_to({}, 'UTF8') || '\\x00ff'::bytea",
    "json": "json_build_object('k', json_build_array(1, {}))",
    "json key": "json_build_object({}, 1)",
    "json in json": "json_build_object('k', json_build_object('k', {})::text)",
    "jsonb": "jsonb_build_object('k', jsonb_build_array(1, {}))",
    "jsonb key": "jsonb_build_object({}, 1)",
    "jsonb in jsonb": "to_jsonb(jsonb_build_object('k', {})::text)",
    "jsonpath": "('$.' || to_json({})::text)::jsonpath",
    "array": "ARRAY['x', {}, NULL]",
    "array of arrays": "ARRAY[['x', {}], [{}, 'y']]",
    "array of json": "ARRAY[to_json({})]",
    "array of jsonb": "ARRAY[jsonb_build_object('k', {})]",
    "array of bytea": "ARRAY[convert_to({}, 'UTF8')]",
    "array of a length that reads like a digit": "ARRAY[rpad({}, 52)]",
    "array of char": "ARRAY[{}::char(200)]",
    "record": "ROW(1, {})",
    "record in record": "ROW(1, ROW('x', ROW({}, 2)))",
    "record of a length that reads like a letter": "ROW(rpad({}, 97), rpad({}, 65))",
    "array of records": "ARRAY[ROW(1, {}), ROW(2, 'x')]",
    "composite": "ROW({}, 1)::carrier",
    "array of composites": "ARRAY[ROW({}, 1)::carrier]",
    "domain": "{}::secret_text",
    "domain in a composite": "ROW(1, {}::secret_text)",
    "array of a domain": "ARRAY[{}::secret_text]",
    "citext": "{}::citext",
    "citext in a record": "ROW({}::citext, 1)",
    "hstore": "hstore(ARRAY['k', 'n'], ARRAY[{}, NULL])",
    "hstore key": "hstore({}, 'v')",
    "hstore of a length that reads like a digit": "hstore('k', rpad({}, 50))",
    "range of text": "text_range({}, NULL)",
    "multirange of text": "text_multirange(text_range({}, NULL))",
    "range of text of a length that reads like a digit": "text_range(rpad({}, 57), NULL)",
    "tsvector": "array_to_tsvector(ARRAY[{}, 'x'])",
    "large text, at the end": "repeat('lorem ipsum ', 2000) || {}",
    "large text, in the midst": "repeat('lorem ipsum ', 2000) || {} || repeat(' dolor sit', 2000)",
}


def fits(carrier: str, name: str) -> bool:
    """`name` and `rpad` would cut it; and in prose nothing says that 40 characters are a secret."""
    if carrier in ("text in prose", "bytea among others", "large text, at the end", "large text, in the midst"):
        return name != "aws-access-key, secret"
    longest = 63 if carrier == "name" else 49 if "reads like" in carrier else 1000
    return len(SECRETS[name].encode()) <= longest


NUMBERS = {
    "numeric domain": "4242424242424242::secret_number",
    "numeric domain in a record": "ROW(1, 4242424242424242::secret_number)",
    "array of a numeric domain": "ARRAY[4242424242424242::secret_number]",
    "float8 in a record": "ROW(4242424242424242::float8)",
    "array of float8": "ARRAY[4242424242424242::float8, 1.5]",
    "float8 in json": "json_build_object('a', 4242424242424242::float8)",
    "range of float8": "float_range(4242424242424242::float8, NULL)",
    "range of numeric": "numrange(4242424242424242, NULL)",
    "array of money": "ARRAY[4242424242424242::money]",
    "money in a record": "ROW(4242424242424242::money)",
    "point": "point(4242424242424242, 1.5)",
    "path": "path '[(4242424242424242, 1.5), (1, 2)]'",
    "polygon": "polygon '((1, 2), (4242424242424242, 1.5))'",
    "point in a record": "ROW(point(4242424242424242, 1.5))",
    "numeric of a scale": "4242424242424242.00::numeric(30, 2)",
    "negative numeric": "-4242424242424242::numeric",
    "int8 in jsonb": "jsonb_build_array(4242424242424242)",
    "ltree": "'card.4242_4242_4242_4242'::ltree",
    "array of ltree": "ARRAY['4242424242424242.x'::ltree]",
    "enum": "'4242424242424242'::secret_enum",
    "array of an enum": "ARRAY['4242424242424242'::secret_enum]",
    "xid8": "'4242424242424242'::xid8",
}


@pytest.fixture(scope="module")
def connection(postgres: PostgresServer) -> Iterator[psycopg.Connection]:
    name = postgres.create_database()
    with postgres.admin(name) as opened:
        for statement in (
            "CREATE EXTENSION citext",
            "CREATE EXTENSION hstore",
            "CREATE EXTENSION ltree",
            "CREATE TYPE carrier AS (a text, b int)",
            "CREATE DOMAIN secret_text AS text",
            "CREATE DOMAIN secret_number AS numeric",
            "CREATE TYPE secret_enum AS ENUM ('4242424242424242', 'x')",
            'CREATE TYPE text_range AS RANGE (subtype = text, collation = "C", multirange_type_name = text_multirange)',
            "CREATE TYPE float_range AS RANGE (subtype = float8)",
        ):
            opened.execute(statement)
        opened.commit()
        yield opened
    postgres.drop_database(name)


def is_shown(cell: bytes | None, secret: str) -> bool:
    """The secret can be read in the cell, whatever stands between its letters and digits."""
    if cell is None:
        return False
    wanted = bytes(byte for byte in fold(secret.encode()).data if chr(byte).isalnum())
    texts = [*loose_texts(cell)]
    if cell.startswith(b"\\x"):
        texts.append(bytes.fromhex(cell[2:].decode()))
    for text in texts:
        for read in (text, unescape(text).data, unescape(text, is_short=True).data, narrow(text).data):
            for data in (read, fold(read).data):
                if wanted in bytes(byte for byte in data if byte < 128 and chr(byte).isalnum()):
                    return True
    return False


def expression(carrier: str, secret: str) -> sql.Composed:
    pieces = carrier.split("{}")
    return sql.SQL(f"({sql.Literal(secret).as_string(None)}::text)").join([sql.SQL(piece.replace("{", "{{")) for piece in pieces])


def raw_cell(connection: psycopg.Connection, query: str, format_code: int) -> tuple[int, bytes]:
    result = connection.pgconn.exec_params(f"SELECT {query}".encode(), None, result_format=format_code)
    assert result.status == pq.ExecStatus.TUPLES_OK, result.error_message
    value = result.get_value(0, 0)
    assert value is not None
    return result.ftype(0), value


@pytest.mark.parametrize("format_code", [TEXT, BINARY], ids=["text", "binary"])
@pytest.mark.parametrize("carrier", CARRIERS)
def test_no_carrier_brings_a_value_through(connection: psycopg.Connection, carrier: str, format_code: int) -> None:
    shown = []
    for name, secret in SECRETS.items():
        if not fits(carrier, name):
            continue
        query = expression(CARRIERS[carrier], secret).as_string(connection)
        oid, cell = raw_cell(connection, query, format_code)
        assert is_shown(cell, secret), (carrier, name)
        assert SCANNER.may_contain(cell), (carrier, name)
        if is_shown(scan_cell(kind_of(oid, format_code), cell, SCANNER, Tally()), secret):
            shown.append(name)
    assert shown == []


@pytest.mark.parametrize("format_code", [TEXT, BINARY], ids=["text", "binary"])
@pytest.mark.parametrize("carrier", NUMBERS)
def test_no_number_brings_a_value_through(connection: psycopg.Connection, carrier: str, format_code: int) -> None:
    oid, cell = raw_cell(connection, NUMBERS[carrier], format_code)
    masked = scan_cell(kind_of(oid, format_code), cell, SCANNER, Tally())
    assert masked is not cell
    assert not is_shown(masked, "4242424242424242")


@pytest.mark.parametrize("name", SECRETS)
def test_a_megabyte_of_text_hides_no_value_in_any_place(name: str) -> None:
    secret, prose = SECRETS[name], "lorem ipsum dolor sit amet, " * 37_500
    if not fits("text in prose", name):
        return
    for at in (0, 1, len(prose) // 3, len(prose) - 1, len(prose)):
        cell = f"{prose[:at]} {secret} {prose[at:]}".encode()
        assert SCANNER.may_contain(cell)
        masked = SCANNER.mask(cell)
        assert masked is not None
        assert not is_shown(masked[max(0, at - 200) : at + 200], secret)


@pytest.mark.parametrize("output", ["hex", "escape"])
def test_bytea_brings_nothing_through_in_either_output(connection: psycopg.Connection, output: str) -> None:
    connection.execute(sql.SQL("SET bytea_output = {}").format(sql.Literal(output)))
    for secret in SECRETS.values():
        for encoding in ("utf-8", "utf-16-le", "utf-16-be") if secret.isascii() else ("utf-8",):
            value = secret.encode(encoding).hex()
            oid, cell = raw_cell(connection, f"'\\x{value}'::bytea", TEXT)
            masked = scan_cell(kind_of(oid, TEXT), cell, SCANNER, Tally())
            assert not is_shown(masked, secret), (secret, encoding)
            assert b"\0" not in (masked or b"")
    connection.execute("RESET bytea_output")


class NoCatalog:
    def origin(self, table_oid: int, attnum: int) -> None:
        return None

    def is_tainted(self, table_oid: int, attnum: int) -> bool:
        return False

    def row_fields(self, table_oid: int, attnum: int) -> None:
        return None


def copied(connection: psycopg.Connection, query: str, options: str) -> tuple[ResultPlan, bytes]:
    described = connection.pgconn.exec_params(f"SELECT * FROM ({query}) q LIMIT 0".encode(), None)
    fields = [FieldDescription(f"c{index}", 0, 0, described.ftype(index), -1, -1, 0) for index in range(described.nfields)]
    plan = plan_result(fields, None, Masks((), (MASK,)), NoCatalog(), (Reach.NONE,) * len(fields))
    assert isinstance(plan, ResultPlan)
    with connection.cursor() as cursor, cursor.copy(f"COPY ({query}) TO STDOUT ({options})".encode()) as copy:
        return plan, b"".join(bytes(piece) for piece in copy)


COPIES = [
    ("FORMAT text", CopyFormat(CopyKind.TEXT)),
    ("FORMAT csv", CopyFormat(CopyKind.CSV, b",", b"")),
    ("FORMAT csv, QUOTE '~', ESCAPE '^', DELIMITER ';'", CopyFormat(CopyKind.CSV, b";", b"", quote=b"~", escape=b"^")),
    ("FORMAT binary", CopyFormat(CopyKind.BINARY)),
]


@pytest.mark.parametrize(("options", "copy_format"), COPIES, ids=[options for options, _ in COPIES])
@pytest.mark.parametrize("name", SECRETS)
def test_no_copy_brings_a_value_through_wherever_its_chunks_end(
    connection: psycopg.Connection, options: str, copy_format: CopyFormat, name: str
) -> None:
    secret = SECRETS[name]
    carriers = [carrier for carrier in CARRIERS if not carrier.startswith("large") and fits(carrier, name)]
    values = ", ".join(
        f"{expression(CARRIERS[carrier], secret).as_string(connection)} AS c{index}" for index, carrier in enumerate(carriers)
    )
    plan, data = copied(connection, f"SELECT {values}", options)
    outputs = []
    for size in (1, 3, 64, len(data)):
        rewriter = CopyOutRewriter(plan, copy_format)
        pieces = [rewriter.feed(data[at : at + size]) for at in range(0, len(data), size)]
        outputs.append(b"".join([*pieces, rewriter.finish()]))
    assert len(set(outputs)) == 1
    assert is_shown(data, secret)
    assert not is_shown(outputs[0], secret)


@pytest.mark.parametrize("name", SECRETS)
def test_no_text_beside_results_brings_a_value_through(name: str) -> None:
    secret, masks = SECRETS[name], Masks((), (MASK,))
    quoted = f'"{secret}"'
    fields = {"S": "ERROR", "C": "22P02", **dict.fromkeys("MDHWqstcdn", quoted)}
    texts = [text for code, text in mask_fields(fields, masks).items() if code not in "SC"]
    texts += [mask_payload(quoted, masks), mask_channel(quoted, masks), mask_parameter("application_name", quoted, masks)]
    assert len(texts) == 13
    assert not any(is_shown(text.encode(), secret) for text in texts)
