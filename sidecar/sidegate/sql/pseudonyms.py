"""Comparisons with pseudonyms: which constants and parameters of a statement stand for values of columns that are shown as pseudonyms,
and the statement's text with the values in their place.

A statement is judged here as if such a comparison didn't name its column: who has a pseudonym and asks which rows are equal learns what the
rows show anyway. What is compared is always translated, whatever it is: a guess becomes another value, never itself.

Rules it keeps:
- A comparison is `column = constant`, the same turned around, `IN (constants)`, `= ANY (ARRAY[constants])`, with a parameter in place of a
  constant or of the array; PostgreSQL's own `=`; casts of the constant to types whose values have pseudonyms, and no others.
- Its column must be one for sure, passed on bare: every column that the name may mean is asked for (`covers`), and nothing may have columns
  of that name unseen. Any other use steers.
- A parameter that stands anywhere else too isn't translated: `ssn = $1 AND $1 = '583-68-2629'` would answer for the value.
- One query alone, without functions that aren't known, or that show the statement: its text holds values by then.
- The new text is parsed again. But for the constants that were to change the trees must be equal, or there is no new text.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias

from pglast.parser import ParseError, scan

from sidegate.policy.pseudonyms import OWN_STATEMENTS
from sidegate.policy.statement import ColumnRef, SqlStatement, StatementKind
from sidegate.sql.analyse import DEFAULT_LIMITS
from sidegate.sql.expressions import TooDeepError
from sidegate.sql.facts import Facts
from sidegate.sql.names import Names, spreads_row, strings
from sidegate.sql.parse import Limits, Node, ParseProblem, parse
from sidegate.sql.scope import Scope
from sidegate.sql.utility import Statements

Covers: TypeAlias = Callable[[Collection[ColumnRef]], bool]

_KINDS: Final = frozenset({StatementKind.READ, StatementKind.SELECT_FOR_UPDATE})
_SHOWING_TEXT: Final = OWN_STATEMENTS | {"current_query"}
_CASTS: Final = frozenset({"text", "varchar", "name", "int4", "int8", "numeric", "uuid"})
_LITERALS: Final = frozenset({"SCONST", "ICONST", "FCONST"})
_PLACES: Final = ("location", "list_start", "list_end", "rexpr_list_start", "rexpr_list_end", "stmt_location", "stmt_len")


class Constant(NamedTuple):
    """A literal that is to be translated: its place in the text, in bytes, what it says, and whether it was a number's."""

    start: int
    value: bytes
    is_number: bool


class Parameter(NamedTuple):
    """A parameter that is to be translated: whether it is an array of values, what it is cast to, and the columns it is compared with."""

    is_array: bool
    casts: frozenset[str] = frozenset()
    columns: frozenset[ColumnRef] = frozenset()


@dataclass(frozen=True, slots=True)
class Comparisons:
    """`statement`: as it is judged when all of these are translated. `parameters`: by number (from 1)."""

    statement: SqlStatement
    constants: tuple[Constant, ...]
    parameters: Mapping[int, Parameter]


@dataclass(slots=True)
class _Found:
    constants: list[Constant] = field(default_factory=list)
    parameters: dict[int, Parameter] = field(default_factory=dict)
    places: set[int] = field(default_factory=set)  # of parameters in comparisons


def comparisons(
    text: str, search_path: tuple[str, ...] | None, covers: Covers, limits: Limits = DEFAULT_LIMITS
) -> Comparisons | None:
    """What of the text is to be translated; None: nothing, or it may not be. `covers`: a column that may be any of these is shown as
    pseudonyms, whichever it is.
    """
    parsed = parse(text, limits)
    if isinstance(parsed, ParseProblem) or len(parsed) != 1 or "SelectStmt" not in parsed[0].tree:
        return None
    tree = parsed[0].tree
    facts = Facts()
    walk = _Comparing(facts, Names(search_path), limits, covers)
    try:
        walk.statement(tree)
        found = walk.found
        if (
            not _is_safe(facts)
            or _is_used_elsewhere(tree, found)
            or any(spreads_row({tag: fields}) for tag, fields in _nodes(tree))
        ):
            return None
    except (TooDeepError, RecursionError):
        return None
    except Exception:  # INVARIANT: a tree of a shape that isn't foreseen is judged as it stands
        return None
    if not found.constants and not found.parameters:
        return None
    return Comparisons(facts.statement(parsed[0].text, ""), tuple(sorted(set(found.constants))), found.parameters)


def _is_safe(facts: Facts) -> bool:
    names = {function.name for function in facts.functions} | {relation.name for relation in facts.reads}
    if not names.isdisjoint(_SHOWING_TEXT) or any(not function.is_known_safe for function in facts.functions):
        return False
    return bool(facts.kinds) and facts.kinds <= _KINDS and not facts.unknown


