"""The client encodings that a session can have beside UTF-8: their names, and conversion both ways as PostgreSQL does it. Pure.

Rules it keeps:
- An encoding stands here only where Python's codec and PostgreSQL's conversion agree on every code (tests/integration/gate/
  test_encodings.py asks a real target), or where what they disagree on is refused here. Left out for that: EUC_JP, BIG5 (some codes mean
  other characters), JOHAB, EUC_TW, EUC_JIS_2004, SHIFT_JIS_2004 and MULE_INTERNAL (no codec, or one character for two).
- Each of them has ASCII as it is: bytes under 0x80 that stand alone need no conversion.
- Nothing is guessed: bytes that aren't a character, and characters without a code, are errors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

_SJIS: Final = "cp932"
_EUC_KR: Final = "euc_kr"
UTF8_NAMES: Final = frozenset({"utf8", "unicode"})


class Untranslatable(Exception):  # noqa: N818 - it says what it is of
    """What can't be converted. SQLSTATE and message are PostgreSQL's (report_invalid_encoding, report_untranslatable_char)."""

    def __init__(self, sqlstate: str, message: str) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.message = message


@dataclass(frozen=True, slots=True)
class Encoding:
    """`name` is PostgreSQL's, `codec` Python's. `has_single_bytes`: every code is one byte."""

    name: str
    codec: str
    has_single_bytes: bool = True

    def to_utf8(self, data: bytes) -> bytes:
        """Raises Untranslatable."""
        if data.isascii():
            return data
        try:
            text = data.decode(self.codec)
        except UnicodeDecodeError as error:
            raise self._unread(data[error.start :]) from None
        strange = _strange(self.codec)
        found = strange.search(text) if strange is not None else None
        if found is not None:
            raise self._unread(text[found.start() :].encode(self.codec))
        return text.encode()

    def from_utf8(self, data: bytes) -> bytes:
        """Raises Untranslatable."""
        if data.isascii():
            return data
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            code = _hex(data[error.start : error.end])
            raise Untranslatable("22021", f'invalid byte sequence for encoding "UTF8": {code}') from None
        strange = _strange(self.codec)
        found = strange.search(text) if strange is not None else None
        if found is not None:
            raise self._unwritten(found[0])
        special = _written_otherwise(self.codec)
        try:
            if special:
                return b"".join([special.get(character) or character.encode(self.codec) for character in text])
            return text.encode(self.codec)
        except UnicodeEncodeError as unwritten:
            raise self._unwritten(unwritten.object[unwritten.start]) from None

    def from_utf8_or_mark(self, data: bytes) -> bytes:
        """With a question mark for each character that has no code: for texts in which an error would help nobody."""
        try:
            return self.from_utf8(data)
        except Untranslatable:
            return b"".join([self._or_mark(character) for character in data.decode("utf-8", "replace")])

    def _or_mark(self, character: str) -> bytes:
        try:
            return self.from_utf8(character.encode())
        except Untranslatable:
            return b"?"

    def _unread(self, rest: bytes) -> Untranslatable:
        """`rest` begins with what isn't a character; so much is told of it as its first bytes say that it has."""
        length = 1 if self.has_single_bytes else 4 if self.codec == "gb18030" and rest[1:2].isdigit() else 2
        code = rest[:length].partition(b"\0")[0]
        if self.has_single_bytes:
            message = f'character with byte sequence {_hex(code)} in encoding "{self.name}" has no equivalent in encoding "UTF8"'
            return Untranslatable("22P05", message)
        return Untranslatable("22021", f'invalid byte sequence for encoding "{self.name}": {_hex(code)}')

    def _unwritten(self, character: str) -> Untranslatable:
        code = _hex(character.encode())
        return Untranslatable(
            "22P05", f'character with byte sequence {code} in encoding "UTF8" has no equivalent in encoding "{self.name}"'
        )


def _hex(code: bytes) -> str:
    return " ".join([f"0x{byte:02x}" for byte in code])


@cache
def _strange(codec: str) -> re.Pattern[str] | None:
    """Characters that the codec knows and PostgreSQL doesn't."""
    if codec == _SJIS:  # single bytes outside of the standard, and the area for users' own
        return re.compile("[\u0080\ue000-\uf8ff]")
    if codec == _EUC_KR:  # syllables written as four codes, which PostgreSQL reads as four characters
        composed = [chr(number) for number in range(0xAC00, 0xD7A4) if len(chr(number).encode(codec)) > 2]
        return re.compile(f"[{''.join(composed)}]")
    return None


