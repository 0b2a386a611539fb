"""Finds and masks what the detectors of some value masks look for, in one value or in a whole chunk of wire bytes.

Rules: `may_contain` has no false negatives for any value inside the chunk, whatever stands around it. Overlapping finds become one span
with the strictest strategy. A span never cuts an escape sequence in half. Time is linear in the length of the data.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Final, NamedTuple

from sidegate.mask.detect.detector import Detector
from sidegate.mask.detectors import DETECTORS
from sidegate.mask.patterns import Prefilter
from sidegate.mask.reading import ESCAPE_TRIGGER, FOLD_TRIGGER, WIDE_TRIGGER, Reading, fold, narrow, unescape, whole_escapes
from sidegate.mask.strategies import REDACTED, STRICTNESS, masked_value
from sidegate.policy.decision import MaskStrategy, ValueMask
from sidegate.policy.source import PolicyRule

_CACHED_SCANNERS: Final = 1024  # small: their compiled patterns are shared
_CACHED_PREFILTERS: Final = 64  # each may take some megabytes
_MOST_ESCAPES: Final = 4  # of different kinds in each other: JSON in a URL in HTML in JSON; within one kind a run counts as one


class UnknownDetectorError(ValueError):
    """A mask names a detector that this version doesn't have. Nothing may pass under it."""

    way_forward = "name one of the detectors in docs/coverage/detectors.md, or update the gate"


class Span(NamedTuple):
    """Bytes `start` to `end` of the value, what found them, and by which rule they are masked."""

    start: int
    end: int
    detector: str
    strategy: MaskStrategy
    source: PolicyRule


class _Rule(NamedTuple):
    detector: Detector
    strategy: MaskStrategy
    source: PolicyRule


def _rules(masks: tuple[ValueMask, ...]) -> tuple[_Rule, ...]:
    """One rule a detector: of several masks that name it, the strictest, and of equals the first."""
    rules: dict[str, _Rule] = {}
    for mask in masks:
        for name in sorted(mask.detectors):
            if name not in DETECTORS:
                raise UnknownDetectorError(f"unknown detector `{name}` in {mask.source}")
            known = rules.get(name)
            if known is None or STRICTNESS[mask.strategy] > STRICTNESS[known.strategy]:
                rules[name] = _Rule(DETECTORS[name], mask.strategy, mask.source)
    return tuple(rules.values())


class _Patterns(NamedTuple):
    """The prefilter patterns of some detectors, then the triggers of readings. `owners`: of each pattern, which detector's."""

    patterns: Prefilter
    owners: tuple[int, ...]
    unescape_at: int
    fold_at: int
    wide_at: int


@lru_cache(maxsize=_CACHED_PREFILTERS)
def _prefilter(names: tuple[str, ...]) -> _Patterns:
    patterns: list[bytes] = []
    owners: list[int] = []
    for index, name in enumerate(names):
        patterns += DETECTORS[name].prefilter
        owners += [index] * len(DETECTORS[name].prefilter)
    at = len(patterns)
    return _Patterns(Prefilter((*patterns, ESCAPE_TRIGGER, FOLD_TRIGGER, WIDE_TRIGGER)), tuple(owners), at, at + 1, at + 2)


