"""When doors are tried, what is remembered of it, and what is never claimed."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.api.access_policy import AccessPolicy
from sidegate.api.protected_target import ProtectedTarget
from sidegate.probe.answer import Door, DoorState
from sidegate_operator.plan.pods import SeenPod
from sidegate_operator.plan.status import Probe
from sidegate_operator.probe.schedule import Aim, Board, Place, ProbePace, Prober, aim_at, told
from sidegate_operator.store import Key
from tests.support.operator_samples import outside_target, sample_target

KEY = Key("shop", "shop-db")
AIM = Aim((Place("10.1.2.3", 5432, "uid-1"),), ("readonly",), ("postgres",), True)
OPEN, CLOSED = Probe(("asks",), pods=frozenset({"uid-1"})), Probe(pods=frozenset({"uid-1"}))


def seen(target: ProtectedTarget, **change: Any) -> SeenPod:
    assert target.spec.selector is not None
    labels = {"sidegate.dev/target": str(target.metadata.name), **target.spec.selector.match_labels}
    pod = SeenPod("shop-db-0", "uid-1", labels, {}, True, True, False, False, addresses=("10.1.2.3",), is_up=True)
    return dataclasses.replace(pod, **change)


def policy(databases: list[str]) -> AccessPolicy:
    grants = [{"postgres": {"databases": databases, "role": "readonly", "allow": ["Read"]}}]
    spec = {"targets": {"names": ["shop-db"]}, "subjects": [{"groups": ["a"]}], "grants": grants}
    metadata = {"name": "p", "namespace": "shop"}
    return AccessPolicy.from_wire(
        {"apiVersion": "sidegate.dev/v1alpha1", "kind": "AccessPolicy", "metadata": metadata, "spec": spec}
    )


def test_aims_at_each_pod_that_is_up_as_the_targets_own_names_of_its_roles() -> None:
    target = sample_target()
    aim = aim_at(target, [policy(["shop", "shop-*", "*"])], [seen(target)])
    assert aim is not None
    assert aim.places == (Place("10.1.2.3", target.spec.port, "uid-1"),)
    assert aim.roles == tuple(dict.fromkeys(str(each.username or each.role) for each in target.spec.credentials))
    assert aim.databases == ("postgres", "shop")


def test_every_database_that_a_grant_names_is_tried_and_more_than_can_be_are_said_to_be_untried() -> None:
    target = sample_target()
    some = aim_at(target, [policy([f"db{n:02}" for n in range(40)])], [seen(target)])
    many = aim_at(target, [policy([f"db{n:02}" for n in range(63)]), policy(["x", "y"])], [seen(target)])
    assert some is not None
    assert many is not None
    assert (len(some.databases), some.untried) == (41, 0)
    assert told(some, []).unclear == ()
    assert (len(many.databases), many.untried) == (64, 2)
    assert told(many, []).unclear == ("2 more databases that grants name weren't tried",)


@pytest.mark.parametrize("change", [{"is_up": False}, {"addresses": ()}, {"is_over": True}])
def test_a_pod_that_isnt_up_is_not_tried(change: dict[str, Any]) -> None:
    target = sample_target()
    assert aim_at(target, [], [seen(target, **change)]) is None


def test_a_pod_is_tried_at_its_address_of_each_family() -> None:
    """Host rules differ by family: `reject` for 0.0.0.0/0 says nothing of ::/0."""
    target = sample_target()
    aim = aim_at(target, [], [seen(target, addresses=("10.1.2.3", "fd00::3"))])
    assert aim is not None
    assert {each.host for each in aim.places} == {"10.1.2.3", "fd00::3"}


def test_a_pod_without_a_gate_is_tried_too() -> None:
    target = sample_target()
    assert aim_at(target, [], [seen(target, has_gate=False)]) is not None


def test_what_no_probe_can_come_to_from_outside_is_not_tried() -> None:
    local = outside_target({"spec": {"endpoint": {"host": "127.0.0.1", "port": 5432}}})
    assert aim_at(local, [], []) is None


@pytest.mark.parametrize(
    ("state", "is_open", "is_unclear"),
    [
        (DoorState.GATE, False, False),
        (DoorState.SILENT, False, False),
        (DoorState.ASKS, True, False),
        (DoorState.WIDE_OPEN, True, False),
        (DoorState.REJECTED, True, False),
        (DoorState.UNCLEAR, False, True),
    ],
)
def test_where_packets_are_led_to_the_gate_nobody_else_may_answer(state: DoorState, is_open: bool, is_unclear: bool) -> None:
    redirected = sample_target({"spec": {"enforcement": {"mode": "Redirect"}}})
    aim = aim_at(redirected, [], [seen(redirected)])
    assert aim is not None
    assert aim.roles == ()
    plain = Door("10.1.2.3", 5432, None, "postgres", False, state)
    over_tls = dataclasses.replace(plain, over_tls=True, state=DoorState.ASKS)  # as a gate does
    found = told(aim, [plain, over_tls])
    assert (bool(found.open_doors), bool(found.unclear)) == (is_open, is_unclear)
    assert found.pods == frozenset({"uid-1"})


def test_a_target_outside_the_cluster_is_tried_where_it_listens() -> None:
    aim = aim_at(outside_target(), [], [])
    assert aim is not None
    assert aim.places == (Place("db.example.com", 5433),)
    assert told(aim, []).pods is None


def test_is_tried_at_once_soon_again_and_then_now_and_then() -> None:
    board, now = Board(), 1000.0
    board.note(KEY, AIM)
    moments = []
    for second in range(1300):
        for key, aim in board.take(now + second):
            moments.append(second)
            board.give_back(key, aim, CLOSED, now + second)
    assert moments == [0, 15, 60, 360, 660, 960, 1260]


def test_is_not_tried_twice_at_a_time_nor_too_many_together() -> None:
    board = Board(ProbePace(targets_together=2))
    for number in range(5):
        board.note(Key("shop", f"db-{number}"), AIM)
    first = board.take(0.0)
    assert len(first) == 2
    assert board.take(0.0) == []
    board.give_back(*first[0], CLOSED, 0.0)
    assert len(board.take(0.0)) == 1


def test_what_changed_is_tried_at_once_and_what_was_closed_is_not_claimed_meanwhile() -> None:
    board = Board()
    board.note(KEY, AIM)
    board.take(0.0)
    assert board.give_back(KEY, AIM, CLOSED, 0.0)
    assert board.note(KEY, AIM) == CLOSED
    other = dataclasses.replace(AIM, places=(*AIM.places, Place("10.1.2.4", 5432, "uid-2")))
    assert board.note(KEY, other) is None
    assert board.take(1.0) == [(KEY, other)]


def test_an_open_door_stays_one_until_it_was_tried_again() -> None:
    board = Board()
    board.note(KEY, AIM)
    board.take(0.0)
    board.give_back(KEY, AIM, OPEN, 0.0)
    other = dataclasses.replace(AIM, roles=("readwrite",))
    assert board.note(KEY, other) == OPEN
    board.take(1.0)
    assert not board.give_back(KEY, AIM, CLOSED, 1.0), "an answer to what isn't asked any more"
    assert board.give_back(KEY, other, CLOSED, 1.0)
    assert board.note(KEY, other) == CLOSED


def test_what_is_old_is_forgotten() -> None:
    board = Board()
    board.note(KEY, AIM)
    board.take(0.0)
    board.give_back(KEY, AIM, CLOSED, 0.0)
    assert board.forget_old(899.0) == []
    assert board.forget_old(900.0) == [KEY]
    assert board.note(KEY, AIM) is None


def door(state: DoorState, role: str | None = "readonly", **more: Any) -> Door:
    return Door(**{"host": "10.1.2.3", "port": 5432, "role": role, "database": "shop", "over_tls": False, "state": state, **more})


def test_tells_the_worst_of_each_role_once() -> None:
    doors = [
        door(DoorState.REJECTED),
        door(DoorState.ASKS, over_tls=True, detail="a password"),
        door(DoorState.WIDE_OPEN, database="other"),
        door(DoorState.UNCLEAR, None),
        door(DoorState.REJECTED, None),
    ]
    found = told(AIM, doors)
    assert len(found.open_doors) == 1
    assert "without any password" in found.open_doors[0]
    assert "`other`" in found.open_doors[0]
    assert len(found.unclear) == 1


@given(st.lists(st.builds(door, st.sampled_from(DoorState), st.sampled_from(["readonly", "readwrite", None]))))
def test_nothing_but_closed_doors_is_told_as_closed(doors: list[Door]) -> None:
    found = told(AIM, doors)
    assert bool(found.open_doors) == any(each.is_open for each in doors)
    if not found.open_doors and not found.unclear:
        assert not any(each.is_open or each.is_unclear for each in doors)


async def test_a_probe_that_fails_closes_nothing_and_ends_nobody() -> None:
    board, told_of, tried = Board(ProbePace(look_every_s=0.001)), asyncio.Event(), 0

    async def attempt(
        host: str, port: int, roles: tuple[str, ...], timeout_s: float, *, databases: tuple[str, ...]
    ) -> tuple[Door, ...]:
        nonlocal tried
        tried += 1
        raise ValueError("odd")

    prober = Prober(board, lambda _: told_of.set(), lambda _: True, lambda: 0.0, attempt)
    board.note(KEY, AIM)
    running = asyncio.create_task(prober.run())
    await asyncio.wait_for(told_of.wait(), 10)
    found = board.note(KEY, AIM)
    assert found is not None
    assert found.unclear
    assert not running.done()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert tried == 1


async def test_a_target_that_is_gone_is_not_tried() -> None:
    board, looked = Board(ProbePace(look_every_s=0.001)), asyncio.Event()

    def exists(_: Key) -> bool:
        looked.set()
        return False

    async def attempt(*_: Any, **__: Any) -> tuple[Door, ...]:
        raise AssertionError("it was tried")

    board.note(KEY, AIM)
    running = asyncio.create_task(Prober(board, lambda _: None, exists, lambda: 0.0, attempt).run())
    await asyncio.wait_for(looked.wait(), 10)
    assert board.take(0.0) == []
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
