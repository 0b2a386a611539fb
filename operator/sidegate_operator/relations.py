"""What has to do with what, remembered: which policies are bound to a target, which pods are its own, which objects were made for it.

Rules it keeps: an answer is always as of now, since stores tell what changed in between, and only that is looked at again. So what a plan
gathers costs what its target has to do with, not what its namespace holds. Nothing here decides: whether two belong together is an
argument.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Final, Generic, Protocol, TypeVar

from sidegate_operator.resources import Object, Resource
from sidegate_operator.store import Key, Store

L = TypeVar("L")
R = TypeVar("R")
T_co = TypeVar("T_co", covariant=True)


class Readable(Protocol[T_co]):
    """The objects of a store, read; None for what can't be read or isn't there."""

    @property
    def store(self) -> Store: ...

    def readable(self, key: Key) -> T_co | None: ...


class Relation(Generic[L, R]):
    """Pairs within a namespace, from either side. An essence is what of an object decides whether it belongs to another."""

    def __init__(
        self,
        left: Readable[L],
        right: Readable[R],
        relates: Callable[[L, R], bool],
        left_essence: Callable[[L], object],
        right_essence: Callable[[R], object],
    ) -> None:
        self._left, self._right = left, right
        self._relates = relates
        self._left_essence, self._right_essence = left_essence, right_essence
        self._new_lefts, self._new_rights = left.store.follow(), right.store.follow()
        self._lefts: dict[Key, tuple[object, set[Key]]] = {}  # its essence, and what it belongs to
        self._rights: dict[Key, tuple[object, set[Key]]] = {}

    def of_right(self, key: Key) -> list[Key]:
        """In the order of their names."""
        self._refresh()
        known = self._rights.get(key)
        return sorted(known[1]) if known is not None else []

    def of_left(self, key: Key) -> list[Key]:
        """In the order of their names."""
        self._refresh()
        known = self._lefts.get(key)
        return sorted(known[1]) if known is not None else []

    def _refresh(self) -> None:
        while self._new_rights:
            self._look_at_right(self._new_rights.pop())
        while self._new_lefts:
            self._look_at_left(self._new_lefts.pop())

    def _look_at_right(self, key: Key) -> None:
        """Against every left one but those that are new, which are looked at next."""
        found = self._right.readable(key)
        essence = self._right_essence(found) if found is not None else None
        known = self._rights.get(key)
        if found is not None and known is not None and known[0] == essence:
            return
        for each in known[1] if known is not None else ():
            self._lefts[each][1].discard(key)
        if found is None:
            self._rights.pop(key, None)
            return
        mine: set[Key] = set()
        for each in self._left.store.keys_within(key.namespace):
            left = self._left.readable(each) if each in self._lefts else None
            if left is not None and self._relates(left, found):
                mine.add(each)
                self._lefts[each][1].add(key)
        self._rights[key] = essence, mine

    def _look_at_left(self, key: Key) -> None:
        found = self._left.readable(key)
        essence = self._left_essence(found) if found is not None else None
        known = self._lefts.get(key)
        if found is not None and known is not None and known[0] == essence:
            return
        for each in known[1] if known is not None else ():
            self._rights[each][1].discard(key)
        if found is None:
            self._lefts.pop(key, None)
            return
        mine: set[Key] = set()
        for each in self._right.store.keys_within(key.namespace):
            right = self._right.readable(each)
            if right is not None and self._relates(found, right):
                mine.add(each)
                self._rights[each][1].add(key)
        self._lefts[key] = essence, mine


class Groups:
    """The objects of several stores by what `group` says of each, such as the value of a label. None: of no group."""

    def __init__(self, stores: Iterable[Store], group: Callable[[Object], Hashable | None]) -> None:
        self._stores: Final = [(store, store.follow()) for store in stores]
        self._group = group
        self._known: dict[tuple[Resource, Key], tuple[str, Hashable]] = {}
        self._members: dict[tuple[str, Hashable], set[tuple[Resource, Key]]] = {}

    def members(self, namespace: str, group: Hashable) -> Iterator[tuple[Resource, Key]]:
        for store, new in self._stores:
            while new:
                self._look_at(store, new.pop())
        yield from sorted(self._members.get((namespace, group), ()), key=lambda each: (each[0].kind, each[1]))

    def _look_at(self, store: Store, key: Key) -> None:
        found, member = store.get(key), (store.resource, key)
        group = self._group(found) if found is not None else None
        before = self._known.pop(member, None)
        if before is not None:
            self._members[before].discard(member)
            if not self._members[before]:
                del self._members[before]
        if group is not None:
            self._known[member] = key.namespace, group
            self._members.setdefault((key.namespace, group), set()).add(member)
