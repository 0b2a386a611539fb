"""A small reading of how the API server judges an object: defaults, then every CEL rule of the schema over `self` and `oldSelf`.

For tests. It evaluates the very expressions that stand in the CRD with the CEL project's own runtime, over untyped values; the API server's
own evaluation (typed, with a cost budget) is stricter in what it compiles, not in what it answers.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from cel_expr_python import cel

Schema = dict[str, Any]


def merged(base: Any, patch: Any) -> Any:
    """JSON merge patch (RFC 7386)."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = copy.deepcopy(base) if isinstance(base, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


def defaulted(schema: Schema, value: Any) -> Any:
    """With the schema's defaults filled in, outside in."""
    if isinstance(value, dict) and "properties" in schema:
        filled = dict(value)
        for name, below in schema["properties"].items():
            if name not in filled and "default" in below:
                filled[name] = copy.deepcopy(below["default"])
            if name in filled:
                filled[name] = defaulted(below, filled[name])
        return filled
    if isinstance(value, list):
        return [defaulted(schema["items"], item) for item in value]
    return value


def broken_rules(schema: Schema, value: Any, old: Any = None) -> set[str]:
    """The messages of every CEL rule that the object breaks."""
    value = defaulted(schema, value)
    old = defaulted(schema, old) if old is not None else None
    return {rule["message"] for rule, now, before in _rules(schema, value, old) if not _holds(rule["rule"], now, before)}


def _rules(schema: Schema, value: Any, old: Any) -> Iterator[tuple[Schema, Any, Any]]:
    for rule in schema.get("x-kubernetes-validations", ()):
        if "oldSelf" not in rule["rule"] or old is not None:
            yield rule, _typed(schema, value), _typed(schema, old)
    if isinstance(value, dict):
        for name, below in schema.get("properties", {}).items():
            if name in value:
                yield from _rules(below, value[name], old.get(name) if isinstance(old, dict) else None)
    elif isinstance(value, list):
        for item in value:
            yield from _rules(schema["items"], item, None)


def _typed(schema: Schema, value: Any) -> Any:
    """`format: date-time` is a timestamp to CEL. The runtime takes none inside a map, so it is given the seconds, which compare alike."""
    if isinstance(value, str) and schema.get("format") == "date-time":
        return datetime.fromisoformat(value).timestamp()
    if isinstance(value, dict):
        below = schema.get("properties", {})
        return {name: _typed(below.get(name, {}), each) for name, each in value.items()}
    if isinstance(value, list):
        return [_typed(schema.get("items", {}), each) for each in value]
    return value


@functools.cache
def _program(rule: str) -> Any:
    return cel.NewEnv(variables={"self": cel.Type.DYN, "oldSelf": cel.Type.DYN}).compile(rule)


def _holds(rule: str, value: Any, old: Any) -> bool:
    answer = _program(rule).eval(data={"self": value, "oldSelf": old}).value()
    assert isinstance(answer, bool), f"{rule} gave {answer!r}"
    return answer
