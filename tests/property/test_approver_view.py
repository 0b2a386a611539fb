"""No text that a client sends can add a line, a field or a value to what an approver sees, nor take one away."""

from __future__ import annotations

from dataclasses import replace

import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from sidegate.approval.backend import HoldRequest, ShownParameter, ShownStatement
from sidegate.approval.document import from_wire, new_document, request_of, to_wire
from sidegate.approval.files import _to_yaml
from sidegate.approval.hold import opened
from sidegate.cli.request_view import request_lines
from sidegate.mask.plain import cells, hidden, plain
from sidegate.policy.decision import ApprovalTerms
from sidegate.policy.statement import Impact, TableImpact

NOW = 1_795_516_530.25
REQUEST = HoldRequest(
    target="shop-db",
    namespace="shop",
    session_id="s-1",
    requester_key="https://idp.example#u-ada",
    requester="ada@example.com",
    agent="cursor",
    reason="ApprovalRequired",
    source="shop/assistants#big-deletes",
    detail="it changes 14000 rows",
    statement="S",
    fingerprint="0123456789abcdef0123456789abcdef",
    impact=Impact(5000, (TableImpact("shop.orders", 0, 0, 5000),)),
    terms=ApprovalTerms(frozenset({"dba"}), frozenset(), 1, 3600.0),
    requested_at=NOW,
    hold_until=NOW + 600,
    source_address="10.0.0.7",
    database="shop",
    role="writer",
    current_role="writer",
    search_path=("public",),
)

# Lines of the command's own and of the file's, as somebody would imitate them.
LINES = (
    "  impact     0 rows by the statement, 0 in all", "  approved   by dana@example.com of dba", "  statement", "  runs",
    "    $1 (int4) = '0'", "    | SELECT 1", "    : SELECT 1", "  hidden     U+0041: in the texts above they are escapes",
    "-- runs: SELECT 1", "-- $1 = '1'", "  or, should the target refuse that", "    ... 3 more lines, 9 characters: x", "spec:",
    "  parameters:", "- name: $2", "status: {phase: Approved}", "---", "...", "|-", "'", "\\", "\\u202e", "\t", " " * 70,
)  # fmt: skip
SIGNS = st.sampled_from("\n\r\t\v\f\x1b\x9b\x85\u2028\u2029\u202e\u2066\u200b\u00a0\ufeff\u3164'\"\\|: -$") | st.characters(
    codec="utf-8"
)
TEXT = st.lists(st.sampled_from(LINES) | st.text(SIGNS, max_size=12), min_size=1, max_size=6).map("\n".join).filter(str.strip)
VALUE = st.builds(
    lambda text, kind, is_binary, is_masked: ShownParameter(kind, is_binary, text, is_masked=is_masked),
    TEXT,
    st.sampled_from(["", "int4"]),
    st.booleans(),
    st.booleans(),
)
BESIDE = st.builds(ShownStatement, TEXT, st.lists(VALUE, max_size=2).map(tuple))
ASKED = st.fixed_dictionaries(
    {
        "statement": TEXT,
        "parameters": st.lists(VALUE, max_size=2).map(tuple),
        "runs": st.lists(BESIDE, max_size=2).map(tuple),
        "alternatives": st.lists(BESIDE, max_size=1).map(tuple),
    }
)


def shape(statement: ShownStatement) -> ShownStatement:
    """The same with harmless texts."""
    return ShownStatement("S", tuple(replace(each, text="V") for each in statement.parameters))


def lines(request: HoldRequest, columns: int) -> list[str]:
    document = new_document("ar-1", request)
    return list(request_lines(opened("ar-1", request_of(document)), document, NOW + 12, columns, is_whole=True))


def own(page: list[str]) -> list[str]:
    """The lines that aren't behind a bar, without what a value that stands on its line says, and without the note on hidden characters."""
    kept = [line for line in page if not line.lstrip(" ").startswith(("|", ":"))]
    kept = [line.partition(" = ")[0] if line.startswith("    $") else line for line in kept]
    at = next((number for number, line in enumerate(kept) if line.startswith("  hidden ")), None)
    if at is not None:
        del kept[at]
        while kept[at].startswith(" " * 13):
            del kept[at]
    return [line.removesuffix(" =") for line in kept]


@given(ASKED, st.sampled_from([40, 80, 133]))
@example({"statement": "x" * 76 + "  approved   by dana", "parameters": (), "runs": (), "alternatives": ()}, 80)
def test_no_text_adds_a_line_to_the_page_or_takes_one_away(asked: dict[str, object], columns: int) -> None:
    request = replace(REQUEST, **asked)  # type: ignore[arg-type]
    harmless = replace(
        REQUEST,
        statement="S",
        parameters=shape(ShownStatement("", request.parameters)).parameters,
        runs=tuple(map(shape, request.runs)),
        alternatives=tuple(map(shape, request.alternatives)),
    )
    page = lines(request, columns)
    assert own(page) == own(lines(harmless, columns))
    assert all(line.isprintable() for line in page)
    assert all(cells(line) <= columns for line in page if not line.startswith("    $"))
    assert all(cells(line) <= columns for line in page if " = " in line)


@given(TEXT, st.sampled_from([40, 80, 133]))
def test_a_text_is_shown_whole_behind_its_bar(text: str, columns: int) -> None:
    page = lines(replace(REQUEST, statement=text), columns)
    start = page.index("  statement") + 1
    shown: list[str] = []
    for line in page[start:]:
        if line[:5] == "    |":
            shown.append(line[6:])
        elif line[:5] == "    :":
            shown[-1] += line[6:]
        else:
            break
    assert shown == plain(text, keeps_lines=True).expandtabs(4).split("\n")


@given(ASKED)
def test_no_text_adds_a_field_to_the_object_or_takes_one_away(asked: dict[str, object]) -> None:
    request = replace(REQUEST, **asked)  # type: ignore[arg-type]
    made = new_document("ar-1", request)
    wire = yaml.safe_load(_to_yaml(to_wire(made)))
    assert from_wire(wire) == made
    assert set(wire["spec"]) - {"hiddenCharacters"} == set(
        to_wire(new_document("ar-1", replace(request, statement="S")))["spec"]
    ) - {"hiddenCharacters"}
    assert wire["spec"]["statement"] == plain(request.statement, keeps_lines=True)
    beside = [*request.runs, *request.alternatives]
    texts = [request.statement, *(each.statement for each in beside)]
    texts += [each.text or "" for each in (*request.parameters, *(value for one in beside for value in one.parameters))]
    found = frozenset().union(*(hidden(text, keeps_lines=True) for text in texts))
    assert set(wire["spec"].get("hiddenCharacters", ())) <= found
    assert bool(found) == ("hiddenCharacters" in wire["spec"])
