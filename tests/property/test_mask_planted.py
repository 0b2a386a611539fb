"""Planted secrets never come through, in any type, format, chunking or surroundings; and what holds none comes out byte by byte."""

from __future__ import annotations

import json
import struct

from hypothesis import given
from hypothesis import strategies as st

from sidegate.mask.cells import scan_cell
from sidegate.mask.detectors import DETECTOR_NAMES
from sidegate.mask.kinds import BINARY, TEXT, kind_of
from sidegate.mask.reading import fold, unescape
from sidegate.mask.scanner import Scanner
from sidegate.mask.tally import Tally
from sidegate.mask.text import mask_fields
from sidegate.policy.decision import ColumnMask, ColumnUse, Masks, MaskStrategy, ValueMask
from sidegate.policy.source import PolicyRule

RULE = PolicyRule("ns", "policy", "rule")
SCANNER = Scanner.of((ValueMask(DETECTOR_NAMES, MaskStrategy.REDACT, RULE),))

CARDS = ["4242424242424242", "378282246310005", "6011111111111117", "30569309025904"]
SECRETS = [
    *CARDS,
    "4242 4242 4242 4242",
    "3782-822463-10005",
    "583-68-2629",
    "john.doe@example.com",
    "DE89370400440532013000",
    "GB29 NWBK 6016 1331 9268 19",
    "AKIA3JMGPT7QX3W6NQXQ",
    "ghp_66m4xR95mJ6wXMyXV4rh75V7KXPqn6Vsmh9S",
    "xoxb-333936589769-2tkwKMkT5g2yPWNzPPPQW46S",
    "sk_live_4eC39HqLyjWDarjtT1zdp7dc",
    "AIzaSyA1b2C3d4E5f6G7h8I9j0KaLbMcNdOePfQ",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
    "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBg\n-----END PRIVATE KEY-----",
]
secrets = st.sampled_from(SECRETS)
# What may stand right beside a value without making it another: no letters, digits or joiners of any detector.
edges = st.sampled_from(
    ["", " ", ", ", "(", ")", '"', "'", ";", "|", "\n", "\t", "=", ":", "<", ">", "{", "}", "[", "]", "é ", "→"]
)
prose = st.text(alphabet="abcdefgh ÄÖ,;:!?()\n\t", max_size=30)
contexts = st.tuples(prose, edges, edges, prose)


def planted(context: tuple[str, str, str, str], secret: str) -> str:
    before, left, right, after = context
    # A letter right before or after would be part of an address, a token or a number.
    return f"{before} {left}{secret}{right} {after}"


def shows(cell: bytes | None, secret: str) -> bool:
    """The secret is still in the cell, however it is written there."""
    if cell is None:
        return False
    core = "".join(character for character in secret if character.isalnum())
    twice = unescape(unescape(cell).data).data
    for data in (cell, unescape(cell).data, fold(unescape(cell).data).data, twice, fold(twice).data):
        if core.encode() in bytes(byte for byte in data if chr(byte).isascii() and chr(byte).isalnum()):
            return True
    return False


WIDE = str.maketrans({digit: chr(0xFF10 + index) for index, digit in enumerate("0123456789")})
ARABIC = str.maketrans({digit: chr(0x660 + index) for index, digit in enumerate("0123456789")})
HAN = str.maketrans("0123456789", "〇一二三四五六七八九")
disguises = st.sampled_from(
    [
        lambda text: text,
        lambda text: text.translate(WIDE),
        lambda text: text.translate(ARABIC),
        lambda text: "\u200b".join(text),
        lambda text: text.replace(" ", "\u00a0").replace("-", "\u2011"),
        lambda text: text[:3] + "\u00ad" + text[3:],
        lambda text: "".join(f"{character}\u0332" for character in text),
        lambda text: "".join(f"{character}\ufe0f\u20e3" for character in text),
        lambda text: text.translate(HAN),
        lambda text: "".join(f"%{byte:02X}" for byte in text.encode()),
        lambda text: "".join(f"&#{ord(character)};" for character in text),
        lambda text: "".join(f"&amp;#x{ord(character):x};" for character in text),
        lambda text: "".join(f"\\u{{{ord(character):x}}}" for character in text),
        lambda text: "".join(f"%5Cu{ord(character):04x}" for character in text),
        lambda text: text.replace(" ", "\u00b7").replace("-", "%2D"),
    ]
)


def array(oid: int, elements: list[bytes]) -> bytes:
    head = struct.pack(">iiIii", 1, 0, oid, len(elements), 1)
    return head + b"".join(struct.pack(">i", len(element)) + element for element in elements)


TEXT_FORMS = {
    "text": (25, TEXT, lambda text: text.encode()),
    "binary text": (25, BINARY, lambda text: text.encode()),
    "unknown": (99999, TEXT, lambda text: text.encode()),
    "unknown binary": (99999, BINARY, lambda text: b"\1\2" + text.encode()),
    "json": (114, TEXT, lambda text: json.dumps({"k": [1, text]}).encode()),
    "json unescaped": (114, TEXT, lambda text: json.dumps({"k": [1, text]}, ensure_ascii=False).encode()),
    "json in json": (114, TEXT, lambda text: json.dumps({"k": json.dumps(json.dumps(text))}).encode()),
    "jsonb": (3802, BINARY, lambda text: b"\1" + json.dumps({text: 1}).encode()),
    "bytea": (17, TEXT, lambda text: b"\\x" + text.encode().hex().encode()),
    "bytea escape": (17, TEXT, lambda text: "".join(f"\\{byte:03o}" for byte in text.encode()).encode()),
    "bytea binary": (17, BINARY, lambda text: b"\0\xff" + text.encode()),
    "array": (1009, TEXT, lambda text: ('{x,"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"}').encode()),
    "array binary": (1009, BINARY, lambda text: array(25, [b"x", text.encode()])),
    "composite": (2249, TEXT, lambda text: ('(1,"' + text.replace("\\", "\\\\").replace('"', '""') + '")').encode()),
}
forms = st.sampled_from(sorted(TEXT_FORMS))


