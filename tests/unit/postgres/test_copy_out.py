"""COPY TO STDOUT: what a real server sends, rewritten, split anywhere, and read back by a real server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import pytest
from psycopg import pq

from sidegate.mask.detectors import DETECTOR_NAMES
from sidegate.policy.decision import ColumnMask, ColumnUse, Masks, MaskStrategy, ValueMask
from sidegate.policy.source import PolicyRule
from sidegate.postgres.copy_out import CopyFormat, CopyKind, CopyOutRewriter
from sidegate.postgres.messages import TargetProtocolError
from sidegate.postgres.results import ColumnOrigin, FieldDescription, Reach, ResultPlan, plan_result
from tests.support.postgres_server import PostgresServer

RULE = PolicyRule("ns", "policy", "columns")
FINDS = PolicyRule("ns", "policy", "finds")


class NoCatalog:
    def origin(self, table_oid: int, attnum: int) -> ColumnOrigin | None:
        return None

    def is_own(self, table_oid: int, attnum: int) -> bool:
        return not self.is_tainted(table_oid, attnum)

    def is_tainted(self, table_oid: int, attnum: int) -> bool:
        return False


def masks(*columns: str, detect: bool = False, strategy: MaskStrategy = MaskStrategy.REDACT) -> Masks:
    return Masks(
        (ColumnMask(frozenset(columns), None, None, strategy, ColumnUse.REFUSED, RULE),) if columns else (),
        (ValueMask(DETECTOR_NAMES, MaskStrategy.REDACT, FINDS),) if detect else (),
    )


def plan(fields: list[tuple[str, int]], wanted: Masks) -> ResultPlan:
    made = plan_result(
        [FieldDescription(name, 0, 0, oid, -1, -1, 0) for name, oid in fields],
        None,
        wanted,
        NoCatalog(),
        (Reach.NONE,) * len(fields),
    )
    assert isinstance(made, ResultPlan)
    return made


def texts(count: int, wanted: Masks) -> ResultPlan:
    return plan([("masked" if index == 1 else f"c{index}", 25) for index in range(count)], wanted)


def rewrite(made: ResultPlan, copy_format: CopyFormat, *pieces: bytes) -> bytes:
    rewriter = CopyOutRewriter(made, copy_format)
    out = [rewriter.feed(piece) for piece in pieces]
    return b"".join([*out, rewriter.finish()])


# ---- a real server ------------------------------------------------------------------------------------------------------------------------

NASTY = (
    "plain",
    "",
    None,
    "tab\there",
    "line\nbreak",
    "carriage\rreturn\r\nboth",
    "back\\slash and \\N and \\\\",
    "\\N",
    "\\.",
    'quote " and "" and \'',
    "comma, semicolon; pipe| colon: star*",
    '"whole"',
    "\b\f\v",
    "ünïcödé ４２ \u200b 😀",
    " leading and trailing ",
    "ends with backslash\\",
    'ends with quote"',
    "n",
    "NULL",
    "\\x41 \\101 \\t",
    "{a,b}",
    "\n",
    "x" * 3000,
)

OPTIONS = [
    ("", CopyFormat(CopyKind.TEXT)),
    ("(FORMAT text, DELIMITER '|', NULL 'n')", CopyFormat(CopyKind.TEXT, b"|", b"n")),
    ("(FORMAT text, DELIMITER '*', NULL '')", CopyFormat(CopyKind.TEXT, b"*", b"")),
    ("(FORMAT text, HEADER)", CopyFormat(CopyKind.TEXT, header=True)),
    ("(FORMAT csv)", CopyFormat(CopyKind.CSV, b",", b"")),
    ("(FORMAT csv, HEADER)", CopyFormat(CopyKind.CSV, b",", b"", header=True)),
    ("(FORMAT csv, DELIMITER ';', NULL 'NULL')", CopyFormat(CopyKind.CSV, b";", b"NULL")),
    ("(FORMAT csv, QUOTE '''')", CopyFormat(CopyKind.CSV, b",", b"", quote=b"'", escape=b"'")),
    ("(FORMAT csv, ESCAPE '\\')", CopyFormat(CopyKind.CSV, b",", b"", escape=b"\\")),
    ("(FORMAT csv, QUOTE 'x', ESCAPE 'n')", CopyFormat(CopyKind.CSV, b",", b"", quote=b"x", escape=b"n")),
    ("(FORMAT csv, FORCE_QUOTE *)", CopyFormat(CopyKind.CSV, b",", b"")),
    ("(FORMAT csv, DELIMITER '\t')", CopyFormat(CopyKind.CSV, b"\t", b"")),
    ("(FORMAT binary)", CopyFormat(CopyKind.BINARY)),
]


@pytest.fixture(scope="module")
def connection(postgres: PostgresServer) -> Iterator[psycopg.Connection]:
    name = postgres.create_database()
    with postgres.admin(name) as opened:
        opened.autocommit = True
        opened.execute("CREATE TABLE nasty (id int PRIMARY KEY, masked text, v text, n int8, j jsonb)")
        for number, value in enumerate(NASTY):
            opened.execute("INSERT INTO nasty VALUES (%s, %s, %s, %s, %s)", [number, value, value, number, '{"a": 1}'])
        opened.execute("CREATE TABLE again (LIKE nasty)")
        yield opened
    postgres.drop_database(name)


FIELDS = [("id", 23), ("masked", 25), ("v", 25), ("n", 20), ("j", 3802)]


def copied(connection: psycopg.Connection, options: str, query: str = "SELECT * FROM nasty ORDER BY id") -> list[bytes]:
    """The payload of each CopyData."""
    pgconn = connection.pgconn
    result = pgconn.exec_(f"COPY ({query}) TO STDOUT {options}".encode())
    assert result.status == pq.ExecStatus.COPY_OUT, result.error_message
    pieces = []
    while True:
        size, data = pgconn.get_copy_data(0)
        if size < 0:
            break
        pieces.append(bytes(data))
    while pgconn.get_result() is not None:
        pass
    return pieces


def read_back(connection: psycopg.Connection, options: str, data: bytes) -> list[tuple[object, ...]]:
    """What the server itself reads from `data`."""
    connection.execute("TRUNCATE again")
    with (
        connection.cursor() as cursor,
        cursor.copy(f"COPY again FROM STDIN {options.replace('FORCE_QUOTE *', 'DELIMITER E' + chr(39) + ',' + chr(39))}") as copy,
    ):
        copy.write(data)
    return connection.execute("SELECT * FROM again ORDER BY id").fetchall()


@pytest.mark.parametrize(("options", "copy_format"), OPTIONS, ids=[options for options, _ in OPTIONS])
def test_what_needs_no_masking_comes_out_byte_by_byte(
    connection: psycopg.Connection, options: str, copy_format: CopyFormat
) -> None:
    pieces = copied(connection, options)
    made = plan(FIELDS, masks(detect=True))
    assert made.has_scans
    assert rewrite(made, copy_format, *pieces) == b"".join(pieces)
    assert made.tally.take() == {}


@pytest.mark.parametrize(("options", "copy_format"), OPTIONS, ids=[options for options, _ in OPTIONS])
def test_the_server_reads_the_same_rows_back_but_for_the_masked_column(
    connection: psycopg.Connection, options: str, copy_format: CopyFormat
) -> None:
    made = plan(FIELDS, masks("masked"))
    rows = read_back(connection, options, rewrite(made, copy_format, *copied(connection, options)))
    # With a null string of its own, text format can't tell NULL from a value that reads like it: then both are masked.
    hides_null = copy_format.kind is CopyKind.TEXT and copy_format.null != b"\\N"
    for number, value in enumerate(NASTY):
        shown = None if value is None and not hides_null else "[masked]"
        kept = None if hides_null and value is not None and value.encode() == copy_format.null else value
        assert rows[number] == (number, shown, kept, number, {"a": 1}), (number, value)
    assert len(rows) == len(NASTY)


@pytest.mark.parametrize(("options", "copy_format"), OPTIONS, ids=[options for options, _ in OPTIONS])
def test_finds_are_masked_in_every_format(connection: psycopg.Connection, options: str, copy_format: CopyFormat) -> None:
    query = (
        "SELECT id, v AS masked, CASE id WHEN 3 THEN E'a\\t4242 4242 4242 4242\\n\"q\"' WHEN 6 THEN 'john@example.com\\' ELSE v END AS v, "
        "CASE id WHEN 4 THEN 4242424242424242 ELSE n END AS n, CASE id WHEN 5 THEN '{\"p\": 4242424242424242}'::jsonb ELSE j END AS j "
        "FROM nasty ORDER BY id"
    )
    data = rewrite(plan(FIELDS, masks(detect=True)), copy_format, *copied(connection, options, query))
    rows = read_back(connection, options, data)
    assert rows[3][2] == 'a\t[masked]\n"q"'
    assert rows[6][2] == "[masked]\\"
    assert rows[4][3] is None
    assert rows[5][4] == {"p": "[masked]"}
    assert rows[7][4] == {"a": 1}


@pytest.mark.parametrize(("options", "copy_format"), OPTIONS, ids=[options for options, _ in OPTIONS])
def test_split_anywhere_it_comes_out_the_same(connection: psycopg.Connection, options: str, copy_format: CopyFormat) -> None:
    whole = b"".join(copied(connection, options, "SELECT * FROM nasty WHERE id < 22 ORDER BY id"))
    for wanted in (masks("masked"), masks(detect=True), masks("masked", detect=True)):
        expected = rewrite(plan(FIELDS, wanted), copy_format, whole)
        assert rewrite(plan(FIELDS, wanted), copy_format, *[whole[at : at + 1] for at in range(len(whole))]) == expected
        for at in range(1, len(whole)):
            assert rewrite(plan(FIELDS, wanted), copy_format, whole[:at], whole[at:]) == expected


def test_rows_of_no_columns_and_of_one_empty_cell(connection: psycopg.Connection) -> None:
    for options, copy_format in OPTIONS:
        if copy_format.header:
            continue
        for query, fields in (("SELECT FROM nasty", []), ("SELECT ''::text", [("v", 25)]), ("SELECT NULL::text", [("v", 25)])):
            pieces = copied(connection, options, query)
            assert rewrite(plan(fields, masks("x", detect=True)), copy_format, *pieces) == b"".join(pieces)


# ---- by hand ------------------------------------------------------------------------------------------------------------------------------

TEXT = CopyFormat(CopyKind.TEXT)
CSV = CopyFormat(CopyKind.CSV, b",", b"")
BINARY = CopyFormat(CopyKind.BINARY)


@pytest.mark.parametrize("split", [1, 2, 5, 100])
def test_values_behind_every_kind_of_escape_are_found(split: int) -> None:
    for cell in (
        rb"\x34\x324242424242\x34\x3242",
        rb"\064\06242424242424242",
        rb"424242424242424\x32",
        rb"\4242424242424242\t",
    ):
        line = b"1\tx\t" + cell + b"\n"
        pieces = [line[at : at + split] for at in range(0, len(line), split)]
        shown = rewrite(texts(3, masks(detect=True)), TEXT, *pieces)
        assert (b"[masked]" in shown) == (cell[:4] != rb"\424"), shown  # that is an octal escape, of another character


def test_an_escaped_delimiter_hides_nothing() -> None:
    dashes = CopyFormat(CopyKind.TEXT, b"-")
    line = rb"1-x-4242\-4242\-4242\-4242" + b"\n"
    assert rewrite(texts(3, masks(detect=True)), dashes, line) == b"1-x-[masked]\n"
    at_sign = CopyFormat(CopyKind.TEXT, b"@")
    assert rewrite(texts(2, masks(detect=True)), at_sign, rb"1@john\@example.com" + b"\n") == b"1@[masked]\n"


def test_doubled_quotes_hide_nothing() -> None:
    digits = CopyFormat(CopyKind.CSV, b",", b"", quote=b"4", escape=b"4")
    line = b"1,x,44424424424424424424424424" + b"4\n"
    value = b"4242424242424242"
    line = b"1,x,4" + value.replace(b"4", b"44") + b"4\n"
    assert rewrite(texts(3, masks(detect=True)), digits, line) == b"1,x,4[masked]4\n"


def test_a_null_string_can_not_be_used_to_guess_a_masked_value() -> None:
    """The client names its guess as the null string: the right one must look like the wrong ones."""
    guess = CopyFormat(CopyKind.TEXT, null=b"583-68-2629")
    shown = rewrite(texts(2, masks("masked")), guess, b"1\t583-68-2629\n2\t111-22-3333\n")
    assert shown == b"1\t[masked]\n2\t[masked]\n"
    card = CopyFormat(CopyKind.TEXT, null=b"4242424242424242")
    assert (
        rewrite(texts(2, masks(detect=True)), card, b"1\t4242424242424242\n2\t4111111111111111\n")
        == b"1\t[masked]\n2\t[masked]\n"
    )


def test_a_replacement_is_written_by_the_rules_of_the_format() -> None:
    assert rewrite(texts(2, masks("masked")), CopyFormat(CopyKind.TEXT, b"["), b"1[x\n") == b"1[\\[masked]\n"
    assert rewrite(texts(2, masks("masked")), CopyFormat(CopyKind.CSV, b"[", b""), b"1[x\n") == b'1["[masked]"\n'
    assert rewrite(texts(2, masks("masked")), CopyFormat(CopyKind.CSV, b",", b"[masked]"), b"1,x\n") == b'1,"[masked]"\n'
    assert rewrite(texts(2, masks("masked")), CSV, b'1,"x"\n') == b'1,"[masked]"\n'
    assert rewrite(texts(2, masks("masked", strategy=MaskStrategy.NULL)), CSV, b'1,"x"\n') == b"1,\n"
    assert rewrite(texts(2, masks("masked", strategy=MaskStrategy.NULL)), TEXT, b"1\tx\n") == b"1\t\\N\n"


def test_a_header_passes_but_is_looked_through() -> None:
    with_header = CopyFormat(CopyKind.CSV, b",", b"", header=True)
    assert rewrite(texts(2, masks("masked", detect=True)), with_header, b"id,masked\n1,x\n") == b"id,masked\n1,[masked]\n"
    assert rewrite(texts(2, masks(detect=True)), with_header, b'id,"a@example.com"\n1,x\n') == b'id,"[masked]"\n1,x\n'
    with pytest.raises(TargetProtocolError, match="columns"):
        rewrite(texts(2, masks(detect=True)), with_header, b"id\n1,x\n")


@pytest.mark.parametrize(
    ("copy_format", "pieces"),
    [
        (TEXT, [b"1\n"]),
        (TEXT, [b"1\t2\t3\n"]),
        (TEXT, [b"1\tx"]),
        (TEXT, [b"1\tx\\\n"]),
        (CSV, [b"1\n"]),
        (CSV, [b'1,"x']),
        (CSV, [b'1,"x\n']),
        (BINARY, [b"PGCOPX\n\xff\r\n\0"]),
        (BINARY, [b"PGCOPY\n\xff\r\n\0" + b"\0\1\0\0" + b"\0" * 4 + b"\xff\xff"]),  # with OIDs
        (BINARY, [b"PGCOPY\n\xff\r\n\0" + b"\0" * 4 + b"\0\0\0\1x\xff\xff"]),  # with an extension
        (BINARY, [b"PGCOPY\n\xff\r\n\0" + b"\0" * 8]),  # without a trailer
        (BINARY, [b"PGCOPY\n\xff\r\n\0" + b"\0" * 8 + b"\0\1" + b"\xff" * 4 + b"\xff\xff"]),  # one column
        (BINARY, [b"PGCOPY\n\xff\r\n\0" + b"\0" * 8 + b"\0\2\xff\xff\xff\xfe"]),  # length -2
        (BINARY, [b"PGCOPY\n\xff\r\n\0" + b"\0" * 8 + b"\xff\xff\0\0"]),  # after the trailer
        (BINARY, [b"PGCOPY\n\xff\r\n\0" + b"\0" * 8 + b"\0\2" + b"\xff" * 4]),
        (BINARY, []),
    ],
)
def test_refuses_what_is_not_the_file_that_was_announced(copy_format: CopyFormat, pieces: list[bytes]) -> None:
    for wanted in (masks("masked"), masks("masked", detect=True)):
        for split in (1, 1000):
            small = [piece[at : at + split] for piece in pieces for at in range(0, len(piece), split)]
            with pytest.raises(TargetProtocolError):
                rewrite(texts(2, wanted), copy_format, *small)


def test_refuses_a_row_over_the_limit() -> None:
    for copy_format, head in (
        (TEXT, b"1\t"),
        (CSV, b'1,"'),
        (BINARY, b"PGCOPY\n\xff\r\n\0" + b"\0" * 8 + b"\0\2\xff\xff\xff\xff\0\1\0\0"),
    ):
        rewriter = CopyOutRewriter(texts(2, masks("masked")), copy_format, max_row_bytes=1000)
        feeding = (rewriter.feed(piece) for piece in (head, b"x" * 900, b"x" * 101))
        with pytest.raises(TargetProtocolError, match="limit of 1000"):
            list(feeding)


def test_long_rows_in_small_pieces_take_linear_time() -> None:
    """Looking again and again from a row's start would take minutes and meet the test's time limit."""
    for copy_format, head, end in (
        (TEXT, b"1\t", b"\n"),
        (CSV, b'1,"', b'"\n'),
        (BINARY, b"PGCOPY\n\xff\r\n\0" + b"\0" * 8 + b"\0\2\xff\xff\xff\xff" + (8_000_000).to_bytes(4, "big"), b"\xff\xff"),
    ):
        rewriter = CopyOutRewriter(texts(2, masks("masked")), copy_format)
        out = [rewriter.feed(head), *(rewriter.feed(b"x" * 800) for _ in range(10_000)), rewriter.feed(end), rewriter.finish()]
        assert b"[masked]" in b"".join(out)


@dataclass
class Options:
    """As the parse tree gives them."""

    format: str = "text"
    delimiter: str | None = None
    null: str | None = None
    header: bool = False
    quote: str | None = None
    escape: str | None = None
    encoding: str | None = None


def test_takes_the_defaults_of_postgresql() -> None:
    assert CopyFormat.of(Options()) == CopyFormat(CopyKind.TEXT, b"\t", b"\\N")
    assert CopyFormat.of(Options("csv")) == CopyFormat(CopyKind.CSV, b",", b"", quote=b'"', escape=b'"')
    assert CopyFormat.of(Options("csv", quote="'")) == CopyFormat(CopyKind.CSV, b",", b"", quote=b"'", escape=b"'")
    assert CopyFormat.of(Options("CSV", ";", "-", True, "'", "\\")) == CopyFormat(CopyKind.CSV, b";", b"-", True, b"'", b"\\")
    assert CopyFormat.of(Options("binary")).kind is CopyKind.BINARY
    for encoding in ("UTF8", "utf-8", "Unicode"):
        assert CopyFormat.of(Options(encoding=encoding)) == CopyFormat(CopyKind.TEXT)


@pytest.mark.parametrize(
    "options",
    [
        Options("parquet"),
        Options(delimiter="||"),
        Options(delimiter=""),
        Options(delimiter="\n"),
        Options(delimiter="\\"),
        Options(delimiter="ä"),
        Options(null="a\nb"),
        Options(null="a\tb"),
        Options("csv", quote="''"),
        Options("csv", delimiter='"'),
        Options("csv", escape="\r"),
        Options(encoding="SJIS"),
        Options("csv", encoding="LATIN1"),
        Options(encoding=""),
    ],
)
def test_refuses_options_that_it_can_not_read_back(options: Options) -> None:
    with pytest.raises(TargetProtocolError):
        CopyFormat.of(options)
