"""A plain SET of client_encoding, told from everything else that changes or names an encoding."""

from __future__ import annotations

import pytest

from sidegate.sql import Analysis, analyse, encoding_set, names_copy_encoding

PLAIN = {
    "SET client_encoding = 'SJIS'": ("SJIS", "SET client_encoding = 'UTF8'"),
    "SET NAMES 'latin1'": ("latin1", "SET NAMES 'UTF8'  "),
    "set session Client_Encoding to win1252 ; select 'ß'": ("win1252", "set session Client_Encoding to UTF8    ; select 'ß'"),
    "/* ü表 */ SET client_encoding TO gbk": ("gbk", "/* ü表 */ SET client_encoding TO UTF8"),
    'SET client_encoding = "SJIS"': ("SJIS", "SET client_encoding = UTF8  "),
    r"SET client_encoding = E'SJ\x49S'": ("SJIS", "SET client_encoding = 'UTF8'    "),
    "SET client_encoding = 'SJ'\n'IS'": ("SJIS", "SET client_encoding = 'UTF8'   "),
    "SET client_encoding = U&'SJI\\0053'": ("SJIS", "SET client_encoding = 'UTF8'      "),
    "SET client_encoding = $a$SJIS$a$": ("SJIS", "SET client_encoding = 'UTF8'    "),
}


@pytest.mark.parametrize("text", PLAIN)
def test_a_plain_set_is_found_however_it_is_written_and_utf8_put_in(text: str) -> None:
    found = encoding_set(text)
    assert found is not None
    assert (found.value, found.text) == PLAIN[text]


@pytest.mark.parametrize("text", PLAIN)
def test_what_is_put_in_reads_as_utf8(text: str) -> None:
    found = encoding_set(text)
    assert found is not None
    analysis = analyse(found.text)
    assert isinstance(analysis, Analysis)
    [(name, value)] = analysis.statements[0].settings
    assert (name, (value or "").lower()) == ("client_encoding", "utf8")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "SELECT 1",
        "SELECT 1; SET client_encoding = 'SJIS'",
        "SET LOCAL client_encoding = 'SJIS'",
        "SET client_encoding TO DEFAULT",
        "SET NAMES",
        "RESET client_encoding",
        "SET client_encoding = 'SJIS', 'UTF8'",
        "SET x.client_encoding = 'SJIS'",
        "SELECT set_config('client_encoding', 'SJIS', false)",
        "ALTER ROLE r SET client_encoding = 'SJIS'",
        "SET client_encoding FROM CURRENT",
        "SET client_encoding = 'SJIS",
    ],
)
def test_nothing_else_is_a_plain_set(text: str) -> None:
    assert encoding_set(text) is None


@pytest.mark.parametrize(
    ("text", "names_it"),
    [
        ("COPY t FROM STDIN (ENCODING 'LATIN1')", True),
        ("COPY t TO STDOUT WITH (FORMAT csv, ENCODING 'UTF8')", True),
        ("COPY t TO STDOUT ENCODING 'LATIN1'", True),
        ("COPY t FROM STDIN", False),
        ("COPY t TO STDOUT (FORMAT csv)", False),
        ("COPY t TO STDOUT (ENCODING 'UTF8'); COPY t TO STDOUT", False),
        ("SELECT 1", False),
    ],
)
def test_a_copy_names_its_encoding_or_doesnt(text: str, names_it: bool) -> None:
    assert names_copy_encoding(text) is names_it
