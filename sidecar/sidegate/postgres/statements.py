"""What the session knows by name: prepared statements, portals, cursors; and `Work`, one statement from its message to its
outcome. Pure.

A name may have several candidates: a Parse whose answer is still to come may fail, and then the older statement of that name
is the one that runs. Every candidate is decided, so that a name can't be made to mean something harmless to the gate and
something else to the target. What was offered since the last Sync or Query is sure, though: should it fail, the target skips
whatever comes up to that Sync.

What names keep is weighed (`Room`): a client may set as many as it likes, and none may fill the gate's memory.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from sidegate.policy.decision import Decision, Masks
from sidegate.policy.statement import Impact, SqlStatement, StatementKind
from sidegate.postgres.cascades import Reach
from sidegate.postgres.copy_out import CopyOutRewriter
from sidegate.postgres.edge import EncodingChange
from sidegate.postgres.messages import Bind, ClientProtocolError
from sidegate.postgres.results import ResultPlan
from sidegate.postgres.spending import Meter

MAX_NAMES: Final = 10_000  # statements, portals and cursors of one session
# What things weigh in memory, measured with tracemalloc: a name with all that belongs to it, an analysis without its texts, and each
# relation, column or function in it.
NAME_WEIGHT: Final = 512
ANALYSIS_WEIGHT: Final = 2560
PART_WEIGHT: Final = 200
PARAMETER_WEIGHT: Final = 48
NO_MASKS: Final = Masks()


@dataclass(frozen=True, slots=True)
class BoundText:
    """A text with what was bound to it, which belong together: the same text does something else with other values."""

    text: str
    parameters: tuple[bytes | None, ...] = ()
    formats: tuple[int, ...] = ()  # as Bind has them: none, one for all, or one each
    oids: tuple[int, ...] = ()  # the types that the client gave, as Parse has them

    def is_binary(self, index: int) -> bool:
        return bool(self.formats) and self.formats[index if len(self.formats) > 1 else 0] == 1


class Translated(NamedTuple):
    """A parameter by its number (from 1). `oid`: the type that the target gives it where the client gives none, 0 if that isn't known."""

    number: int
    is_array: bool
    oid: int = 0


@dataclass(frozen=True, slots=True)
class Translation:
    """What is sent in place of a text with pseudonyms. `statement`: as it is judged then. `parameters`: those of a Bind that stand for
    pseudonyms.
    """

    statement: SqlStatement
    text: str
    parameters: tuple[Translated, ...] = ()