def _is_used_elsewhere(tree: Node, found: _Found) -> bool:
    """Some parameter of a comparison stands outside of comparisons too."""
    return any(
        fields.get("number", 0) in found.parameters and fields.get("location") not in found.places
        for tag, fields in _nodes(tree)
        if tag == "ParamRef"
    )


def _nodes(tree: Node) -> Iterator[tuple[str, Node]]:
    pending: list[Any] = [tree]
    while pending:
        node = pending.pop()
        if type(node) is list:
            pending.extend(node)
        elif type(node) is dict:
            for tag, fields in node.items():
                if type(fields) is dict:
                    yield tag, fields
            pending.extend(node.values())


class _Comparing(Statements):
    """The walk that leaves out columns of comparisons with pseudonyms."""

    def __init__(self, facts: Facts, names: Names, limits: Limits, covers: Covers) -> None:
        super().__init__(facts, names, limits)
        self.found = _Found()
        self._covers = covers

    def _operation(self, fields: Node, scope: Scope, rest: list[Node]) -> None:
        if not self._is_comparison(fields, scope):
            super()._operation(fields, scope, rest)

    def _is_comparison(self, fields: Node, scope: Scope) -> bool:
        name = strings(fields.get("name", []))
        if name[-1:] != ["="] or not self.names.operator_schemas(name)[0]:
            return False
        kind, left, right = fields.get("kind"), fields.get("lexpr"), fields.get("rexpr")
        if left is None or right is None:
            return False
        if kind == "AEXPR_OP":
            if "ColumnRef" not in left:
                left, right = right, left
            compared: list[Node] | None = [right]
        elif kind == "AEXPR_IN":
            compared = right["List"].get("items", []) if "List" in right else None
        elif kind == "AEXPR_OP_ANY":
            array, cast = _without_cast(right, is_array=True)
            if "ParamRef" in array:
                columns = self._column_of(left, scope)
                return columns is not None and self._take_parameter(array["ParamRef"], Parameter(True, cast, columns))
            compared = array["A_ArrayExpr"].get("elements", []) if "A_ArrayExpr" in array else None
        else:
            return False
        columns = self._column_of(left, scope) if compared else None
        if not compared or columns is None:
            return False
        bare = [_without_cast(node, is_array=False) for node in compared]
        if not all(_is_plain(node) for node, _ in bare):
            return False
        return all(self._take(node, Parameter(False, cast, columns)) for node, cast in bare)

    def _column_of(self, node: Node, scope: Scope) -> frozenset[ColumnRef] | None:
        """What the column is that is compared; None: it isn't one that is shown as pseudonyms for sure."""
        column = node.get("ColumnRef")
        parts = strings(column["fields"]) if column is not None else ["*"]
        if parts[-1] == "*":
            return None
        resolved = scope.resolve(parts)
        is_sure = resolved.is_plain and not resolved.row and bool(resolved.columns) and _is_settled(parts, scope)
        return resolved.columns if is_sure and self._covers(resolved.columns) else None

    def _take(self, node: Node, parameter: Parameter) -> bool:
        if "ParamRef" in node:
            return self._take_parameter(node["ParamRef"], parameter)
        fields = node["A_Const"]
        if fields.get("isnull"):
            return True
        if "sval" in fields:
            self.found.constants.append(Constant(fields["location"], fields["sval"].get("sval", "").encode(), False))
        else:
            value = fields["fval"]["fval"] if "fval" in fields else str(fields["ival"].get("ival", 0))
            self.found.constants.append(Constant(fields["location"], value.encode(), True))
        return True

    def _take_parameter(self, fields: Node, parameter: Parameter) -> bool:
        number = fields.get("number", 0)
        known = self.found.parameters.get(number, parameter)
        if number < 1 or known.is_array is not parameter.is_array:
            return False
        merged = Parameter(parameter.is_array, known.casts | parameter.casts, known.columns | parameter.columns)
        self.found.parameters[number] = merged
        self.found.places.add(fields["location"])
        return True


def _is_settled(parts: list[str], scope: Scope) -> bool:
    """No from item that the name could mean has columns of names that aren't known: what a function returns, an expression without a name.
    `WHERE value = '...'` over `json_each_text('{"x": "a guess"}')` is about the guess, not about a table around it.
    """
    level: Scope | None = scope
    while level is not None:
        for source in level.sources:
            if len(parts) > 1 and source.alias != parts[-2]:
                continue
            if any(not output.columns if output.is_star else output.name is None for output in source.outputs):
                return False
        level = level.parent
    return True


