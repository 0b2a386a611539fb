"""What an approval is bound to: one hash over parts that can't run into each other."""

from __future__ import annotations

import hashlib
from typing import Final, TypeAlias

from pglast.parser import ParseError, scan

Part: TypeAlias = "str | bytes | int | tuple[Part, ...] | None"

_AS_WRITTEN: Final = ('"', "u&", "U&", "--", "/*")  # what isn't folded: quoted names, and comments, which people read


def fingerprint(*parts: Part) -> str:
    """SHA-256 over the parts, each with its type and length before it: ("ab", "c") and ("a", "bc") differ, and so do "" and None."""
    digest = hashlib.sha256()
    for part in parts:
        _add(digest.update, part)
    return digest.hexdigest()


def _add(update: object, part: Part) -> None:
    assert callable(update)
    if part is None:
        update(b"N0:")
        return
    if isinstance(part, tuple):
        update(b"T%d:" % len(part))
        for inner in part:
            _add(update, inner)
        return
    if isinstance(part, bytes):
        tag, data = b"B", part
    elif isinstance(part, str):
        tag, data = b"S", part.encode("utf-8", "surrogatepass")
    else:
        tag, data = b"I", b"%d" % part
    update(tag + b"%d:" % len(data))
    update(data)


def canonical_tokens(text: str) -> tuple[str, ...]:
    """The statement as PostgreSQL's lexer sees it, token by token: blanks between them gone, unquoted words in lower case.

    Constants stay as they are written, so that `id=1` and `id=2` differ. Comments stay too: whoever approves has read them. Text that
    can't be scanned stays as it is.
    """
    try:
        tokens = scan(text)
    except (ParseError, UnicodeError, ValueError):
        return (text,)
    parts: list[str] = []
    for token in tokens:
        part = text[token.start : token.end + 1]
        # PostgreSQL folds ASCII letters alone in a multi-byte encoding (downcase_identifier, parser/scansup.c)
        is_word = token.kind != "NO_KEYWORD" or token.name == "IDENT"
        parts.append(_folded(part) if is_word and not part.startswith(_AS_WRITTEN) else part)
    while parts and parts[-1] == ";":
        parts.pop()
    return tuple(parts)


_FOLD: Final = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}


def _folded(word: str) -> str:
    return word.translate(_FOLD)
