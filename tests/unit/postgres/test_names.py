"""Names with several candidates, and the queue of expectations."""

from __future__ import annotations

import tracemalloc

import pytest

from sidegate.postgres.messages import ClientProtocolError, decode_bind
from sidegate.postgres.pipeline import Expectations, Expected, Kind
from sidegate.postgres.statements import BoundText, Cursor, Kept, Names, Portal, Prepared, Room, Shared
from sidegate.sql import Analysis, analyse
from tests.support.session import bind

OLD, NEW, FIRST, SECOND, A, B, C = (Prepared(text, ()) for text in ("old", "new", "first", "second", "a", "b", "c"))


def some_names() -> Names[Prepared]:
    return Names(Room(1_000_000))


def read(text: str) -> Prepared:
    analysis = analyse(text, ("public",))
    assert isinstance(analysis, Analysis)
    return Prepared(text, analysis.statements, (), ("public",))


def portal_of(*candidates: Prepared, parameter: bytes = b"", name: str = "p") -> Portal:
    frame = bind(name, "s", parameter)
    return Portal(name, candidates, decode_bind(frame[5:]), frame, candidates[0].statements, ("public",))


def test_both_candidates_stand_until_the_target_answers() -> None:
    names = some_names()
    names.offer("x", OLD).confirm()
    names.offer("x", NEW)
    names.fence()
    assert names.find("x") == (OLD, NEW)


def test_up_to_the_sync_what_was_offered_last_is_sure() -> None:
    """Should it fail, the target skips whatever would have used it."""
    names = some_names()
    names.offer("x", OLD).confirm()
    names.offer("x", NEW)
    assert names.find("x") == (NEW,)


def test_a_confirmed_candidate_keeps_those_that_follow_it() -> None:
    names = some_names()
    first = names.offer("x", FIRST)
    names.offer("x", SECOND)
    first.confirm()
    names.fence()
    assert names.find("x") == (FIRST, SECOND)


def test_a_cleared_name_keeps_what_is_still_to_be_answered() -> None:
    names = some_names()
    names.offer("x", OLD).confirm()
    binding = names.offer("y", NEW)
    names.clear()
    assert (names.find("x"), names.find("y")) == ((), (NEW,))
    binding.confirm()
    names.clear()
    assert names.find("y") == ()


def test_a_confirmed_candidate_is_the_only_one() -> None:
    names = some_names()
    names.offer("x", OLD).confirm()
    names.offer("x", NEW).confirm()
    assert names.find("x") == (NEW,)


def test_a_failed_candidate_leaves_the_older_one() -> None:
    names = some_names()
    names.offer("x", OLD).confirm()
    names.offer("x", NEW).take_back()
    assert names.find("x") == (OLD,)


def test_a_removal_counts_only_once_confirmed() -> None:
    names = some_names()
    names.offer("x", OLD).confirm()
    removal = names.removal("x")
    assert names.find("x") == (OLD,)
    names.offer("x", NEW)
    removal.confirm()
    assert names.find("x") == (NEW,)


def test_a_removal_of_everything_spares_what_came_after_it() -> None:
    names = some_names()
    names.offer("x", A).confirm()
    names.offer("y", B).confirm()
    removal = names.removal_of_all()
    names.offer("z", C)
    removal.confirm()
    assert (names.find("x"), names.find("y"), names.find("z")) == ((), (), (C,))


def test_an_error_skips_to_the_next_sync() -> None:
    queue = Expectations()
    for kind in (Kind.PARSE, Kind.BIND, Kind.EXECUTE, Kind.SYNC, Kind.PARSE):
        queue.push(Expected(kind))
    queue.pop()
    assert [entry.kind for entry in queue.skip_to_sync()] == [Kind.BIND, Kind.EXECUTE]
    assert queue.head is not None
    assert Kind.SYNC is queue.head.kind
    assert queue.awaits_ready
    assert queue.has_unsynced