class Work:
    """One statement that a client asked for: what it is, what was decided, what came of it. Mutable, lives until its outcome.

    `own` is what the text says; `statements` has beside it what EXECUTE and FETCH refer to, `referred` the texts of those, with their
    own values. `alternatives` are the older candidates of its name, while it isn't settled which is in place. `cursor` is the one
    whose rows an Execute asks for, when its name is a cursor's.
    `approved_rows` is what an approver saw; `copy_rewriter` masks the rows of a COPY OUT; `masked_cells` counts by the
    source of the mask. `meter` is there when what it returns uses up a budget; `renews_budgets`: an approver gave those anew.
    `reach` is what goes with its CASCADE, once the target was asked.
    `waits_for_commit`: its rows are held at the end of their transaction; `holds_transaction`: one stays open while this is held.
    `encoding_change` is what it does to the encoding that the client speaks.
    `is_translated`: the target gets values in place of its pseudonyms.
    `opened_under` are the contents of the catalogs that the cursors and portals were opened under whose rows it brings.
    `was_cut`: the client got an error in place of the rest of its result; what it did at the target isn't known.
    """

    __slots__ = (
        "alternatives", "approval", "approved_rows", "asked", "copy_rewriter", "cursor", "decision", "encoding_change",
        "fingerprint", "holds_transaction", "id", "impact", "is_simple", "is_translated", "masked_cells", "masked_values",
        "masks", "meter", "opened_under", "own", "own_error", "parameters", "plan", "portal", "position", "reach", "referred",
        "renews_budgets", "row_description", "rows", "sqlstate", "statements", "tag", "text", "waits_for_commit", "was_cut",
    )  # fmt: skip

    def __init__(self, number: int, text: str, statements: tuple[SqlStatement, ...], *, is_simple: bool) -> None:
        self.id = number
        self.text = text
        self.asked: str | None = None  # as the client wrote it, where something else is sent
        self.own = statements
        self.statements = statements
        self.is_simple = is_simple
        self.referred: tuple[BoundText, ...] = ()
        self.alternatives: tuple[BoundText, ...] = ()
        self.cursor: Cursor | None = None
        self.parameters: tuple[bytes | None, ...] = ()
        self.portal: Portal | None = None
        self.decision: Decision | None = None
        self.masks = NO_MASKS
        self.plan: ResultPlan | None = None
        self.copy_rewriter: CopyOutRewriter | None = None
        self.row_description: bytes | None = None
        self.fingerprint = ""
        self.approval: str | None = None
        self.approved_rows: int | None = None
        self.impact: Impact | None = None
        self.position: int | None = None
        self.reach: Reach | None = None
        self.own_error: bytes | None = None  # said instead of the refusal: an error that clients know how to take
        self.rows = 0
        self.tag = ""
        self.sqlstate = ""
        self.masked_cells: dict[str, int] = {}
        self.masked_values = 0
        self.meter: Meter | None = None
        self.renews_budgets = False
        self.was_cut = False
        self.waits_for_commit = False
        self.holds_transaction = False
        self.encoding_change: EncodingChange | None = None
        self.is_translated = False
        self.opened_under: frozenset[int | None] = frozenset()

    def was_rolled_back(self) -> None:
        """It ran and was taken back: what the target said of it is void."""
        self.rows, self.tag, self.sqlstate = 0, "", ""
        if self.portal is not None:
            self.portal.is_suspended = False

    @property
    def has_run(self) -> bool:
        """It came to its end, or to the row limit of its Execute: by then a statement that changes rows has changed all of them."""
        return bool(self.tag) or (self.portal is not None and self.portal.is_suspended)

    def kind_names(self) -> tuple[str, ...]:
        if len(self.statements) == 1:
            return _kind_names(self.statements[0].kinds)
        return _kind_names(frozenset().union(*(statement.kinds for statement in self.statements)))

    def normalised(self) -> str:
        return "; ".join(statement.normalised for statement in self.own)

    def bound(self) -> BoundText:
        """Its text with its values."""
        if self.cursor is not None:
            return self.cursor.bound()
        if self.portal is not None:
            return self.portal.bound()[-1]
        return BoundText(self.text, self.parameters)

    def value_formats(self) -> tuple[int, ...]:
        """The formats of `parameters`, as Bind has them."""
        if self.cursor is not None:
            return self.cursor.bound().formats
        return self.portal.bind.parameter_formats if self.portal is not None else ()

    def other_texts(self, portals: Sequence[Portal], cursors: Sequence[Cursor]) -> tuple[BoundText, ...]:
        """What else these may be than what it was taken for."""
        texts = [bound for portal in portals for bound in portal.bound()] + [cursor.bound() for cursor in cursors]
        own = self.bound()
        return tuple(text for text in dict.fromkeys(texts) if text != own)


@functools.lru_cache(maxsize=1024)
def _kind_names(kinds: frozenset[StatementKind]) -> tuple[str, ...]:
    return tuple(sorted(kind.value for kind in kinds))


def weight_of(statements: Iterable[SqlStatement]) -> int:
    """The memory that analyses keep, in bytes, their texts included."""
    weight = 0
    for statement in statements:
        parts = len(statement.reads) + len(statement.writes) + len(statement.creates) + len(statement.settings)
        parts += len(statement.columns_output) + len(statement.columns_steering) + len(statement.columns_written)
        parts += len(statement.columns_changed) + len(statement.functions)
        parts += sum(1 + len(output.columns) for output in statement.lineage)
        parts += len(statement.cascade.roots or ()) if statement.cascade is not None else 0
        weight += ANALYSIS_WEIGHT + PART_WEIGHT * parts + sys.getsizeof(statement.text) + sys.getsizeof(statement.normalised)
    return weight


class Kept:
    """What names keep in memory. `weight` is its own, in bytes; `holds` is what it keeps beside, perhaps with others; `pins` counts the
    names that keep it.
    """

    __slots__ = ("holds", "pins", "weight")

    def __init__(self, weight: int, holds: tuple[Kept, ...] = ()) -> None:
        self.weight = weight
        self.pins = 0
        self.holds = holds


