"""Pseudonyms: values encrypted, so that equal ones stay equal and only the gate finds the way back. Nothing is remembered but the key.

A value becomes another of its own form, by the first of these that fits:

1. *A whole number* (`-1234567`) one of as many digits and the same sign, on the same side of what `integer` and `bigint` can hold.
2. *A UUID* another.
3. *A text of printable ASCII* one with a digit for each digit, a small letter for each small letter, a capital for each capital, a sign for
   each sign, and separators where they are.
4. *Whatever else there is*, and what has less than a million others of its form, a token: `masked:` and its encrypted bytes in base 32.

Rules it keeps:
- Each form is mapped onto itself, one to one, and the forms don't overlap: no two values have one pseudonym, and `original` undoes `shown`.
  A number is read from its text, so a value has one pseudonym whatever type, format or column it is in: joins still match.
- The form is the tweak, and nothing else is: neither column nor table, or joins wouldn't match. So a value that stands in two columns looks
  the same in both.
- Blanks at the end stay, and count for nothing: `char(n)` is padded with them.
- Of a text that was nobody's pseudonym `original` makes the value whose pseudonym it is (or none): whoever guesses a value compares with
  another. (One in a million and more is its own, as in any permutation; nobody without the key can tell which.)

What shows: whether two values are equal, how often each is there, and the form: length, separators, where digits and letters are, how many
digits a number has, whether a string of digits begins with a zero.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from sidegate.mask.ff1 import FF1, LEAST_DOMAIN

TOKEN_PREFIX: Final = b"masked:"
MOST_SHAPED: Final = 256  # characters of a text that keeps its form: bounds the arithmetic on its number
MOST_TOKENED: Final = 4096  # bytes; what is longer has no pseudonym

_SEPARATORS: Final = " -./_:@+,()'"
_CLASSES: Final = ("0123456789", "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "!#$%&*;<=>?[]^{|}~")
# By code: the class and the place in it. Quotes, the backslash, the backtick and control characters have none: what has them is a token.
_PLACES: Final = {ord(sign): (number, place) for number, signs in enumerate(_CLASSES) for place, sign in enumerate(signs)}
_SHAPE: Final = {**{code: "daAs"[number] for code, (number, _) in _PLACES.items()}, **{ord(sign): sign for sign in _SEPARATORS}}
_RADIX: Final = {letter: len(signs) for letter, signs in zip("daAs", _CLASSES, strict=True)}

WHOLE_NUMBER: Final = re.compile(r"-?[1-9][0-9]*")
_ZERO_LED: Final = re.compile(r"-?0[0-9]+")
UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
# A pseudonym stays in the types that its value is in: positive numbers of integer and bigint end here.
_EDGES: Final = (2**31, 2**63)
_UUID_BITS: Final = 128
_KEPT_KEYS: Final = 1024  # sessions of one process that show pseudonyms at a time, without making ciphers anew

_Permute = Callable[[int, int, int, bytes], int]


class _Form(NamedTuple):
    """All values of one form, numbered from 0: how many there are, what each is, and which of them aren't of it."""

    size: int
    tweak: bytes
    number: int  # of the value that the form was made for
    text: Callable[[int], str]
    is_in: Callable[[str], bool] | None = None  # None: all are