def _is_plain(node: Node) -> bool:
    if "ParamRef" in node:
        return True
    fields = node.get("A_Const")
    if fields is None:
        return False
    return fields.get("location", -1) >= 0 and ("sval" in fields or "fval" in fields or "ival" in fields or "isnull" in fields)


def _without_cast(node: Node, *, is_array: bool) -> tuple[Node, frozenset[str]]:
    """What is cast, and to which type."""
    cast = node.get("TypeCast")
    if cast is None or not _is_silent(cast["typeName"], is_array=is_array):
        return node, frozenset()
    return cast["arg"], frozenset({strings(cast["typeName"]["names"])[-1]})


def _is_silent(kind: Node, *, is_array: bool) -> bool:
    """A cast that leaves a pseudonym what it is: no lengths, which would cut it."""
    names = strings(kind.get("names", []))
    is_own = names[-1:] and names[-1] in _CASTS and names[:-1] in ([], ["pg_catalog"])
    return bool(is_own) and "typmods" not in kind and "setof" not in kind and ("arrayBounds" in kind) is is_array


# ---- another text ---------------------------------------------------------------------------------------------------------------------


def translated(
    text: str, found: Comparisons, original: Callable[[bytes], bytes | None], limits: Limits = DEFAULT_LIMITS
) -> str | None:
    """The text with values in place of pseudonyms; what is nobody's pseudonym becomes NULL, which nothing equals. None: it can't be made
    for sure.
    """
    literals = _literals(text)
    if literals is None:
        return None
    data = text.encode("utf-8")
    pieces: list[str] = []
    expected: dict[int, dict[str, Any]] = {}
    at = 0
    for constant in found.constants:
        end = literals.get(constant.start)
        if end is None or constant.start < at:
            return None
        written = _written(original(constant.value), is_number=constant.is_number)
        if written is None:
            return None
        pieces += (data[at : constant.start].decode("utf-8"), written[0])
        expected[constant.start] = written[1]
        at = end
    result = "".join(pieces) + data[at:].decode("utf-8")
    before, after = parse(text, limits), parse(result, limits)
    if isinstance(before, ParseProblem) or isinstance(after, ParseProblem) or len(before) != 1 or len(after) != 1:
        return None
    if not _is_same(before[0].tree, after[0].tree, expected) or expected:
        return None
    return result


def _literals(text: str) -> dict[int, int] | None:
    """Where each literal starts and ends, in bytes. A minus before a number belongs to it, as the grammar has it."""
    try:
        tokens = scan(text)
    except (ParseError, UnicodeError, ValueError):
        return None
    offsets = _byte_offsets(text)
    found: dict[int, int] = {}
    minus: int | None = None
    for token in tokens:
        start, end = offsets(token.start), offsets(token.end + 1)
        if token.name in _LITERALS:
            found[start] = end
            if minus is not None and token.name != "SCONST":
                found[minus] = end
        minus = start if token.name == "ASCII_45" else None
    return found


def _byte_offsets(text: str) -> Callable[[int], int]:
    """The scanner counts characters, the parser bytes."""
    if text.isascii():
        return lambda place: place
    offsets = [0]
    for character in text:
        offsets.append(offsets[-1] + len(character.encode("utf-8")))
    return lambda place: offsets[place]


def _written(value: bytes | None, *, is_number: bool) -> tuple[str, dict[str, Any]] | None:
    """The literal for a value, and what the parser makes of it."""
    if value is None or b"\0" in value:
        return " NULL ", {"isnull": True}
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        return " NULL ", {"isnull": True}
    if not is_number:
        return "'" + text.replace("'", "''") + "'", {"sval": {"sval": text}}
    if not text.removeprefix("-").isdecimal():  # a number's pseudonym is a number: this was nobody's
        return " NULL ", {"isnull": True}
    number = int(text)
    return text, {"ival": {"ival": number}} if abs(number) < 2**31 else {"fval": {"fval": text}}


def _is_same(before: Any, after: Any, expected: dict[int, dict[str, Any]]) -> bool:
    """The trees are equal but for places and the `expected` constants, which are taken out of there when met."""
    pending: list[tuple[Any, Any]] = [(before, after)]
    while pending:
        one, other = pending.pop()
        if type(one) is not type(other):
            return False
        if type(one) is list:
            if len(one) != len(other):
                return False
            pending.extend(zip(one, other, strict=True))
        elif type(one) is dict:
            constant = one.get("A_Const")
            if constant is not None and constant.get("location") in expected:
                wanted = expected.pop(constant["location"])
                if {key: value for key, value in other.get("A_Const", {}).items() if key != "location"} != wanted:
                    return False
                continue
            keys = [key for key in one if key not in _PLACES]
            if keys != [key for key in other if key not in _PLACES]:
                return False
            pending.extend((one[key], other[key]) for key in keys)
        elif one != other:
            return False
    return True
