"""YAML text to plain documents, each value with the line it stands on. Strict where YAML is not.

Nodes are composed by PyYAML's safe loader and read here, never constructed: no tags but YAML's own plain ones, no merge keys, no key
twice, aliases only while the whole stays small, nesting and size bounded. What YAML 1.1 reads differently from what its author sees is
either kept as it was written (`22:00`, dates), as kubectl does, or refused with the fix (`no`, `on`, `010`, an empty value): a guard must
not hang on it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import yaml

from sidegate.api.text import shown

MAX_CHARACTERS: Final = 1024 * 1024
MAX_NODES: Final = 50_000  # over all documents of a file, aliases counted each time
MAX_DEPTH: Final = 32
MAX_PROBLEMS: Final = 100

FieldPath: TypeAlias = "tuple[str | int, ...]"

_TAG: Final = "tag:yaml.org,2002:"
_MAP, _SEQ, _STR, _INT, _FLOAT, _BOOL, _NULL, _TIMESTAMP = (
    f"{_TAG}{name}" for name in ("map", "seq", "str", "int", "float", "bool", "null", "timestamp")
)
_DECIMAL: Final = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_CLOCK: Final = re.compile(r"[0-9]{1,2}(:[0-9]{2})+")


@dataclass(frozen=True, slots=True)
class ManifestProblem:
    """One thing that is wrong with one manifest, where it stands, and what to write instead. Lines and columns count from 1."""

    file: str
    line: int
    column: int
    field_path: str
    problem: str
    way_forward: str

    def __str__(self) -> str:
        where = f"{self.field_path}: " if self.field_path else ""
        return f"{self.file}:{self.line}: {where}{self.problem}; fix: {self.way_forward}"


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands in a file; both count from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Document:
    """One YAML document as plain values, and the place of each of them by its path (of its key, where it has one)."""

    value: Any
    places: dict[FieldPath, Place]


def path_text(path: FieldPath) -> str:
    """`spec.rules[2].action`, the way fields are named in every message."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


class _TooDeepError(yaml.MarkedYAMLError):
    pass


