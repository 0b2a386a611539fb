"""FF1 against NIST's published samples (SP 800-38G, "FF1samples"), and what it refuses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.mask.ff1 import FF1, LONGEST

KEY_128 = "2B7E151628AED2A6ABF7158809CF4F3C"
KEY_192 = "2B7E151628AED2A6ABF7158809CF4F3CEF4359D8D580AA4F"
KEY_256 = "2B7E151628AED2A6ABF7158809CF4F3CEF4359D8D580AA4F7F036D6F04FC6A94"
LONG_TWEAK = "3737373770717273373737"
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def numerals(number: int, radix: int, length: int) -> str:
    out = ""
    for _ in range(length):
        number, digit = divmod(number, radix)
        out = DIGITS[digit] + out
    return out


@pytest.mark.parametrize(
    ("key", "radix", "tweak", "plain", "encrypted"),
    [
        (KEY_128, 10, "", "0123456789", "2433477484"),
        (KEY_128, 10, "39383736353433323130", "0123456789", "6124200773"),
        (KEY_128, 36, LONG_TWEAK, "0123456789abcdefghi", "a9tv40mll9kdu509eum"),
        (KEY_192, 10, "", "0123456789", "2830668132"),
        (KEY_192, 10, "39383736353433323130", "0123456789", "2496655549"),
        (KEY_192, 36, LONG_TWEAK, "0123456789abcdefghi", "xbj3kv35jrawxv32ysr"),
        (KEY_256, 10, "", "0123456789", "6657667009"),
        (KEY_256, 10, "39383736353433323130", "0123456789", "1001623463"),
        (KEY_256, 36, LONG_TWEAK, "0123456789abcdefghi", "xs8a0azh2avyalyzuwd"),
    ],
)
def test_agrees_with_the_published_samples(key: str, radix: int, tweak: str, plain: str, encrypted: str) -> None:
    cipher = FF1(bytes.fromhex(key))
    number = cipher.encrypt(int(plain, radix), radix, len(plain), bytes.fromhex(tweak))
    assert numerals(number, radix, len(plain)) == encrypted
    assert cipher.decrypt(number, radix, len(plain), bytes.fromhex(tweak)) == int(plain, radix)


@given(st.data())
def test_decrypts_what_it_encrypted(data: st.DataObject) -> None:
    radix = data.draw(st.sampled_from([2, 3, 10, 26, 36, 255, 256, 65536]))
    length = data.draw(st.integers(20, 400))
    number = data.draw(st.integers(0, radix**length - 1))
    tweak = data.draw(st.binary(max_size=40))
    cipher = FF1(b"k" * 32)
    encrypted = cipher.encrypt(number, radix, length, tweak)
    assert 0 <= encrypted < radix**length
    assert cipher.decrypt(encrypted, radix, length, tweak) == number


@pytest.mark.parametrize(
    ("number", "radix", "length"),
    [
        (0, 10, 5),  # a hundred thousand strings
        (0, 2, 19),
        (0, 1, 100),
        (0, 2**16 + 1, 10),
        (0, 2, LONGEST + 1),
        (10**6, 10, 6),
        (-1, 10, 6),
    ],
)
def test_refuses_small_domains_long_strings_and_other_numbers(number: int, radix: int, length: int) -> None:
    cipher = FF1(b"k" * 32)
    with pytest.raises(ValueError, match=r"FF1 isn't safe|the number isn't"):
        cipher.encrypt(number, radix, length, b"")
    with pytest.raises(ValueError, match=r"FF1 isn't safe|the number isn't"):
        cipher.decrypt(number, radix, length, b"")
