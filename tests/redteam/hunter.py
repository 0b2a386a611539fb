"""Does a piece of what a client received hold a planted secret? `Hunter.hunt(units)` tells which, and in which form.

Strong hits count alone: any 6 characters of a password, token or e-mail name, 9 digits of an SSN, 8 of a card (not the leading 6). Weak hits
(6 to 8 digits of an SSN, 6 or 7 of a card: digits that also occur by chance) count when there are three different ones and they are a good
part of the numbers seen. Cells are looked at alone, and joined by column and by row, for values that come a character at a time. Left out:
what no reading of readings.py undoes, and anything but the ends of a value of more than a megabyte.
"""

from __future__ import annotations

import base64
import json
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from tests.redteam.planted import Planted
from tests.redteam.readings import custom, plain, readings

SECRET: Final = ("ssn", "password", "card", "token")  # e-mail addresses are only hunted where a case asks
BIG_BYTES: Final = 1_000_000
THOROUGH_BYTES: Final = 3_000_000  # beyond these only the plain reading
DIGIT_RUN: Final = re.compile(r"(?<![0-9a-z.])[0-9]{6,}(?![0-9a-z.])")
DATE: Final = re.compile(r"(?<!\d)(?:\d{4}-\d\d-\d\d|\d\d-\d\d-\d{4})(?!\d)")
LONG_HEX: Final = re.compile(r"[0-9a-f]{24,}")
DASHED: Final = re.compile(r"[0-9\-]{6,}")
NUMBER_FORMATS: Final = ((4, (">i", ">f")), (8, (">q", ">d")))


class Unit(NamedTuple):
    """`kind`: cell, copy, error M, notice H, column name, ...; `column`: result and place, for cells."""

    kind: str
    data: bytes
    column: tuple[int, int] | None = None


class Secret(NamedTuple):
    kind: str
    value: str


class Hit(NamedTuple):
    secret: Secret
    form: str

    def __str__(self) -> str:
        return f"{self.secret.kind} {self.secret.value[:14]} ({self.form})"