class Scanner:
    """`hash_key` is for the Hash strategy; without it such values are redacted.

    Raises:
        UnknownDetectorError: a mask names a detector that there isn't.
    """

    __slots__ = ("_hash_key", "_prefilter", "_rules")

    def __init__(self, masks: tuple[ValueMask, ...], hash_key: bytes | None = None) -> None:
        self._hash_key = hash_key
        self._rules = _rules(masks)
        self._prefilter = _prefilter(tuple(rule.detector.name for rule in self._rules))

    @staticmethod
    def of(masks: tuple[ValueMask, ...], hash_key: bytes | None = None) -> Scanner:
        """The one scanner for equal masks. The key counts only where a mask hashes; compiled patterns are shared in any case."""
        is_keyed = any(mask.strategy is MaskStrategy.HASH for mask in masks)
        return _scanner(masks, hash_key if is_keyed else None)

    def may_contain(self, data: bytes | memoryview) -> bool:
        """Quickly: false means that no value inside `data` holds anything to mask. True means that `find` has to look at each value."""
        return bool(self._rules) and bool(self._prefilter.patterns.matches(data))

    def find(self, data: bytes) -> list[Span]:
        """Everything to mask in one value, from left to right, without overlaps."""
        hits = self._prefilter.patterns.matches(data)
        if not hits or not self._rules:
            return []
        found = self._look(data, hits)
        for chain in self._readings(data, hits):
            read = chain[-1].data
            for span in self._look(read, self._prefilter.patterns.matches(read)):
                place = (span.start, span.end)
                for reading in reversed(chain):
                    place = reading.source_span(place)
                found.append(_at(span, place))
        if not found:
            return []
        if b"\\" in data:
            places = whole_escapes(data, [(span.start, span.end) for span in found])
            found = [_at(span, place) for span, place in zip(found, places, strict=True)]
        return _merged(found)

    def mask(self, data: bytes) -> bytes | None:
        """A masked copy, or None when there is nothing to mask. Null can't be written into a text: it is redacted."""
        spans = self.find(data)
        return self.replace(data, spans) if spans else None

    def replace(self, data: bytes, spans: list[Span]) -> bytes:
        """`data` with each span's replacement in its place. Partial would break an escape sequence, so it is redacted there."""
        pieces: list[bytes] = []
        at = 0
        for span in spans:
            pieces.append(data[at : span.start])
            pieces.append(self.replacement(data[span.start : span.end], span.strategy))
            at = span.end
        pieces.append(data[at:])
        return b"".join(pieces)

    def replacement(self, value: bytes, strategy: MaskStrategy) -> bytes:
        if strategy is MaskStrategy.PARTIAL and b"\\" in value:
            return REDACTED
        masked = masked_value(value, strategy, self._hash_key)
        return REDACTED if masked is None else masked

    def _look(self, data: bytes, hits: list[int]) -> list[Span]:
        found: list[Span] = []
        owners = self._prefilter.owners
        for index in sorted({owners[hit] for hit in hits if hit < len(owners)}):
            rule = self._rules[index]
            found += [Span(start, end, rule.detector.name, rule.strategy, rule.source) for start, end in rule.detector.find(data)]
        return found

    def _readings(self, data: bytes, hits: list[int]) -> Iterator[tuple[Reading, ...]]:
        """Each reading that differs from the value, behind those that it was made from."""
        chain: tuple[Reading, ...] = ()
        for _ in range(_MOST_ESCAPES):
            yield from self._seen(data, hits, chain)
            # Where a detector's own pattern is there, more escapes matter than the trigger names: `\\n` in a wrapped token.
            has_own = any(hit < self._prefilter.unescape_at for hit in hits)
            if self._prefilter.unescape_at not in hits and not (has_own and b"\\" in data):
                return
            if b"\\x" in data:
                short = unescape(data, is_short=True)
                yield (*chain, short)
                yield from self._seen(short.data, self._prefilter.patterns.matches(short.data), (*chain, short))
            unescaped = unescape(data)
            if unescaped.data == data:
                return
            chain, data = (*chain, unescaped), unescaped.data
            yield chain
            hits = self._prefilter.patterns.matches(data)
        yield from self._seen(data, hits, chain)

    def _seen(self, data: bytes, hits: list[int], chain: tuple[Reading, ...]) -> Iterator[tuple[Reading, ...]]:
        if self._prefilter.fold_at in hits:
            yield (*chain, fold(data))
        if self._prefilter.wide_at in hits:
            yield (*chain, narrow(data))


def _at(span: Span, place: tuple[int, int]) -> Span:
    return span._replace(start=place[0], end=place[1])


def _merged(found: list[Span]) -> list[Span]:
    """Overlapping spans as one: the strictest strategy, with its detector and source, over all their bytes."""
    found.sort(key=lambda span: (span.start, -span.end))
    merged: list[Span] = []
    for span in found:
        if not merged or span.start >= merged[-1].end:
            merged.append(span)
            continue
        last = merged[-1]
        lead = span if STRICTNESS[span.strategy] > STRICTNESS[last.strategy] else last
        merged[-1] = lead._replace(start=last.start, end=max(last.end, span.end))
    return merged


@lru_cache(maxsize=_CACHED_SCANNERS)
def _scanner(masks: tuple[ValueMask, ...], hash_key: bytes | None) -> Scanner:
    return Scanner(masks, hash_key)
