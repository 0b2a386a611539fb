"""A store that is told by several sources, each late in its own way, ends where the API server is."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidegate_operator.resources import ACCESS_POLICIES
from sidegate_operator.store import Change, Key, Store, VersionError

NAMES = ("a", "b", "c")


def policy(name: str, version: int, uid: str = "u", **fields: Any) -> dict[str, Any]:
    metadata = {
        "namespace": "shop",
        "name": name,
        "uid": uid,
        "resourceVersion": str(version),
        "managedFields": [{"manager": "x"}],
    }
    return {"apiVersion": ACCESS_POLICIES.api_version, "kind": "AccessPolicy", "metadata": metadata, **fields}


def known(store: Store) -> dict[str, int]:
    return {each["metadata"]["name"]: int(each["metadata"]["resourceVersion"]) for each in store.all()}


def kinds(changes: list[Change]) -> list[tuple[str, bool, bool]]:
    return [(change.key.name, change.before is not None, change.after is not None) for change in changes]


def test_a_relist_tells_what_came_what_changed_and_what_was_deleted_meanwhile() -> None:
    store = Store(ACCESS_POLICIES)
    first = store.relisted([policy("a", 1), policy("b", 2)], "3")
    assert kinds(first) == [("a", False, True), ("b", False, True)]
    later = store.relisted([policy("b", 5), policy("c", 6)], "7")
    assert sorted(kinds(later)) == [("a", True, False), ("b", True, True), ("c", False, True)]
    assert store.relisted([policy("b", 5), policy("c", 6)], "9") == []


def test_an_older_version_of_an_object_changes_nothing() -> None:
    store = Store(ACCESS_POLICIES)
    assert store.seen(policy("a", 5, spec={"x": 1})) is not None
    assert store.seen(policy("a", 4, spec={"x": 0})) is None
    assert store.seen(policy("a", 5, spec={"x": 1})) is None
    assert store.get(Key("shop", "a"))["spec"] == {"x": 1}  # type: ignore[index]


def test_a_late_event_of_another_source_brings_nothing_deleted_back() -> None:
    store = Store(ACCESS_POLICIES)
    store.relisted([policy("a", 1)], "1")
    assert store.deleted(policy("a", 5)) is not None  # the other source is ahead of our own watch
    assert store.seen(policy("a", 4)) is None  # our own watch, behind
    store.reached("5")
    assert store.seen(policy("a", 4)) is None  # the other source once more, now below the floor
    assert known(store) == {}
    assert store.seen(policy("a", 6, uid="another")) is not None


def test_the_deletion_of_an_earlier_object_leaves_its_namesake() -> None:
    store = Store(ACCESS_POLICIES)
    store.seen(policy("a", 9, uid="new"))
    assert store.deleted(policy("a", 8, uid="old")) is None
    assert known(store) == {"a": 9}


def test_an_object_that_another_source_saw_after_the_list_stays() -> None:
    store = Store(ACCESS_POLICIES)
    store.seen(policy("a", 12))
    assert store.relisted([], "10") == []
    assert known(store) == {"a": 12}


def test_a_list_from_before_what_was_known_is_a_restored_history_and_taken_whole() -> None:
    store = Store(ACCESS_POLICIES)
    store.relisted([policy("a", 90, spec={"x": 2}), policy("b", 91)], "100")
    changes = store.relisted([policy("a", 40, spec={"x": 1})], "50")
    assert sorted(kinds(changes)) == [("a", True, True), ("b", True, False)]
    assert known(store) == {"a": 40}
    assert store.seen(policy("c", 51)) is not None


def test_remembers_nothing_that_nobody_reads() -> None:
    store = Store(ACCESS_POLICIES)
    store.seen(policy("a", 1))
    assert "managedFields" not in store.get(Key("shop", "a"))["metadata"]  # type: ignore[index]


@pytest.mark.parametrize("version", ["", "abc", None, "-1", "٣", 7])
def test_refuses_a_version_that_is_no_number(version: object) -> None:
    broken = policy("a", 1)
    broken["metadata"]["resourceVersion"] = version
    with pytest.raises(VersionError):
        Store(ACCESS_POLICIES).seen(broken)


# Every interleaving


@settings(max_examples=300, deadline=None)
@given(
    history=st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(["put", "put", "delete"])), max_size=25),
    seed=st.integers(0, 2**32),
)
def test_ends_at_the_truth_whatever_the_other_source_says_and_when(history: list[tuple[str, str]], seed: int) -> None:
    """Our own source: lists, then each event in order, with gaps that a list closes. The other: any events, in its own order, as late as it likes."""
    chance = random.Random(seed)
    truth: dict[str, dict[str, Any]] = {}
    events: list[tuple[int, str, dict[str, Any]]] = []
    moments: list[dict[str, dict[str, Any]]] = [{}]
    for version, (name, what) in enumerate(history, start=1):
        if what == "put":
            truth[name] = policy(name, version, spec={"n": version})
            events.append((version, "put", truth[name]))
        elif name in truth:
            events.append((version, "delete", policy(name, version, spec=truth.pop(name)["spec"])))
        moments.append(dict(truth))
    store, others, reached = Store(ACCESS_POLICIES), list(events), 0

    def other_source() -> None:
        while others and chance.random() < 0.6:
            version, what, found = others.pop(chance.randrange(min(3, len(others))))
            if version <= reached or chance.random() < 0.5:
                store.deleted(found) if what == "delete" else store.seen(found)

    while reached < len(history):
        other_source()
        if chance.random() < 0.3:  # a gap, closed by a list
            reached = chance.randint(reached, len(history))
            store.relisted(list(moments[reached].values()), str(reached))
            continue
        reached += 1
        for version, what, found in events:
            if version == reached:
                store.deleted(found) if what == "delete" else store.seen(found)
        store.reached(str(reached))
    for version, what, found in chance.sample(events, len(events)):  # the latest of the late
        assert version <= reached
        store.deleted(found) if what == "delete" else store.seen(found)
    assert {each["metadata"]["name"]: each["spec"] for each in store.all()} == {
        name: each["spec"] for name, each in truth.items()
    }