class Room:
    """The memory that the names of one session keep, in bytes. `kept` is what stays until a name is closed. `in_flight` is what waits
    for the target's answer, the unnamed statement and portal too: of those nothing else stays. Over `crowd` the client has to wait.
    """

    __slots__ = ("crowd", "in_flight", "kept", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.crowd = limit // 4
        self.kept = 0
        self.in_flight = 0

    def keep(self, value: Kept) -> None:
        """Raises ClientProtocolError when what is kept already is over the limit: the last may be as large as a message."""
        if self.kept > self.limit:
            raise ClientProtocolError(
                f"prepared statements, portals and cursors of one session keep more than {self.limit} bytes", "54000",
                "close or DEALLOCATE those that aren't needed any more, or connect again",
            )  # fmt: skip
        self._pin(value)

    def _pin(self, value: Kept) -> None:
        if value.pins == 0:
            self.kept += value.weight
            for held in value.holds:
                self._pin(held)
        value.pins += 1

    def free(self, value: Kept) -> None:
        value.pins -= 1
        if value.pins == 0:
            self.kept -= value.weight
            for held in value.holds:
                self.free(held)


class Prepared(Kept):
    """One prepared statement, as read under `search_path`. `parameter_oids` are the types that the client gave its parameters.
    `is_void`: the target refused it. `sql_name` is of a PREPARE, whose text is the whole string. `translation`: the target has another
    text, and gets other values; `untranslated` is then what the text itself says.
    """

    __slots__ = ("is_void", "parameter_oids", "search_path", "sql_name", "statements", "text", "translation", "untranslated")

    def __init__(
        self,
        text: str,
        statements: tuple[SqlStatement, ...],
        parameter_oids: tuple[int, ...] = (),
        search_path: tuple[str, ...] | None = None,
        sql_name: str | None = None,
        translation: Translation | None = None,
    ) -> None:
        weight = NAME_WEIGHT + weight_of(statements) + (sys.getsizeof(text) if sql_name is None else 0)
        if translation is not None:
            weight += weight_of((translation.statement,)) + sys.getsizeof(translation.text)
        super().__init__(weight)
        self.text = text
        self.untranslated = statements
        self.statements = statements if translation is None else (translation.statement,)
        self.translation = translation
        self.parameter_oids = parameter_oids
        self.search_path = search_path
        self.is_void = False
        self.sql_name = sql_name


class Shared(Kept):
    """What several names of one string keep together: its text with its values, and what was made of it."""

    __slots__ = ("bound", "statements")

    def __init__(self, bound: BoundText, statements: tuple[SqlStatement, ...] = ()) -> None:
        values = sum(PARAMETER_WEIGHT + len(value or b"") for value in bound.parameters)
        super().__init__(sys.getsizeof(bound.text) + values + weight_of(statements))
        self.bound = bound
        self.statements = statements


class Cursor(Kept):
    """One cursor by DECLARE. `source` is what runs with it, with all that its string said. `opened_under` is the content of the catalog by
    then: the target goes on with what definitions said when it was opened.
    """

    __slots__ = ("opened_under", "outlives_transaction", "source")

    def __init__(self, source: Shared, outlives_transaction: bool, opened_under: int | None = None) -> None:
        super().__init__(NAME_WEIGHT, (source,))
        self.opened_under = opened_under
        self.source = source
        self.outlives_transaction = outlives_transaction

    @property
    def text(self) -> str:
        return self.source.bound.text

    @property
    def statements(self) -> tuple[SqlStatement, ...]:
        return self.source.statements

    def bound(self) -> BoundText:
        return self.source.bound


class Portal(Kept):
    """One bound portal. `frame` is its Bind as the target got it, for when the portal has to be made again after a
    rollback. `statements` are those of its candidates as the target reads them at Bind, under `search_path`; `opened_under` as a cursor's.
    """

    __slots__ = ("bind", "candidates", "frame", "is_suspended", "is_void", "name", "opened_under", "search_path", "statements")

    def __init__(
        self,
        name: str,
        candidates: tuple[Prepared, ...],
        bind: Bind,
        frame: bytes,
        statements: tuple[SqlStatement, ...] = (),
        search_path: tuple[str, ...] | None = None,
        opened_under: int | None = None,
    ) -> None:
        weight = NAME_WEIGHT + 2 * len(frame) + PARAMETER_WEIGHT * len(bind.parameters)
        for candidate in candidates:
            if candidate.search_path != search_path:
                weight += weight_of(statements)  # read again, for itself
                break
        super().__init__(weight, candidates)
        self.name = name
        self.candidates = candidates
        self.bind = bind
        self.frame = frame
        self.statements = statements
        self.search_path = search_path
        self.is_void = False
        self.is_suspended = False
        self.opened_under = opened_under

    @property
    def is_translated(self) -> bool:
        return any(candidate.translation is not None for candidate in self.candidates)

    def bound(self) -> list[BoundText]:
        """The texts that it may run, the newest last, as the client sent them."""
        values, formats = self.bind.parameters, self.bind.parameter_formats
        return [BoundText(each.text, values, formats, each.parameter_oids) for each in self.candidates]


T = TypeVar("T", bound=Kept)


class Binding(Protocol):
    """A change of names that waits for the target's answer."""

    def confirm(self) -> None: ...
    def take_back(self) -> None: ...
    def leave_open(self) -> None:
        """The answer came, and doesn't tell whether it happened."""


class Names(Generic[T]):
    """Names to candidates."""

    __slots__ = ("_candidates", "_room", "_sure", "_unsettled", "has_new")

    def __init__(self, room: Room) -> None:
        self._room = room
        self._candidates: dict[str, list[T]] = {}
        self._sure: dict[str, T] = {}  # offered since the last Sync or Query: what comes behind runs with it, or not at all
        self._unsettled: set[int] = set()
        self.has_new = False  # since they were last cleared

    def __len__(self) -> int:
        return len(self._candidates)

    def find(self, name: str) -> tuple[T, ...]:
        candidates = self._candidates.get(name, ())
        if len(candidates) > 1 and name in self._sure:
            return tuple(_since(candidates, self._sure[name]))
        return tuple(candidates)

    def fence(self) -> None:
        """A Sync or a Query: what comes behind it runs whether what was offered before succeeds or not."""
        self._sure.clear()

    def offer(self, name: str, value: T) -> Binding:
        """Add a candidate; the binding settles whether it is the only one or none."""
        if name:
            self._room.keep(value)
        self._candidates.setdefault(name, []).append(value)
        self._sure[name] = value
        self.has_new = True
        if id(value) not in self._unsettled:
            self._unsettled.add(id(value))
            self._room.in_flight += value.weight
        return _Offer(self, name, value)

    def removal(self, name: str) -> Binding:
        """A Close or DEALLOCATE on its way: the name goes when the target confirms it."""
        return _Removal(self, {name: tuple(self._candidates.get(name, ()))})

    def removal_of_all(self) -> Binding:
        """DEALLOCATE ALL: every name but the unnamed."""
        return _Removal(self, {name: tuple(values) for name, values in self._candidates.items() if name})

    def keep_from(self, name: str, value: T) -> None:
        """`value` is in place: what was there before isn't any more. What was offered after it may be in place by now as well."""
        self.settle(value)
        candidates = self._candidates.get(name)
        if candidates is not None and candidates[0] is not value:
            kept = self._candidates[name] = _since(candidates, value)
            self._free(name, candidates[: len(candidates) - len(kept)])

    def settle(self, value: T) -> None:
        """The target answered it."""
        if id(value) in self._unsettled:
            self._unsettled.remove(id(value))
            self._room.in_flight -= value.weight

    def discard(self, name: str, value: T) -> None:
        self.settle(value)
        candidates = self._candidates.get(name, [])
        kept = [candidate for candidate in candidates if candidate is not value]
        self._free(name, [value] * (len(candidates) - len(kept)))
        if kept:
            self._candidates[name] = kept
        else:
            self._candidates.pop(name, None)

    def clear(self, stays: Callable[[T], bool] | None = None) -> None:
        """All that were answered are gone, but for those that stay. Those whose answer is still to come belong to what follows."""
        self.has_new = bool(self._unsettled)
        if not self._unsettled and stays is None:
            for name, values in self._candidates.items():
                if name:
                    self._free(name, values)
            self._candidates.clear()
            return
        for name, values in list(self._candidates.items()):
            for value in values:
                if id(value) not in self._unsettled and not (stays is not None and stays(value)):
                    self.discard(name, value)

    def _free(self, name: str, values: Sequence[T]) -> None:
        for value in values:
            self.settle(value)
            if name:
                self._room.free(value)


def _since(candidates: Sequence[T], value: T) -> list[T]:
    """From `value` on; all of them when it isn't there."""
    for index, candidate in enumerate(candidates):
        if candidate is value:
            return list(candidates[index:])
    return list(candidates)


class _Offer(Generic[T]):
    __slots__ = ("_name", "_names", "_value")

    def __init__(self, names: Names[T], name: str, value: T) -> None:
        self._names, self._name, self._value = names, name, value

    def confirm(self) -> None:
        self._names.keep_from(self._name, self._value)

    def take_back(self) -> None:
        if isinstance(self._value, (Prepared, Portal)):
            self._value.is_void = True
        self._names.discard(self._name, self._value)

    def leave_open(self) -> None:
        self._names.settle(self._value)


class _Removal(Generic[T]):
    __slots__ = ("_names", "_seen")

    def __init__(self, names: Names[T], seen: dict[str, tuple[T, ...]]) -> None:
        self._names, self._seen = names, seen

    def confirm(self) -> None:
        for name, values in self._seen.items():
            for value in values:
                self._names.discard(name, value)

    def take_back(self) -> None:
        """The names stay."""

    def leave_open(self) -> None:
        """The names stay."""
