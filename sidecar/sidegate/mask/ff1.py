"""FF1 of NIST SP 800-38G (2016): encryption of a numeral string to one of the same length and radix, over AES.

A numeral string is given as the integer that it is in its radix, with its length: NUM and STR (algorithms 1 to 3) are then division and
multiplication. Names in the code are the standard's (algorithms 7 and 8).

Rules it keeps: the least domain of revision 1's draft, a million strings, is asked for; so FF1's known weakness on small domains, recovery
of messages from many encryptions, doesn't apply. Ciphers made here are for one thread at a time.
"""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

LEAST_DOMAIN: Final = 1_000_000
LONGEST: Final = 4096  # of a numeral string; the standard allows 2**32 - 1
_ROUNDS: Final = 10
_BLOCK: Final = 16


class FF1:
    """One key (16, 24 or 32 bytes).

    Raises:
        ValueError: by each call, for a domain that is too small, a string that is too long, or an integer that isn't one of `length`.
    """

    __slots__ = ("_aes",)

    def __init__(self, key: bytes) -> None:
        self._aes = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305 - the block cipher itself: chained below

    def encrypt(self, number: int, radix: int, length: int, tweak: bytes) -> int:
        u, v, sizes, chained = self._prepared(number, radix, length, tweak)
        short: int = radix**u
        long: int = radix**v
        a, b = divmod(number, long)
        for i in range(_ROUNDS):
            c = (a + self._round(chained, i, b, sizes)) % (long if i & 1 else short)
            a, b = b, c
        return a * long + b

    def decrypt(self, number: int, radix: int, length: int, tweak: bytes) -> int:
        u, v, sizes, chained = self._prepared(number, radix, length, tweak)
        short: int = radix**u
        long: int = radix**v
        a, b = divmod(number, long)
        for i in reversed(range(_ROUNDS)):
            c = (b - self._round(chained, i, a, sizes)) % (long if i & 1 else short)
            b, a = a, c
        return a * long + b

    def _prepared(
        self, number: int, radix: int, length: int, tweak: bytes
    ) -> tuple[int, int, tuple[int, int], tuple[bytes, bytes]]:
        """u, v, (b, d), and the CBC-MAC over all blocks that every round shares, with what is left for the rounds' own."""
        if not 2 <= radix <= 2**16 or not 2 <= length <= LONGEST or radix**length < LEAST_DOMAIN:
            raise ValueError(f"FF1 isn't safe for {length} numerals of radix {radix}")
        if not 0 <= number < radix**length:
            raise ValueError(f"the number isn't one of {length} numerals of radix {radix}")
        u = length // 2
        v = length - u
        b = ((radix**v - 1).bit_length() + 7) // 8
        d = 4 * ((b + 3) // 4) + 4
        p = b"\x01\x02\x01" + radix.to_bytes(3, "big") + b"\x0a" + bytes((u % 256,))
        p += length.to_bytes(4, "big") + len(tweak).to_bytes(4, "big")
        head = p + tweak + bytes(-(len(tweak) + b + 1) % _BLOCK)
        shared = len(head) - len(head) % _BLOCK
        return u, v, (b, d), (self._mac(bytes(_BLOCK), head[:shared]), head[shared:])

    def _round(self, chained: tuple[bytes, bytes], i: int, half: int, sizes: tuple[int, int]) -> int:
        """y of one round: the PRF over what the rounds share, the round's number and a half, stretched to d bytes."""
        b, d = sizes
        mac, rest = chained
        r = self._mac(mac, rest + bytes((i,)) + half.to_bytes(b, "big"))
        s = r[:d]
        if d > _BLOCK:
            counted = int.from_bytes(r, "big")
            blocks = b"".join((counted ^ j).to_bytes(_BLOCK, "big") for j in range(1, (d + _BLOCK - 1) // _BLOCK))
            s = (r + self._aes.update(blocks))[:d]
        return int.from_bytes(s, "big")

    def _mac(self, state: bytes, data: bytes) -> bytes:
        """PRF (algorithm 6), from a state between two blocks."""
        update = self._aes.update
        for at in range(0, len(data), _BLOCK):
            mixed = int.from_bytes(state, "big") ^ int.from_bytes(data[at : at + _BLOCK], "big")
            state = update(mixed.to_bytes(_BLOCK, "big"))
        return state
