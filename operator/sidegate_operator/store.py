"""The objects of one kind as they are now, merged from sources that may be late: our own list and watch, and kopf's events.

Rules it keeps:
- The newest resource version wins, whatever the order of arrival. They are numbers that grow (KEP-5504; etcd's revision in every release).
- Our own list and watch are ordered and complete, so all up to the `floor` that they reached is known: an object that isn't here and whose
  version isn't above it is deleted, and no late event of another source brings it back.
- A relist notices what was deleted in a gap between two watches. A relist from an older moment than the floor means that the cluster's
  history was replaced (etcd restored from a backup): then it is taken whole.

Left out: who lists and watches (`watcher.py`), and what a change leads to (`handlers/`). Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from sidegate_operator.resources import Object, Resource


class Key(NamedTuple):
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class VersionError(Exception):
    """A resource version that isn't a number can't be compared."""

    def __init__(self, version: object) -> None:
        super().__init__(f"the resource version `{version}` isn't a number")
        self.way_forward = "run against a Kubernetes API server that stores in etcd"


@dataclass(frozen=True, slots=True)
class Change:
    """INVARIANT: one of `before` and `after` is there."""

    resource: Resource
    key: Key
    before: Object | None
    after: Object | None


class _Entry(NamedTuple):
    version: int
    object: Object


def key_of(found: Object) -> Key:
    metadata = found["metadata"]
    return Key(metadata.get("namespace", ""), metadata["name"])


def version_of(resource_version: object) -> int:
    """Raises VersionError: it isn't a number."""
    if not isinstance(resource_version, str) or not resource_version.isascii() or not resource_version.isdigit():
        raise VersionError(resource_version)
    return int(resource_version)


def trimmed(found: Object) -> Object:
    """Without what nobody here reads and what is half of an object's size."""
    metadata = {name: value for name, value in found["metadata"].items() if name != "managedFields"}
    return {**found, "metadata": metadata}


class Store:
    def __init__(self, resource: Resource, keep: Callable[[Object], Object] = trimmed) -> None:
        """`keep`: what of each object is remembered; its metadata's name, namespace, uid and resourceVersion must be. What it made of an
        object may be given to it again.
        """
        self.resource: Final = resource
        self.keep: Final = keep
        self._entries: dict[Key, _Entry] = {}
        self._by_namespace: dict[str, set[Key]] = {}
        self._sorted: dict[str, tuple[Key, ...]] = {}  # of namespaces whose keys haven't changed since
        self._graves: dict[Key, int] = {}  # deleted above the floor: version of the deletion
        self._floor = 0
        self._followers: list[set[Key]] = []

    # Reading

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key) -> Object | None:
        entry = self._entries.get(key)
        return entry.object if entry is not None else None

    def all(self) -> Iterator[Object]:
        return (entry.object for entry in self._entries.values())

    def every_key(self) -> list[Key]:
        return list(self._entries)

    def keys_within(self, namespace: str) -> tuple[Key, ...]:
        """In the order of their names, so that what is made of them is always the same."""
        found = self._sorted.get(namespace)
        if found is None:
            found = self._sorted[namespace] = tuple(sorted(self._by_namespace.get(namespace, ())))
        return found

    def follow(self) -> set[Key]:
        """A set that gets the key of whatever changes from now on, and of what is there already. Whoever asked for it takes them out."""
        follower = set(self._entries)
        self._followers.append(follower)
        return follower

    # What was heard

    def seen(self, found: Object) -> Change | None:
        """An object as it is or was at its resource version, from any source. None: nothing new."""
        key, version = key_of(found), version_of(found["metadata"].get("resourceVersion"))
        entry = self._entries.get(key)
        known = entry.version if entry is not None else max(self._graves.get(key, 0), self._floor)
        if version <= known:
            return None
        return self._put(key, version, found)

    def deleted(self, found: Object) -> Change | None:
        """An object's deletion, whose version its `resourceVersion` is, from any source. None: nothing new."""
        key, version = key_of(found), version_of(found["metadata"].get("resourceVersion"))
        entry = self._entries.get(key)
        if entry is not None and version < entry.version:
            return None  # an earlier object of this name
        if version > self._floor:
            self._graves[key] = max(version, self._graves.get(key, 0))
        return self._drop(key)

    # What our own list and watch say beyond single objects

    def relisted(self, found: Sequence[Object], resource_version: str) -> list[Change]:
        """Every object there was at `resource_version`: what differs from what was known, deletions included."""
        at = version_of(resource_version)
        if at < self._floor:  # history was replaced: no version from before means anything now
            self._entries = {key: _Entry(0, entry.object) for key, entry in self._entries.items()}
            self._graves.clear()
            self._floor = 0
        listed = {key_of(each): each for each in found}
        changes = [self._listed(key, each) for key, each in listed.items()]
        gone = [key for key, entry in self._entries.items() if key not in listed and entry.version <= at]
        changes += [self._drop(key) for key in gone]
        self.reached(resource_version)
        return [change for change in changes if change is not None]

    def _listed(self, key: Key, found: Object) -> Change | None:
        """As `seen`, but below the floor too: our own list is complete, so it brings back what was dropped wrongly."""
        version = version_of(found["metadata"].get("resourceVersion"))
        entry = self._entries.get(key)
        if version <= (entry.version if entry is not None else self._graves.get(key, 0)):
            return None
        return self._put(key, version, found)

    def reached(self, resource_version: str) -> None:
        """Our own list or watch has told all up to here: its newest event's version, or a bookmark's."""
        self._floor = max(self._floor, version_of(resource_version))
        if self._graves:
            self._graves = {key: version for key, version in self._graves.items() if version > self._floor}

    def _put(self, key: Key, version: int, found: Object) -> Change | None:
        before = self.get(key)
        kept = self.keep(found)
        self._entries[key] = _Entry(version, kept)
        if before is None:
            self._by_namespace.setdefault(key.namespace, set()).add(key)
            self._sorted.pop(key.namespace, None)
        self._graves.pop(key, None)
        if before == kept:
            return None
        self._changed(key)
        return Change(self.resource, key, before, kept)

    def _drop(self, key: Key) -> Change | None:
        entry = self._entries.pop(key, None)
        self._by_namespace.get(key.namespace, set()).discard(key)
        self._sorted.pop(key.namespace, None)
        if entry is None:
            return None
        self._changed(key)
        return Change(self.resource, key, entry.object, None)

    def _changed(self, key: Key) -> None:
        for follower in self._followers:
            follower.add(key)
