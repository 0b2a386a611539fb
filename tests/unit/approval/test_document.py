"""An approval request as an object: fields, limits, escapes; the same as the API's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import yaml

from sidegate.api import approval_request as api
from sidegate.approval import shown
from sidegate.approval.backend import HoldRequest, ShownParameter, ShownStatement
from sidegate.approval.document import DocumentError, digest, from_wire, new_document, request_of, to_wire
from sidegate.approval.files import MAX_FILE_BYTES, _to_yaml

WHOLE = {
    "statement": "EXECUTE d($1)",
    "parameters": (
        ShownParameter("int4", True, "5"),
        ShownParameter("", True, hexadecimal="00ff"),
        ShownParameter("text", text="pay [masked]", is_masked=True),
        ShownParameter(text=""),
        ShownParameter(),
    ),
    "runs": (ShownStatement("DELETE FROM orders WHERE id = $1", (ShownParameter(text="7"),)), ShownStatement("SELECT 1")),
    "alternatives": (ShownStatement("DROP TABLE orders", (ShownParameter("int8", text="8"),)),),
    "search_path": ("app", "odd, name"),
    "current_role": "boss",
}


@pytest.fixture
def whole(request_of_ada: HoldRequest) -> HoldRequest:
    return replace(request_of_ada, impact=None, **WHOLE)  # type: ignore[arg-type]


def test_all_of_it_reads_back_and_is_a_valid_approval_request(whole: HoldRequest) -> None:
    made = new_document("ar-1", whole)
    wire = yaml.safe_load(_to_yaml(to_wire(made)))
    assert from_wire(wire) == made
    assert request_of(made) == whole
    spec = api.ApprovalRequest.from_wire(wire).spec
    assert [each.to_wire() for each in spec.parameters] == [
        {"name": "$1", "type": "int4", "format": "Binary", "text": "5", "isNull": False, "isMasked": False},
        {"name": "$2", "format": "Binary", "hexadecimal": "00ff", "isNull": False, "isMasked": False},
        {"name": "$3", "type": "text", "format": "Text", "text": "pay [masked]", "isNull": False, "isMasked": True},
        {"name": "$4", "format": "Text", "text": "", "isNull": False, "isMasked": False},
        {"name": "$5", "format": "Text", "isNull": True, "isMasked": False},
    ]
    assert [each.statement for each in (*spec.runs, *spec.alternatives)] == [
        "DELETE FROM orders WHERE id = $1",
        "SELECT 1",
        "DROP TABLE orders",
    ]
    assert (spec.search_path, spec.current_role, spec.hidden_characters) == (("app", "odd, name"), "boss", ())


@pytest.mark.parametrize("field", [*WHOLE, "database", "role", "detail", "agent"])
def test_the_digest_covers_each_field(whole: HoldRequest, request_of_ada: HoldRequest, field: str) -> None:
    value = getattr(request_of_ada, field) if field in WHOLE else "another"
    assert digest(new_document("ar-1", whole)) != digest(new_document("ar-1", replace(whole, **{field: value})))


@pytest.mark.parametrize(
    "name",
    ["STATEMENT", "VALUE", "PARAMETERS", "BESIDE", "BESIDE_PARAMETERS", "SHOWN", "SCHEMAS", "HIDDEN"],
)
def test_limits_are_those_of_the_resource(name: str) -> None:
    assert getattr(shown, f"MAX_{name}") == getattr(api, f"MAX_{name}")


Change = Callable[[int], dict[str, object]]


@pytest.mark.parametrize(
    ("change", "limit", "problem"),
    [
        (lambda n: {"statement": "x" * n}, shown.MAX_STATEMENT, "its 16385 characters"),
        (lambda n: {"runs": (ShownStatement("x" * n),)}, shown.MAX_STATEMENT, "what it runs: 16385 characters"),
        (lambda n: {"runs": (ShownStatement("x"),) * n}, shown.MAX_BESIDE, "what it runs 17 statements"),
        (lambda n: {"alternatives": (ShownStatement("x"),) * n}, shown.MAX_BESIDE, "what may run instead 17 statements"),
        (lambda n: {"parameters": (ShownParameter(),) * n}, shown.MAX_PARAMETERS, "its 257 parameters"),
        (lambda n: {"parameters": (ShownParameter(text="x" * n),)}, shown.MAX_VALUE, "parameter \\$1: 4097 characters"),
        (lambda n: {"parameters": (ShownParameter(hexadecimal="ab" * ((n + 1) // 2)),)}, shown.MAX_VALUE, "4098 characters"),
        (
            lambda n: {"runs": (ShownStatement("x", (ShownParameter(),) * n),)},
            shown.MAX_BESIDE_PARAMETERS,
            "what it runs: 65 parameters",
        ),
        (lambda n: {"search_path": ("s",) * n}, shown.MAX_SCHEMAS, "65 schemas"),
    ],
)
def test_what_cant_be_shown_whole_cant_be_approved(request_of_ada: HoldRequest, change: Change, limit: int, problem: str) -> None:
    assert new_document("ar-1", replace(request_of_ada, **change(limit)))  # type: ignore[arg-type]
    with pytest.raises(DocumentError, match=f"{problem} are over the {limit} that approvers can be shown"):
        new_document("ar-1", replace(request_of_ada, **change(limit + 1)))  # type: ignore[arg-type]


def test_all_texts_together_have_a_limit(request_of_ada: HoldRequest) -> None:
    runs = tuple(ShownStatement("x" * 10_000) for _ in range(7))
    with pytest.raises(DocumentError, match="all its texts' 70035 characters are over the 65536"):
        new_document("ar-1", replace(request_of_ada, runs=runs))


def test_the_largest_request_is_within_the_largest_file(request_of_ada: HoldRequest) -> None:
    parameters = tuple(ShownParameter("timestamptz[]", True, "\U00020000" * 100, is_masked=True) for _ in range(256))
    beside = tuple(ShownStatement("\U00020000" * 400, (ShownParameter("timestamptz[]", True, ""),) * 64) for _ in range(16))
    groups = tuple(f"{number:03}" + "\U00020000" * 253 for number in range(256))
    largest = replace(request_of_ada, parameters=parameters, runs=beside, alternatives=beside, groups=groups)
    data = _to_yaml(to_wire(new_document("ar-1", largest)))
    assert 1024 * 1024 < len(data) < MAX_FILE_BYTES


def test_hidden_characters_are_escaped_in_each_text_and_named(request_of_ada: HoldRequest) -> None:
    request = replace(
        request_of_ada,
        statement="SELECT '\x1b[2J'\r\n",
        parameters=(ShownParameter(text="\u202e"),),
        runs=(ShownStatement("\u200b", (ShownParameter(text="\ufeff"),)),),
        alternatives=(ShownStatement("\u3164"),),
        search_path=("s\u2066",),
        database="shop\u202e",
        detail="changes `\u202e`",
    )
    made = new_document("ar-1", request)
    assert made.spec.statement == "SELECT '\\x1b[2J'\\r\n"
    assert made.spec.hidden_characters == ("U+000D", "U+001B", "U+200B", "U+202E", "U+2066", "U+3164", "U+FEFF")
    assert api.ApprovalRequest.from_wire(to_wire(made)).spec.hidden_characters == made.spec.hidden_characters
    assert all(character.isprintable() or character == "\n" for character in str(yaml.dump(to_wire(made), allow_unicode=True)))


def test_of_many_hidden_characters_the_first_are_named(request_of_ada: HoldRequest) -> None:
    made = new_document("ar-1", replace(request_of_ada, statement="".join(map(chr, range(0xE000, 0xE0FF)))))
    assert len(made.spec.hidden_characters) == shown.MAX_HIDDEN
    assert made.spec.hidden_characters[0] == "U+E000"


def test_a_statement_that_looks_like_an_escape_names_none(request_of_ada: HoldRequest) -> None:
    made = new_document("ar-1", replace(request_of_ada, statement="SELECT '\\u202e'"))
    assert (made.spec.statement, made.spec.hidden_characters) == ("SELECT '\\u202e'", ())