class Pseudonyms:
    """Those of one key. Not for several threads at once."""

    __slots__ = ("_ff1", "_siv")

    def __init__(self, key: bytes) -> None:
        derived = HKDF(hashes.SHA256(), 96, salt=None, info=b"sidegate pseudonym v1").derive(key)
        self._ff1 = FF1(derived[:32])
        self._siv = AESSIV(derived[32:])

    @staticmethod
    def of(key: bytes) -> Pseudonyms:
        """The one for equal keys."""
        return _pseudonyms(key)

    def shown(self, value: bytes) -> bytes | None:
        """The pseudonym of a value; None: it is too long for one."""
        core = value.rstrip(b" ")
        found = self._moved(core, self._ff1.encrypt)
        if found is None:
            found = self._token(core)
        return None if found is None else found + value[len(core) :]

    def original(self, pseudonym: bytes) -> bytes | None:
        """The value that has this pseudonym; None: no value has."""
        core = pseudonym.rstrip(b" ")
        found = self._value_of_token(core) if core.startswith(TOKEN_PREFIX) else None
        if found is None:
            found = self._moved(core, self._ff1.decrypt)
        return None if found is None else found + pseudonym[len(core) :]

    def _moved(self, value: bytes, permute: _Permute) -> bytes | None:
        """Another of its form. None: it has no form, or too few others.

        Cycle walking: a form's numbers are encrypted among all numbers of as many bits, again and again until one is of the form. That is a
        permutation of the form, and takes two steps on average, as less than half of the numbers are too large.
        """
        form = _form(value)
        if form is None or form.size < LEAST_DOMAIN:
            return None
        bits = (form.size - 1).bit_length()
        number = form.number
        while True:
            number = permute(number, 2, bits, form.tweak)
            if number < form.size:
                text = form.text(number)
                if form.is_in is None or form.is_in(text):
                    return text.encode("ascii")

    def _token(self, value: bytes) -> bytes | None:
        if len(value) > MOST_TOKENED:
            return None
        padded = value + b"\x80" + bytes(-(len(value) + 1) % 16)  # so that a token tells the length by sixteens only
        return TOKEN_PREFIX + base64.b32encode(self._siv.encrypt(padded, None)).rstrip(b"=").lower()

    def _value_of_token(self, token: bytes) -> bytes | None:
        encoded = token[len(TOKEN_PREFIX) :].upper()
        try:
            sealed = base64.b32decode(encoded + b"=" * (-len(encoded) % 8))
            value = self._siv.decrypt(sealed, None)
        except (binascii.Error, ValueError, InvalidTag):
            return None
        value = value.rstrip(b"\0")[:-1]
        # Other spellings of the same bytes (capitals, bits that base 32 leaves over) are nobody's pseudonym
        return value if self._token(value) == token and self._moved(value, self._ff1.encrypt) is None else None


@lru_cache(maxsize=_KEPT_KEYS)
def _pseudonyms(key: bytes) -> Pseudonyms:
    return Pseudonyms(key)


def _form(value: bytes) -> _Form | None:
    if not value or len(value) > MOST_SHAPED or not value.isascii():
        return None
    text = value.decode("ascii")
    if WHOLE_NUMBER.fullmatch(text):
        return _whole_number(text)
    if UUID.fullmatch(text):
        return _Form(2**_UUID_BITS, b"uuid", int(text.replace("-", ""), 16), _uuid)
    shape = text.translate(_SHAPE)
    if any(letter not in _SHAPE.values() for letter in shape):
        return None
    return _shaped(text, shape)


def _whole_number(text: str) -> _Form:
    sign = "-" if text.startswith("-") else ""
    magnitude = int(text.removeprefix("-"))
    digits = len(text) - len(sign)
    low, high = 10 ** (digits - 1), 10**digits
    for edge in _EDGES:
        if low < edge < high:
            low, high = (low, edge) if magnitude < edge else (edge, high)
    return _Form(high - low, f"whole {sign}{low}".encode(), magnitude - low, lambda number: f"{sign}{low + number}")


def _uuid(number: int) -> str:
    digits = f"{number:032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _shaped(text: str, shape: str) -> _Form:
    """A text as a number in the mixed radix of its characters' classes."""
    if _ZERO_LED.fullmatch(text):  # or it would become a whole number
        place = text.index("0")
        shape = shape[:place] + "0" + shape[place + 1 :]
    size, number = 1, 0
    for sign, letter in zip(text, shape, strict=True):
        radix = _RADIX.get(letter)
        if radix is not None:
            size *= radix
            number = number * radix + _PLACES[ord(sign)][1]

    def spell(number: int) -> str:
        out: list[str] = []
        for letter in reversed(shape):
            radix = _RADIX.get(letter)
            if radix is None:
                out.append(letter)
                continue
            number, place = divmod(number, radix)
            out.append(_CLASSES["daAs".index(letter)][place])
        return "".join(reversed(out))

    tweak = b"shape " + hashlib.sha256(shape.encode("ascii")).digest()[:16]
    may_be_uuid = len(text) == 36 and text.count("-") == 4
    return _Form(size, tweak, number, spell, (lambda found: UUID.fullmatch(found) is None) if may_be_uuid else None)
