"""Cases, read from a folder of YAML files; their fields are described in README.md. Files of other gates' kinds are left out by name.

A case's texts may name planted values: `${customers.7.ssn}`, parts of them (`${customers.7.ssn:plain,0-4}`), paddings and repetitions; `Words`
fills them in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

KINDS: Final = ("masking", "blocking")
EXPECTATIONS: Final = ("no_secret", "denied_or_no_secret", "held_or_denied", "allowed")
PLACE: Final = re.compile(r"\$\{([^}]+)\}")
Step = Mapping[str, Any]


class CorpusError(Exception):
    """A folder or file that isn't a corpus."""


@dataclass(frozen=True, slots=True)
class Case:
    """`steps` are normal: a step that was a string is `{"sql": string}`. `given` is the case as it stands in its file."""

    id: str
    kind: str
    title: str
    category: str
    expect: str
    steps: tuple[Step, ...]
    file: str
    given: Mapping[str, Any] = field(repr=False)

    def matches(self, pattern: str) -> bool:
        return any(re.search(pattern, text) for text in (self.id, self.category, self.title))


def read_folder(folder: Path) -> tuple[list[Case], list[str]]:
    """The cases of all its files by name, and the names of files that belong to other gates.

    Raises:
        CorpusError: no file, no YAML, or a case without what every case has.
    """
    files = sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]) if folder.is_dir() else []
    if not files:
        raise CorpusError(f"no case in `{folder}`: there is no YAML file")
    cases: list[Case] = []
    others: list[str] = []
    for path in files:
        try:
            document = yaml.safe_load(path.read_text())
            if document["kind"] in KINDS:
                cases += [_case(each, document["kind"], path.name) for each in document["cases"]]
            else:
                others.append(path.name)
        except (yaml.YAMLError, KeyError, TypeError) as error:
            raise CorpusError(f"`{path}` isn't a file of cases: {type(error).__name__}: {error}") from error
    return cases, others


def _case(given: Mapping[str, Any], kind: str, file: str) -> Case:
    if given["expect"] not in EXPECTATIONS:
        raise CorpusError(f"`{file}`: case {given['id']} expects `{given['expect']}`: one of {', '.join(EXPECTATIONS)}")
    return Case(
        id=given["id"],
        kind=kind,
        title=given["title"],
        category=given["category"],
        expect=given["expect"],
        steps=normal(given.get("steps", ())),
        file=file,
        given=given,
    )


def normal(steps: Sequence[Step | str]) -> tuple[Step, ...]:
    return tuple({"sql": step} if isinstance(step, str) else step for step in steps)


@dataclass(frozen=True, slots=True)
class Words:
    """What stands for `${...}` in a case. `self_dsn`: how the target reaches itself."""

    rows: Mapping[str, Any]
    self_dsn: str
    target_port: int

    def fill(self, text: str, guess: str | None = None) -> str:
        """`guess`: what stands for `$G`."""
        if guess is not None:
            text = text.replace("$G", guess)
        return PLACE.sub(lambda found: self._word(found[1]), text)

    def _word(self, expression: str) -> str:
        name, _, argument = expression.partition(":")
        match name:
            case "pad":
                return "x" * int(argument)
            case "rep":
                count, _, word = argument.partition(":")
                return word * int(count)
            case "each":
                count, _, word = argument.partition(":")
                return "".join(word.replace("#", str(number)) for number in range(1, int(count) + 1))
            case "selfdsn":
                return self.self_dsn
            case "data_port":
                return str(self.target_port)
        value: Any = self.rows
        for part in name.split("."):
            value = value[int(part)] if isinstance(value, list) else value[part]
        return self._cut(str(value), argument)

    @staticmethod
    def _cut(value: str, argument: str) -> str:
        for part in filter(None, argument.split(",")):
            if part == "plain":
                value = value.replace("-", "")
            elif "-" in part:
                start, end = part.split("-")
                value = value[int(start) : int(end)]
            else:
                value = value[: int(part)]
        return value
