"""Every reading of a text that is worth a look for a secret: turned round, squeezed, decoded, digits written as letters.

Undone: case, Unicode width and other scripts' digits, zero-width joiners, reversal, separators between characters, `\\u`, `&#;`, `%` and
octal escapes, hexadecimal, base64, lists of character codes, bit strings, rot13, digits written as a to j, each up to three times over. A case
may add steps of its own (`custom`) that undo what its statement did.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

ZERO_WIDTH: Final = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\u00ad"))
HEX_RUN: Final = re.compile(r"[0-9a-fA-F]{12,}")
SPACED_HEX: Final = re.compile(r"(?:[0-9a-f]{2}[\s:,\\x]+){6}", re.IGNORECASE)
BASE64_RUN: Final = re.compile(r"[A-Za-z0-9+/_\-]{8,}={0,2}")
CODES: Final = re.compile(r"(?<![0-9.])(?:\d{2,3}[^0-9A-Za-z.]{1,4}){5,}\d{2,3}(?![0-9.])")
BITS: Final = re.compile(r"[01]{48,}")
DIGITS_AS_LETTERS: Final = (
    str.maketrans("abcdefghij", "0123456789"),
    str.maketrans("jihgfedcba", "0123456789"),
    str.maketrans("qwertyuiop", "1234567890"),
    str.maketrans("zyxwvutsrq", "0123456789"),
)
DEEPEST: Final = 2
LONGEST_RUN: Final = 20_000


class Reading(NamedTuple):
    """`is_loose`: separators were taken out, so neighbouring numbers may have run together."""

    text: str
    form: str
    is_loose: bool = False


def plain(text: str) -> str:
    """Compatibility forms folded, invisible characters dropped, every script's digits as ASCII."""
    folded = unicodedata.normalize("NFKC", text).translate(ZERO_WIDTH)
    if folded.isascii():
        return folded
    return "".join(str(unicodedata.digit(each, each)) for each in folded)


def readings(text: str, depth: int = 0) -> Iterator[Reading]:
    folded = plain(text)
    low = folded.lower()
    yield Reading(low, "plain")
    yield Reading(low[::-1], "reversed")
    squeezed = re.sub(r"[^a-z0-9]", "", low)
    if squeezed != low:
        yield Reading(squeezed, "squeezed", True)
        yield Reading(squeezed[::-1], "squeezed reversed", True)
    words = re.findall(r"[a-z0-9]{6,}", codecs.encode(low, "rot13"))
    yield Reading(" ".join(word for word in words if not re.fullmatch(r"[0-9n-s]+", word)), "rot13", True)
    unseparated = squeezed if len(low) < 400 else re.sub(r"[- ,\"']", "", low)
    letters = " ".join(re.findall(r"[a-z]{9,}", unseparated))
    if letters:
        for number, table in enumerate(DIGITS_AS_LETTERS):
            yield Reading(re.sub("[a-z]", " ", letters.translate(table)), f"digits as letters {number}", True)
    if depth > DEEPEST:
        return
    for decoded, form in _decoded(folded):
        for inner in readings(decoded, depth + 1):
            yield Reading(inner.text, f"{form}>{inner.form}", inner.is_loose)


def _decoded(text: str) -> Iterator[tuple[str, str]]:
    yield from _unescaped(text)
    for found in list(HEX_RUN.finditer(text))[:400]:
        for offset in (0, 1):
            data = _from_hex(found.group()[offset:LONGEST_RUN])
            if _printable(data) > len(data) * 0.1:
                yield data.decode("latin1"), "hex"
    if SPACED_HEX.search(text):
        yield _from_hex(re.sub(r"[^0-9a-fA-F]", "", text)[:4000]).decode("latin1"), "spaced hex"
    for found in list(BASE64_RUN.finditer(text.replace("\n", "")))[:400]:
        run = found.group().rstrip("=").replace("-", "+").replace("_", "/")[:LONGEST_RUN]
        for offset in range(4):
            data = _from_base64(run[offset:])
            if len(data) >= 6 and _printable(data) > len(data) * 0.8:
                yield data.decode("latin1"), "base64"
    for found in list(CODES.finditer(text))[:200]:
        numbers = [int(each) for each in re.findall(r"\d+", found.group())]
        if sum(32 <= each < 127 for each in numbers) > len(numbers) * 0.8:
            yield "".join(chr(each) if 32 <= each < 127 else " " for each in numbers), "codes"
    for found in list(BITS.finditer(text))[:200]:
        run = found.group()
        for offset in range(8):
            yield "".join(chr(int(run[at : at + 8], 2)) for at in range(offset, len(run) - 7, 8)), "bits"


def _unescaped(text: str) -> Iterator[tuple[str, str]]:
    if "\\u" in text or re.search(r"\\x[0-9a-f]{2}\\x", text, re.IGNORECASE):
        yield re.sub(r"\\[ux]([0-9a-fA-F]{2,4})", lambda found: chr(int(found[1], 16)), text), "escape"
    if "&#" in text:
        entity = re.compile(r"&#(x?)([0-9a-fA-F]+);")
        yield entity.sub(lambda found: chr(_entity(found[1], found[2])), text), "entity"
    if re.search(r"%[0-9a-fA-F]{2}%", text):
        yield re.sub(r"%([0-9a-fA-F]{2})", lambda found: chr(int(found[1], 16)), text), "percent"
    if re.search(r"\\[0-7]{3}", text):
        yield re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8) & 255), text), "octal"


def _entity(mark: str, digits: str) -> int:
    try:
        return min(int(digits, 16 if mark else 10), 0x10FFFF)
    except ValueError:  # letters in a decimal one
        return 0x20


def _from_hex(digits: str) -> bytes:
    return binascii.unhexlify(digits[: len(digits) - len(digits) % 2])


def _from_base64(run: str) -> bytes:
    whole = run[: len(run) - (len(run) % 4 == 1)]
    try:
        return base64.b64decode(whole + "=" * (-len(whole) % 4))
    except binascii.Error:
        return b""


def _printable(data: bytes) -> int:
    return sum(32 <= byte < 127 for byte in data)


def custom(text: str, steps: Iterable[str]) -> str:
    """Undo what a case's statement did to the value.

    Raises:
        ValueError: a step that isn't known.
    """
    for step in steps:
        name, _, argument = step.partition(":")
        text = _undo(name, argument, text)
    return text


def _undo(name: str, argument: str, text: str) -> str:
    def numbers(change: str) -> str:
        amount = int(argument)
        apply = {"add": int.__add__, "xor": int.__xor__, "div": int.__floordiv__}[change]
        return re.sub(r"\d{6,}", lambda found: str(apply(int(found[0]), amount)), text)

    match name:
        case "translate":
            old, new = argument.split("=>")
            return text.translate(str.maketrans(old, new))
        case "ints_add" | "ints_xor" | "ints_div":
            return numbers(name.removeprefix("ints_"))
        case "shift":
            return "".join(chr(max(32, ord(each) + int(argument))) for each in text)
        case "drop":
            return re.sub(argument, "", text)
        case "codes_add":

            def code(found: re.Match[str]) -> str:
                moved = int(found[0]) + int(argument)
                return chr(moved) if 31 < moved < 127 else " "

            return re.sub(r"\d+", code, text)
        case "b36":
            return re.sub(r"\d{8,}", lambda found: str(int(found[0])), text)
    raise ValueError(f"no such step: `{name}`")