class _Loader(yaml.SafeLoader):
    """Bounds nesting while composing, for the composer calls itself."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1
        try:
            if self.depth > MAX_DEPTH:
                raise _TooDeepError(
                    problem=f"values are nested deeper than {MAX_DEPTH}",
                    problem_mark=self.peek_event().start_mark,  # type: ignore[no-untyped-call]  # PyYAML's stubs leave it untyped
                )
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


@dataclass(slots=True)
class _Reader:
    file: str
    problems: list[ManifestProblem] = field(default_factory=list)
    nodes: int = 0
    is_over: bool = False
    places: dict[FieldPath, Place] = field(default_factory=dict)
    open_nodes: set[int] = field(default_factory=set)

    def refuse(self, node: yaml.Node, path: FieldPath, problem: str, way_forward: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            place = _place(node.start_mark)
            self.problems.append(ManifestProblem(self.file, place.line, place.column, path_text(path), problem, way_forward))

    def value(self, node: yaml.Node, path: FieldPath) -> Any:
        self.nodes += 1
        if self.is_over or self.nodes > MAX_NODES or id(node) in self.open_nodes or len(path) > MAX_DEPTH:
            if not self.is_over:
                self.refuse(node, path, "anchors and aliases make the file too large or endless", "write the values out")
            self.is_over = True
            return None
        self.places.setdefault(path, _place(node.start_mark))
        self.open_nodes.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode) and node.tag == _MAP:
                return self.mapping(node, path)
            if isinstance(node, yaml.SequenceNode) and node.tag == _SEQ:
                return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
            if isinstance(node, yaml.ScalarNode):
                return self.scalar(node, path)
            self.refuse(node, path, f"tag {shown(node.tag)} isn't read", "leave the tag out")
            return None
        finally:
            self.open_nodes.discard(id(node))

    def mapping(self, node: yaml.MappingNode, path: FieldPath) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, item in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag != _STR:
                self.refuse(
                    key,
                    path,
                    f"{shown(str(key.value))} isn't read as a field's name",
                    "put it in quotes if it is one; write merges out",
                )
                continue
            below = (*path, key.value)
            if key.value in found:
                first = self.places[below].line
                self.refuse(key, below, f"the field stands twice, first in line {first}", "leave one out")
                continue
            self.places[below] = _place(key.start_mark)
            found[key.value] = self.value(item, below)
        return found

    def scalar(self, node: yaml.ScalarNode, path: FieldPath) -> Any:
        text: str = node.value
        if not text.isascii() and not _is_encodable(text):
            self.refuse(node, path, "the value has half a surrogate pair", "write the character itself")
            return None
        if node.tag in {_STR, _TIMESTAMP} or (node.tag in {_INT, _FLOAT} and _CLOCK.fullmatch(text)):
            return text  # base 60 and dates are YAML 1.1 only; kubectl too keeps them as they are written
        if node.tag == _BOOL:
            if text in {"true", "false"}:
                return text == "true"
            self.refuse(
                node,
                path,
                f"{shown(text)} is read as a truth value",
                f'put it in quotes ("{text}") for text, or write true or false',
            )
            return None
        if node.tag == _INT:
            if _DECIMAL.fullmatch(text):
                return int(text)
            self.refuse(
                node,
                path,
                f"{shown(text)} can be read as several numbers",
                f'write the plain decimal number, or "{text}" for text',
            )
            return None
        if node.tag == _FLOAT:
            self.refuse(
                node, path, f"{shown(text)} is a fraction, and no field takes one", f'put it in quotes for text: "{text}"'
            )
            return None
        if node.tag == _NULL:
            if path[:1] != ("metadata",) and "metadata" not in path[-2:-1]:
                self.refuse(node, path, "the value is empty", "give a value, or leave the field out")
            return None
        self.refuse(node, path, f"tag {shown(node.tag)} isn't read", "leave the tag out")
        return None


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _place(mark: Any) -> Place:
    return Place(mark.line + 1, mark.column + 1)


def read_documents(file: str, text: str) -> tuple[list[Document], list[ManifestProblem]]:
    """Every document of a file that isn't empty, and every problem. With problems the documents are incomplete: report, don't use them."""
    if len(text) > MAX_CHARACTERS:
        problem = ManifestProblem(file, 1, 1, "", f"the file is larger than {MAX_CHARACTERS // 1024} KiB", "split it")
        return [], [problem]
    reader = _Reader(file)
    documents: list[Document] = []
    try:
        for node in _composed(text):
            reader.places = {}
            value = reader.value(node, ())
            if value is not None:
                documents.append(Document(value, reader.places))
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        reader.problems.append(
            ManifestProblem(
                file,
                line,
                1,
                "",
                f"the file has a character that YAML doesn't allow: U+{_code(error.character):04X}",
                "take it out",
            )
        )
    except yaml.MarkedYAMLError as error:
        place = _place(error.problem_mark) if error.problem_mark is not None else Place(1, 1)
        because = f"{error.problem or error.context or 'it is not YAML'}"
        reader.problems.append(
            ManifestProblem(
                file, place.line, place.column, "", f"can't be read as YAML: {because}", "mend the line, or the one above"
            )
        )
    except ValueError as error:  # e.g. an escape for a code point that there isn't
        reader.problems.append(
            ManifestProblem(file, 1, 1, "", f"can't be read as YAML: {error}", "mend the escapes in double quotes")
        )
    return documents, reader.problems


def _code(character: object) -> int:
    return ord(character) if isinstance(character, str) else int(character) if isinstance(character, int) else 0


def _composed(text: str) -> Iterator[yaml.Node]:
    loader = _Loader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            if node is not None and not (isinstance(node, yaml.ScalarNode) and node.tag == _NULL):
                yield node
    finally:
        loader.dispose()