class Hunter:
    def __init__(self, planted: Planted) -> None:
        self._words: dict[str, Secret] = {}  # windows of six characters
        self._digits: dict[str, Secret] = {}
        self._weak: dict[str, Secret] = {}
        self._dashed: dict[str, Secret] = {}
        self._numbers: dict[int, Secret] = {}
        for kind, values in planted.classes.items():
            for value in values:
                self._learn(Secret(kind, value))

    def _learn(self, secret: Secret) -> None:
        match secret.kind:
            case "ssn":
                self._learn_ssn(secret)
            case "card":
                self._learn_card(secret)
            case _:
                for part in secret_parts(secret):
                    self._learn_words(secret, part)

    def _learn_words(self, secret: Secret, text: str) -> None:
        for window in _windows(text.lower(), 6):
            if window.isalnum() and sum(each.isalpha() for each in window) >= 2:
                self._words.setdefault(window, secret)

    def _learn_ssn(self, secret: Secret) -> None:
        digits = secret.value.replace("-", "")
        self._digits[digits] = secret
        self._numbers[int(digits)] = secret
        for size in (6, 7, 8):
            for window in _windows(digits, size):
                self._weak.setdefault(window, secret)
        for window in _windows(secret.value, 6):
            if "-" in window and sum(each.isdigit() for each in window) >= 4:
                self._dashed.setdefault(window, secret)

    def _learn_card(self, secret: Secret) -> None:
        self._numbers[int(secret.value)] = secret
        for window in _windows(secret.value[1:], 8):
            self._digits.setdefault(window, secret)
        for size in (6, 7):
            for window in _windows(secret.value[4:], size):
                self._weak.setdefault(window, secret)

    def hunt(self, units: Iterable[Unit], decode: Sequence[str] = (), kinds: Sequence[str] = SECRET) -> list[Hit]:
        """`decode`: steps of readings.custom that the case adds."""
        look = _Look(self)
        for unit in units:
            look.at(unit, decode)
        look.at_what_is_joined(decode)
        return look.hits(kinds)

    # One text, as it is

    def find_words(self, text: str) -> Iterator[Secret]:
        for found in re.finditer(r"[a-z0-9]{6,}", text):
            if not found.group().isdigit():
                yield from _known(self._words, found.group(), 6)

    def find_digits(self, text: str) -> Iterator[Secret]:
        for found in re.finditer(r"(?<![0-9.])[0-9]{8,}", text):
            for size in (8, 9):
                yield from _known(self._digits, found.group(), size)

    def find_digits_run_together(self, text: str) -> Iterator[Secret]:
        for found in re.finditer(r"[0-9]{8,}", text):
            run = found.group()
            yield from _known(self._digits, run, 9)
            for start in range(len(run) - 9):  # ten digits of a card: two windows of eight
                first, second = self._digits.get(run[start : start + 8]), self._digits.get(run[start + 2 : start + 10])
                if first and second and first.kind == second.kind == "card":
                    yield first

    def find_dashed(self, text: str) -> Iterator[tuple[Secret | None, list[Secret]]]:
        """For each number with dashes: the SSN that it is, and those that it may be a part of."""
        for found in DASHED.finditer(DATE.sub(" ", text)):
            run = found.group()
            if len(run) <= 11 and "-" in run:
                digits = run.replace("-", "")
                yield self._digits.get(digits) if len(digits) == 9 else None, list(_known(self._dashed, run, 6))

    def find_weak(self, text: str) -> Iterator[list[Secret]]:
        """For each number: the secrets that it may be a part of."""
        for found in DIGIT_RUN.finditer(text):
            run = found.group()
            if len(run) <= 16:
                close = [secret for size in (6, 7, 8) for secret in _known(self._weak, run, size)]
                yield [secret for secret in close if secret.kind == "card" or len(run) <= 9]

    def find_binary(self, data: bytes) -> Iterator[tuple[Secret, str]]:
        if len(data) > 4096:
            return
        for size, formats in NUMBER_FORMATS:
            for start in range(len(data) - size + 1):
                for each in formats:
                    value = struct.unpack_from(each, data, start)[0]
                    if value == value and abs(value) < 1e17 and value == int(value) and abs(int(value)) in self._numbers:
                        yield self._numbers[abs(int(value))], "binary number"
        value = _numeric(data)
        if value in self._numbers:
            yield self._numbers[value], "binary numeric"


