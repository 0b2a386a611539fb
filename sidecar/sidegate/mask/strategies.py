"""What stands instead of a masked value, in text form. Values of other types get NULL: sidegate.mask.cells knows which.

Where several masks meet on one value the strictest strategy wins: Null, Redact, FixedLength, Hash, Pseudonym, Partial, from strict to
lenient. A strategy that can't be carried out on a value (Hash or Pseudonym without a key or of what the client may have chosen, Partial of
what is too short) becomes Redact, never the value.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from typing import Final

from sidegate.mask.pseudonym import Pseudonyms
from sidegate.policy.decision import KEYED, MaskStrategy

REDACTED: Final = b"[masked]"
FIXED: Final = b"********"
HASH_PREFIX: Final = b"masked:"
HASH_HEX_DIGITS: Final = 16  # 64 bits: enough to tell values apart, too few to stand for them elsewhere
PARTIAL_KEPT: Final = 4
PARTIAL_SHORTEST: Final = 8  # a value must have at least this many letters and digits, so that no more than half stays

STRICTNESS: Final[Mapping[MaskStrategy, int]] = {
    MaskStrategy.NULL: 5,
    MaskStrategy.REDACT: 4,
    MaskStrategy.FIXED_LENGTH: 3,
    MaskStrategy.HASH: 2,
    MaskStrategy.PSEUDONYM: 1,
    MaskStrategy.PARTIAL: 0,
}


def strictest(strategies: Iterable[MaskStrategy]) -> MaskStrategy:
    """Raises ValueError for none at all."""
    return max(strategies, key=STRICTNESS.__getitem__)


def strategy_of(strategies: Iterable[MaskStrategy], *, is_own: bool) -> MaskStrategy:
    """The strictest. `is_own`: the value is what a masked column of a table holds. Of anything else, which a statement may have put there
    or made, a keyed strategy would show whoever guesses whether the guess is right: it is redacted.

    Raises ValueError for none at all.
    """
    chosen = strictest(strategies)
    return MaskStrategy.REDACT if chosen in KEYED and not is_own else chosen


def _partial(value: bytes) -> bytes:
    """All letters and digits but the last four become asterisks; whatever separates them stays."""
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        return REDACTED
    significant = sum(character.isalnum() for character in text)
    if significant < PARTIAL_SHORTEST:
        return REDACTED
    hidden = significant - PARTIAL_KEPT
    out: list[str] = []
    for character in text:
        if character.isalnum():
            out.append("*" if hidden > 0 else character)
            hidden -= 1
        else:
            out.append(character if character in " -./_:@+" else "*")
    return "".join(out).encode()


def _hash(value: bytes, key: bytes | None) -> bytes:
    if not key:
        return REDACTED
    return HASH_PREFIX + hmac.new(key, value, hashlib.sha256).hexdigest()[:HASH_HEX_DIGITS].encode()


def masked_value(value: bytes, strategy: MaskStrategy, key: bytes | None = None) -> bytes | None:
    """What a client sees instead of `value`; None is NULL."""
    if strategy is MaskStrategy.NULL:
        return None
    if strategy is MaskStrategy.FIXED_LENGTH:
        return FIXED
    if strategy is MaskStrategy.HASH:
        return _hash(value, key)
    if strategy is MaskStrategy.PSEUDONYM:
        pseudonym = Pseudonyms.of(key).shown(value) if key else None
        return REDACTED if pseudonym is None else pseudonym
    if strategy is MaskStrategy.PARTIAL:
        return _partial(value)
    return REDACTED


def is_constant(strategy: MaskStrategy, key: bytes | None) -> bool:
    """The masked form is the same whatever the value is."""
    return strategy is not MaskStrategy.PARTIAL and (strategy not in KEYED or not key)
