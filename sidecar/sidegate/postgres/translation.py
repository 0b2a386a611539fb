"""Back from pseudonyms, for one session: what is sent to the target in place of a text or a Bind in which pseudonyms stand. Pure.

Rules it keeps:
- What is judged as translated is sent translated, or not at all: a prepared statement keeps its translation, and each Bind of it makes that
  anew. Where it comes out as another (the search path, the rules or the definitions have changed) the Bind is refused.
- No other way runs such a statement: EXECUTE of its name would bring values that nobody translates.
- It isn't held: pseudonyms mean something in this session alone, and an approval outlives it.
- Work keeps what the client sent: records, fingerprints and errors never show what was sent instead. Errors have no position then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from sidegate.mask.pseudonym import Pseudonyms
from sidegate.policy.decision import Allow, Decision, Deny, Masks
from sidegate.policy.reason import Reason
from sidegate.policy.source import Builtin
from sidegate.policy.statement import SqlStatement, StatementKind
from sidegate.postgres.catalog import Catalog
from sidegate.postgres.messages import Bind, encode_bound
from sidegate.postgres.pseudonyms import original_parameters, pseudonym_masks
from sidegate.postgres.statements import BoundText, Prepared, Translated, Translation
from sidegate.sql.pseudonyms import Comparisons, Parameter, comparisons, translated

MAX_KEPT: Final = 64
MAX_KEPT_TEXT: Final = 16 * 1024
_SOURCE: Final = Builtin("pseudonyms")
ANOTHER_BY_NOW: Final = "what its pseudonyms stand for may be another by now: prepare it again"
UNTYPED: Final = "a pseudonym in binary format needs its type in Parse: give the type, or send text"
ELSEWHERE: Final = "a prepared statement with pseudonyms runs by Bind alone"


@dataclass(frozen=True, slots=True)
class Bound:
    """What a Bind runs: the statements as they are judged, and the Bind to send. `problem`: why it may not be sent."""

    statements: tuple[SqlStatement, ...]
    frame: bytes
    problem: str = ""


class Translator:
    """`key` is the one that the session's results are shown with."""

    def __init__(self, masks: Masks, key: bytes) -> None:
        self._key = key
        self._kept: dict[tuple[str, tuple[str, ...] | None, int], Translation | None] = {}
        self.adopt(masks)

    def adopt(self, masks: Masks) -> None:
        self._masks = masks
        self._is_needed = bool(pseudonym_masks(masks))
        self._kept.clear()

    def of(
        self, text: str, statements: tuple[SqlStatement, ...], search_path: tuple[str, ...] | None, catalog: Catalog | None
    ) -> Translation | None:
        """None: nothing is translated, and the statements stand as they are."""
        if not self._is_needed or catalog is None or len(statements) != 1:
            return None
        key = (text, search_path, catalog.version)
        if key in self._kept:
            return self._kept[key]
        made = self._made(text, statements[0], search_path, catalog)
        if len(self._kept) >= MAX_KEPT:
            self._kept.clear()
        if len(text) <= MAX_KEPT_TEXT:
            self._kept[key] = made
        return made

    def _made(
        self, text: str, statement: SqlStatement, search_path: tuple[str, ...] | None, catalog: Catalog
    ) -> Translation | None:
        if not statement.columns_steering:
            return None
        view = catalog.masked_view(self._masks)
        found: Comparisons | None = comparisons(text, search_path, view.shows_pseudonyms)
        if found is None:
            return None
        sent = translated(text, found, Pseudonyms.of(self._key).original) if found.constants else text
        if sent is None:
            return None
        judged = replace(found.statement, text=statement.text, normalised=statement.normalised)
        parameters = tuple(
            Translated(number, parameter.is_array, 0 if parameter.is_array else _oid_of(parameter, catalog))
            for number, parameter in sorted(found.parameters.items())
        )
        return Translation(judged, sent, parameters)

    def bound(
        self,
        candidates: Sequence[Prepared],
        bind: Bind,
        frame: bytes,
        search_path: tuple[str, ...] | None,
        catalog: Catalog | None,
    ) -> Bound:
        """For candidates of which some are translated."""
        statements: list[SqlStatement] = []
        parameters = {candidate.translation.parameters if candidate.translation else () for candidate in candidates}
        for candidate in candidates:
            translation = candidate.translation
            if translation is None:
                return Bound((), frame, ANOTHER_BY_NOW)
            again = self.of(candidate.text, candidate.untranslated, search_path, catalog)
            if again is None or (again.text, again.parameters) != (translation.text, translation.parameters):
                return Bound((), frame, ANOTHER_BY_NOW)
            statements.append(again.statement)
        if len(parameters) != 1 or len({candidate.parameter_oids for candidate in candidates}) != 1:
            return Bound((), frame, ANOTHER_BY_NOW)
        asked = parameters.pop()
        if not asked:
            return Bound(tuple(statements), frame)
        text = BoundText("", bind.parameters, bind.parameter_formats, candidates[-1].parameter_oids)
        values = original_parameters(text, asked, Pseudonyms.of(self._key))
        if values is None:
            return Bound((), frame, UNTYPED)
        sent = Bind(bind.portal, bind.statement, bind.parameter_formats, values, bind.result_formats)
        return Bound(tuple(statements), encode_bound(sent))


# By the names of casts, and of columns' types as the catalog has them. Texts of every kind have one binary form.
_OIDS: Final[Mapping[str, int]] = {
    **dict.fromkeys(("text", "varchar", "name", "character varying", "character"), 25),
    **dict.fromkeys(("int4", "integer"), 23),
    **dict.fromkeys(("int8", "bigint"), 20),
    "smallint": 21,
    "numeric": 1700,
    "uuid": 2950,
}


def _oid_of(parameter: Parameter, catalog: Catalog) -> int:
    """The type that the target takes the parameter for: what it is cast to, or else its column's. Were it another, its bytes would be no
    value of this one, or garbage: in no case are they passed as they are.
    """
    kinds = parameter.casts or {
        relation.types.get(number, "")
        for column in parameter.columns
        for relation in (catalog.named(column.relation) if column.relation is not None else catalog.all())
        for number, name in relation.columns.items()
        if name == column.name
    }
    oids = {_OIDS.get(kind, 0) for kind in kinds}
    return oids.pop() if len(oids) == 1 else 0


def unusable(statement: SqlStatement) -> SqlStatement:
    """A translated statement where its values would not be: refused whoever asks."""
    return replace(statement, kinds=statement.kinds | {StatementKind.UNKNOWN}, unknown=(ELSEWHERE,))


def kept_in_session(decision: Decision, revision: str) -> Decision:
    """Of a translated statement."""
    if isinstance(decision, (Allow, Deny)):
        return decision
    detail = "its pseudonyms mean something in this session alone, and it would have to be approved or measured"
    return Deny(Reason.MASK_NOT_PROVABLE, _SOURCE, revision, detail)


def refusal_of(problem: str, revision: str) -> Deny:
    return Deny(Reason.MASK_NOT_PROVABLE, _SOURCE, revision, problem)