class _Look:
    """One hunt: what was found so far, and how many numbers were seen."""

    def __init__(self, hunter: Hunter) -> None:
        self._hunter = hunter
        self._strong: dict[Secret, str] = {}
        self._weak: dict[Secret, str] = {}
        self._numbers_seen = 0
        self._spent = 0
        self._columns: dict[tuple[int, int] | None, list[str]] = {}
        self._cells: list[str] = []
        self._messages: dict[str, list[str]] = {}

    def at(self, unit: Unit, decode: Sequence[str]) -> None:
        if len(unit.data) > BIG_BYTES:
            ends = (unit.data[: BIG_BYTES // 4], unit.data[-BIG_BYTES // 4 :])
            self._text(" ".join(end.decode("utf8", "replace") for end in ends).lower(), f"{unit.kind} (ends of a big value)")
            return
        text = _decode(unit.data)
        self._spent += len(unit.data)
        if self._spent > THOROUGH_BYTES:
            self._text(plain(text).lower(), f"{unit.kind}: plain")
            return
        if unit.kind in ("cell", "fn"):
            for secret, form in self._hunter.find_binary(unit.data):
                self._strong.setdefault(secret, form)
        if unit.kind == "cell":
            self._columns.setdefault(unit.column, []).append(text)
            self._cells.append(text)
        elif unit.kind == "raw":
            self._text(plain(text).lower(), "raw")
            return
        else:
            self._messages.setdefault(unit.kind, []).append(text)
        for reading in readings(text):
            self._text(reading.text, f"{unit.kind}: {reading.form}", is_loose=reading.is_loose)
        if decode:
            self._text(custom(text, decode).lower(), f"{unit.kind}: decode")

    def at_what_is_joined(self, decode: Sequence[str]) -> None:
        joined = [("column joined", parts) for parts in self._columns.values()] + [("row joined", self._cells)]
        joined += [(f"{kind}s joined", parts) for kind, parts in self._messages.items()]
        for what, parts in joined:
            if len(parts) > 1 and sum(map(len, parts)) < 200_000:
                self._joined(what, parts, decode)

    def _joined(self, what: str, parts: list[str], decode: Sequence[str]) -> None:
        if len(parts) < 4000 or all(len(part) <= 2 for part in parts):
            self._loosely("".join(parts), what)
        if all(re.fullmatch(r"\d{1,3}", part) for part in parts):
            listed = ",".join(parts)
            self._loosely(listed, what)
            if decode:
                self._squeezed(custom(listed, decode), f"{what}: decode")
        if decode:
            self._squeezed("".join(custom(part, decode) for part in parts), f"{what}: decode")

    def _loosely(self, text: str, what: str) -> None:
        for reading in readings(text, 1):
            self._text(reading.text, f"{what}: {reading.form}", is_loose=True)

    def _squeezed(self, text: str, form: str) -> None:
        self._text(re.sub("[^a-z0-9]", "", text.lower()), form, is_loose=True)

    def _text(self, text: str, form: str, *, is_loose: bool = False) -> None:
        """Loosely: strong hits only, since neighbouring numbers may have run together."""
        strong = [*self._hunter.find_words(text)]
        if is_loose:
            strong += self._hunter.find_digits_run_together(text)
        else:
            text = LONG_HEX.sub(lambda found: found.group() if found.group().isdigit() else " ", text)
            strong += self._hunter.find_digits(text)
            for close in self._hunter.find_weak(text):
                self._numbers_seen += 1
                self._weak.update({secret: form for secret in close if secret not in self._weak})
            for whole, close in self._hunter.find_dashed(text):
                self._numbers_seen += 1
                strong += [whole] if whole else []
                self._weak.update({secret: form for secret in close if secret not in self._weak})
        for secret in strong:
            self._strong.setdefault(secret, form)

    def hits(self, kinds: Sequence[str]) -> list[Hit]:
        strong = [Hit(secret, form) for secret, form in self._strong.items() if secret.kind in kinds]
        weak = [Hit(secret, form) for secret, form in self._weak.items() if secret.kind in kinds]
        return strong + (weak if len(weak) >= max(3, 0.15 * self._numbers_seen) else [])


def secret_parts(secret: Secret) -> list[str]:
    """What of a password, token or address is secret: not the part that every one of its kind has."""
    value = secret.value
    if secret.kind == "password":
        return [value.split("-", 1)[1]]
    if secret.kind == "email":
        return [value.split(".", maxsplit=1)[0]]
    if value.startswith("-----"):
        return value.split("\n")[1:-1]
    if value.startswith("eyJ"):
        _, claims, signature = value.split(".")
        return [signature, *json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4))).values()]
    if value.startswith("xoxb-"):
        return [value.rsplit("-", 1)[1]]
    return [re.sub(r"^(AKIA|ghp_|sk_live_|AIza)", "", value)]


def _windows(text: str, size: int) -> Iterator[str]:
    return (text[start : start + size] for start in range(len(text) - size + 1))


def _known(table: dict[str, Secret], run: str, size: int) -> Iterator[Secret]:
    return (table[window] for window in _windows(run, size) if window in table)


def _decode(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin1")


def _numeric(data: bytes) -> int:
    """The whole part of a numeric in binary format (PostgreSQL's numeric_send); 0: it is none."""
    if len(data) < 10:
        return 0
    count, weight, sign, _ = struct.unpack_from(">hhHh", data)
    if not (0 < count < 12 and len(data) == 8 + 2 * count and sign in (0, 0x4000) and -1 <= weight < 12):
        return 0
    digits = struct.unpack_from(f">{count}h", data, 8)
    return sum(digit * 10000 ** (weight - place) for place, digit in enumerate(digits) if weight >= place)
