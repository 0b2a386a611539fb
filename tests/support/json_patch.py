"""JSON Patch (RFC 6902) as far as our patches go: `add`, and `move` within a list. Written for tests, apart from what makes the patches.

The real one, which the API server uses, is asked in tests/cluster whether it agrees.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any


class PatchError(Exception):
    """The patch can't be applied: its target location doesn't exist, or the operation is another one."""


def patched(document: Mapping[str, Any], operations: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The document after the operations; the one that was given stays as it is.

    Raises:
        PatchError
    """
    result: dict[str, Any] = copy.deepcopy(dict(document))
    for operation in operations:
        if operation["op"] not in {"add", "move"} or not operation["path"].startswith("/"):
            raise PatchError(f"neither an addition nor a move below the root: {operation}")
        value = copy.deepcopy(operation["value"]) if operation["op"] == "add" else _taken(result, operation)
        place, last = _place(result, operation["path"], operation)
        _add(place, last, value, operation)
    return result


def _place(document: Any, path: str, operation: Mapping[str, Any]) -> tuple[Any, str]:
    *parents, last = (part.replace("~1", "/").replace("~0", "~") for part in path[1:].split("/"))
    place = document
    for part in parents:
        place = _below(place, part, operation)
    return place, last


def _taken(document: Any, operation: Mapping[str, Any]) -> Any:
    place, last = _place(document, operation["from"], operation)
    if not isinstance(place, list) or not last.isdigit() or int(last) >= len(place):
        raise PatchError(f"there is nothing to move at {operation['from']}")
    return place.pop(int(last))


def _below(place: Any, part: str, operation: Mapping[str, Any]) -> Any:
    if isinstance(place, dict) and part in place:
        return place[part]
    if isinstance(place, list) and part.isdigit() and int(part) < len(place):
        return place[int(part)]
    raise PatchError(f"there is no `{part}` on the way to {operation['path']}")


def _add(place: Any, last: str, value: Any, operation: Mapping[str, Any]) -> None:
    if isinstance(place, dict):
        place[last] = (
            value  # "If the target location specifies an object member that does exist, that member's value is replaced"
        )
    elif isinstance(place, list) and last == "-":
        place.append(value)
    elif isinstance(place, list) and last.isdigit() and int(last) <= len(place):
        place.insert(int(last), value)
    else:
        raise PatchError(f"nothing can be added at {operation['path']}")