@cache
def _written_otherwise(codec: str) -> Mapping[str, bytes]:
    """Characters with several codes of which PostgreSQL takes another one than the codec: in SJIS IBM's extension, not NEC's."""
    if codec != _SJIS:
        return {}
    written = {"\u00a5": b"\\", "\u203e": b"~"}  # JIS X 0201 has these in the places of ASCII's
    for number in range(0xFA40, 0xFC4C):
        code = number.to_bytes(2, "big")
        try:
            written[code.decode(codec)] = code
        except UnicodeDecodeError:  # not in use
            continue
    del written["\uffe2"], written["\u2235"]
    return written


# PostgreSQL's name -> Python's codec, and the other names that PostgreSQL takes (pg_encname_tbl, common/encnames.c).
_SINGLE_BYTE: Final = {
    "LATIN1": ("iso8859-1", "iso88591"),
    "LATIN2": ("iso8859-2", "iso88592"),
    "LATIN3": ("iso8859-3", "iso88593"),
    "LATIN4": ("iso8859-4", "iso88594"),
    "LATIN5": ("iso8859-9", "iso88599"),
    "LATIN6": ("iso8859-10", "iso885910"),
    "LATIN7": ("iso8859-13", "iso885913"),
    "LATIN8": ("iso8859-14", "iso885914"),
    "LATIN9": ("iso8859-15", "iso885915"),
    "LATIN10": ("iso8859-16", "iso885916"),
    "ISO_8859_5": ("iso8859-5", ""),
    "ISO_8859_6": ("iso8859-6", ""),
    "ISO_8859_7": ("iso8859-7", ""),
    "ISO_8859_8": ("iso8859-8", ""),
    "KOI8R": ("koi8-r", "koi8"),
    "KOI8U": ("koi8-u", ""),
    "WIN866": ("cp866", "windows866 alt"),
    "WIN874": ("cp874", "windows874"),
    "WIN1250": ("cp1250", "windows1250"),
    "WIN1251": ("cp1251", "windows1251 win"),
    "WIN1252": ("cp1252", "windows1252"),
    "WIN1253": ("cp1253", "windows1253"),
    "WIN1254": ("cp1254", "windows1254"),
    "WIN1255": ("cp1255", "windows1255"),
    "WIN1256": ("cp1256", "windows1256"),
    "WIN1257": ("cp1257", "windows1257"),
    "WIN1258": ("cp1258", "windows1258 abc tcvn tcvn5712 vscii"),
}
_MULTI_BYTE: Final = {
    "SJIS": (_SJIS, "shiftjis mskanji win932 windows932"),
    "EUC_KR": (_EUC_KR, ""),
    "UHC": ("cp949", "win949 windows949"),
    "GBK": ("gbk", "win936 windows936"),
    "EUC_CN": ("gb2312", ""),
    "GB18030": ("gb18030", ""),
    # The target converts nothing for it, and the target speaks UTF-8
    "SQL_ASCII": ("utf-8", ""),
}


def _plain(name: str) -> str:
    """As PostgreSQL compares names: letters and digits alone, in lower case (clean_encoding_name)."""
    return "".join([c for c in name if c.isascii() and c.isalnum()]).lower()


ENCODINGS: Final[Mapping[str, Encoding]] = {
    name: Encoding(name, codec, has_single_bytes=table is _SINGLE_BYTE)
    for table in (_SINGLE_BYTE, _MULTI_BYTE)
    for name, (codec, _) in table.items()
}
_BY_NAME: Final = {
    _plain(known): ENCODINGS[name]
    for table in (_SINGLE_BYTE, _MULTI_BYTE)
    for name, (_, others) in table.items()
    for known in (name, *others.split())
}


def is_utf8(name: str) -> bool:
    return _plain(name) in UTF8_NAMES


def find_encoding(name: str) -> Encoding | None:
    """By any name that PostgreSQL takes; None for UTF-8 and for what the gate doesn't know (`is_utf8` tells which)."""
    return _BY_NAME.get(_plain(name))