class TestRoom:
    def test_what_is_closed_or_refused_leaves_its_room(self) -> None:
        room = Room(1_000_000)
        names: Names[Prepared] = Names(room)
        statement = read("select id from orders")
        names.offer("x", statement).confirm()
        assert (room.kept, room.in_flight) == (statement.weight, 0)
        names.offer("x", read("select 2")).take_back()
        assert (room.kept, room.in_flight) == (statement.weight, 0)
        other = read("select 3")
        names.offer("x", other).confirm()  # the older one went before, or this had failed
        assert (room.kept, room.in_flight) == (other.weight, 0)
        names.removal("x").confirm()
        assert (room.kept, room.in_flight) == (0, 0)

    def test_what_waits_for_its_answer_is_in_flight(self) -> None:
        room = Room(1_000_000)
        names: Names[Prepared] = Names(room)
        statement = read("select 1")
        binding = names.offer("", statement)
        assert (room.kept, room.in_flight) == (0, statement.weight)
        binding.confirm()
        assert (room.kept, room.in_flight) == (0, 0)

    def test_a_statement_that_portals_hold_counts_once_and_until_the_last_is_gone(self) -> None:
        room = Room(1_000_000)
        prepared: Names[Prepared] = Names(room)
        portals: Names[Portal] = Names(room)
        statement = read("select id from orders")
        prepared.offer("s", statement).confirm()
        first, second = portal_of(statement, name="a"), portal_of(statement, name="b")
        portals.offer("a", first).confirm()
        portals.offer("b", second).confirm()
        assert room.kept == statement.weight + first.weight + second.weight
        prepared.removal("s").confirm()
        portals.removal("a").confirm()
        assert room.kept == statement.weight + second.weight
        portals.clear()
        assert room.kept == 0

    def test_cursors_of_one_string_share_its_text(self) -> None:
        room = Room(1_000_000)
        names: Names[Cursor] = Names(room)
        source = Shared(BoundText("declare ...", (b"x" * 1000,)), read("select 1").statements)
        assert source.weight > 1000
        cursors = [Cursor(source, outlives_transaction=False) for _ in range(3)]
        for number, cursor in enumerate(cursors):
            names.offer(f"c{number}", cursor).leave_open()
        assert room.kept == source.weight + sum(cursor.weight for cursor in cursors)
        names.clear(lambda cursor: cursor.outlives_transaction)
        assert (room.kept, room.in_flight) == (0, 0)

    def test_over_the_limit_no_other_name_is_kept(self) -> None:
        names: Names[Prepared] = Names(Room(10_000))
        while names._room.kept <= 10_000:
            names.offer(f"x{len(names)}", read("select 1"))
        with pytest.raises(ClientProtocolError) as refused:
            names.offer("another", read("select 1"))
        assert refused.value.sqlstate == "54000"
        assert "DEALLOCATE" in refused.value.way_forward
        assert len(names) < 6

    def test_the_unnamed_statement_and_portal_are_replaced_and_take_no_room(self) -> None:
        names: Names[Portal] = Names(Room(10_000))
        for _ in range(10):
            names.offer("", portal_of(A, parameter=b"x" * 50_000))

    @pytest.mark.parametrize(
        "text",
        [
            "select {n}",
            "select '" + "x" * 20_000 + "{n}'",
            "select '" + "é" * 20_000 + "{n}'",
            "select " + ",".join(f"q{k}_{{n}}" for k in range(2000)),
            "select 1 from t where " + " or ".join(f"q{k}_{{n}}" for k in range(2000)),
            "select 1 from " + ",".join(f"t{k}_{{n}}" for k in range(150)),
            "select " + ",".join(f"f{k}_{{n}}()" for k in range(500)),
            "insert into t values " + ",".join(f"({k},{{n}})" for k in range(2000)),
            "select " + ",".join(f"set_config('a.b{k}','{{n}}',true)" for k in range(200)),
        ],
        ids=["small", "long", "wide", "columns", "steering", "tables", "functions", "values", "settings"],
    )
    def test_statements_weigh_what_they_keep_in_memory(self, text: str) -> None:
        read(text.replace("{n}", "9"))
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            kept: list[Kept] = [read(text.replace("{n}", str(number))) for number in range(10, 40)]
            taken = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert 0.5 < sum(value.weight for value in kept) / taken < 2.5

    def test_portals_weigh_what_they_keep_in_memory(self) -> None:
        for values in ([b"x"] * 2000, [b"x" * 100_000]):
            tracemalloc.start()
            try:
                before = tracemalloc.get_traced_memory()[0]
                frames = [bind("p", "s", *(value + b"%d" % number for value in values)) for number in range(30)]
                kept = [Portal("p", (A,), decode_bind(frame[5:]), frame) for frame in frames]
                taken = tracemalloc.get_traced_memory()[0] - before
            finally:
                tracemalloc.stop()
            assert 0.7 < sum(value.weight for value in kept) / taken < 1.6

    def test_a_portal_read_again_under_another_path_weighs_its_own_analysis(self) -> None:
        statement = read("select " + ",".join(f"q{k}" for k in range(500)))
        portal = portal_of(statement)
        other = Portal("p", (statement,), portal.bind, portal.frame, statement.statements, ("other",))
        assert other.weight > portal.weight + 500 * 100