@given(secrets, contexts, forms)
def test_a_planted_secret_never_comes_through(secret: str, context: tuple[str, str, str, str], form: str) -> None:
    oid, format_code, write = TEXT_FORMS[form]
    cell = write(planted(context, secret))
    assert shows(cell, secret)
    assert SCANNER.may_contain(cell)
    assert not shows(scan_cell(kind_of(oid, format_code), cell, SCANNER, Tally()), secret)


@given(st.sampled_from(SECRETS[:7]), disguises, contexts, forms)
def test_a_disguised_number_never_comes_through(
    secret: str, disguise: object, context: tuple[str, str, str, str], form: str
) -> None:
    oid, format_code, write = TEXT_FORMS[form]
    cell = write(planted(context, disguise(secret)))  # type: ignore[operator]
    assert not shows(scan_cell(kind_of(oid, format_code), cell, SCANNER, Tally()), secret)


@given(secrets, contexts, st.binary(max_size=12), st.binary(max_size=12))
def test_whatever_stands_around_a_value_the_prefilter_sees_it(
    secret: str, context: tuple[str, str, str, str], before: bytes, after: bytes
) -> None:
    assert SCANNER.may_contain(before + planted(context, secret).encode() + after)


@given(st.binary(max_size=200), st.binary(max_size=8), st.binary(max_size=8))
def test_what_is_found_in_any_bytes_is_seen_by_the_prefilter_around_them(cell: bytes, before: bytes, after: bytes) -> None:
    if SCANNER.find(cell):
        assert SCANNER.may_contain(before + cell + after)


pieces = st.lists(
    st.sampled_from([*SECRETS, "4242", "-", " ", ".", "@", "a.com", "\\u0034", "\\x34", "４", "\u200b", "ssn", "1", "\\", '"']),
    max_size=12,
)


@given(pieces)
def test_spans_are_in_order_inside_the_value_and_apart(parts: list[str]) -> None:
    data = "".join(parts).encode()
    at = 0
    for span in SCANNER.find(data):
        assert at <= span.start < span.end <= len(data)
        at = span.end


@given(pieces, st.sampled_from(["text", "json", "json unescaped", "jsonb", "bytea", "array", "composite"]))
def test_json_and_bytea_stay_what_they_are(parts: list[str], form: str) -> None:
    oid, format_code, write = TEXT_FORMS[form]
    masked = scan_cell(kind_of(oid, format_code), write("".join(parts)), SCANNER, Tally())
    assert masked is not None
    if "json" in form:
        json.loads(masked.removeprefix(b"\1"))
    if form == "bytea":
        bytes.fromhex(masked[2:].decode())


harmless = st.text(alphabet="abcdefghijklmnopqrstuvwxyz ,;:!?()<>\n\täöü€“”", max_size=60)


@given(harmless, forms)
def test_a_value_without_secrets_is_the_same_object(text: str, form: str) -> None:
    oid, format_code, write = TEXT_FORMS[form]
    cell = write(text)
    assert scan_cell(kind_of(oid, format_code), cell, SCANNER, Tally()) is cell


MARKER = "Qz7xMarkerQz7x"
COLUMNS = Masks(columns=(ColumnMask(frozenset({"ssn"}), None, None, MaskStrategy.REDACT, ColumnUse.REFUSED, RULE),))
states = st.one_of(
    st.sampled_from(
        ["22P02", "22003", "42P01", "42704", "58P01", "P0001", "00000", "01000", "XX000", "38000", "54000", "", "23514"]
    ),
    st.text(alphabet="0123456789ABCPXQ", min_size=5, max_size=5).filter(
        lambda state: state[:2] not in ("08", "25", "26", "34", "40", "53", "57")
    ),
)


@given(
    states,
    st.sampled_from(['{0}: "{1}"', '{0} "{1}" {0}', '{0} "{1}"{1}"', "{0}: {1}", '"{1}" {0}']),
    st.sampled_from(["ERROR", "WARNING", "NOTICE", "LOG"]),
    st.dictionaries(st.sampled_from("DWq"), st.just(MARKER), max_size=3),
    st.sampled_from(["exec_stmt_raise", "numeric_in", ""]),
)
def test_quoted_values_never_come_through_in_errors(
    state: str, form: str, severity: str, more: dict[str, str], routine: str
) -> None:
    fields = {"S": severity, "V": severity, "C": state, "M": form.format("something is wrong", MARKER), "R": routine, **more}
    if state in ("3B001", "42P03", "42P05", "55P03", "55006", "2BP01"):
        return  # these speak of the client's own names
    shown = mask_fields(fields, COLUMNS)
    assert MARKER not in str(shown)
    assert shown.keys() <= fields.keys()
