"""The hunter finds a planted secret in whatever form it comes, and stays quiet on masks and on ordinary data."""

from __future__ import annotations

import base64
import codecs
import json
import random
import struct
from functools import cache

import pytest

from tests.redteam.hunter import Hunter, Unit
from tests.redteam.planted import Planted, plant
from tests.redteam.readings import custom


@cache
def planted() -> Planted:
    return plant()


@cache
def hunter() -> Hunter:
    return Hunter(planted())


ROW = planted().rows["customers"]["7"]
SSN, PASSWORD, CARD = ROW["ssn"], ROW["password"], ROW["card_number"]
DIGITS = SSN.replace("-", "")

FORMS = {
    "plain": SSN,
    "a password": PASSWORD,
    "a card": CARD,
    "digits alone": DIGITS,
    "reversed": PASSWORD[::-1],
    "upper case": PASSWORD.upper(),
    "hexadecimal": PASSWORD.encode().hex(),
    "hexadecimal of an SSN": SSN.encode().hex(),
    "base64 of two and more": base64.b64encode(b"ab" + SSN.encode()).decode(),
    "base64 of one and more": base64.b64encode(b"x" + PASSWORD.encode()).decode(),
    "spaced": " ".join(CARD),
    "JSON": json.dumps(list(PASSWORD)),
    "XML": f"<ssn>{SSN}</ssn>",
    "array": "{" + ",".join(SSN) + "}",
    "codes": ",".join(str(ord(each)) for each in PASSWORD),
    "bits": "".join(f"{ord(each):08b}" for each in SSN),
    "letters for digits": DIGITS.translate(str.maketrans("0123456789", "abcdefghij")),
    "a part": PASSWORD[8:14],
    "octal": "".join(f"\\{ord(each):03o}" for each in PASSWORD),
    "full width": "".join(chr(0xFF10 + int(each)) for each in CARD),
    "rot13": codecs.encode(PASSWORD, "rot13"),
    "percent": "".join(f"%{ord(each):02x}" for each in SSN),
    "entities": "".join(f"&#{ord(each)};" for each in SSN),
    "nested": base64.b64encode(SSN.encode().hex().encode()).decode(),
}
QUIET = (
    "***-**-" + SSN[-4:],
    CARD[:6] + "******" + CARD[-4:],
    "[masked]",
    "2024-11-24 22:37:05.527834+00",
    "d41d8cd98f00b204e9800998ecf8427e",
    "cost=0.28..8.29 rows=600",
    "16384",
    "550e8400-e29b-41d4-a716-446655440000",
)


def cells(*values: str) -> list[Unit]:
    return [Unit("cell", value.encode(), (1, 0)) for value in values]


@pytest.mark.parametrize("form", FORMS)
def test_finds_a_secret_in_every_form(form: str) -> None:
    assert hunter().hunt(cells(FORMS[form]))


def test_finds_numbers_in_binary_format() -> None:
    assert hunter().hunt([Unit("cell", struct.pack(">q", int(CARD)), (1, 0))])
    assert hunter().hunt([Unit("cell", struct.pack(">i", int(DIGITS)), (1, 0))])


def test_finds_a_numeric_in_binary_format() -> None:
    groups = [int(CARD.zfill(16)[at : at + 4]) for at in range(0, 16, 4)]
    assert hunter().hunt([Unit("cell", struct.pack(">hhHh4h", 4, 3, 0, 0, *groups), (1, 0))])


def test_finds_what_comes_a_character_a_row() -> None:
    assert hunter().hunt(cells(*PASSWORD))


def test_finds_what_comes_a_digit_a_notice() -> None:
    assert hunter().hunt([Unit("notice M", each.encode()) for each in DIGITS])


def test_finds_what_a_case_says_how_to_undo() -> None:
    moved = str(int(DIGITS) + 77)
    assert not hunter().hunt(cells(moved))
    assert hunter().hunt(cells(moved), ["ints_add:-77"])


def test_refuses_a_step_that_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="no such step: `unscramble`"):
        custom("text", ["unscramble:3"])


@pytest.mark.parametrize("text", QUIET)
def test_stays_quiet_on_masks_and_on_ordinary_values(text: str) -> None:
    assert not hunter().hunt(cells(text))


def test_stays_quiet_on_a_long_list_of_numbers() -> None:
    assert not hunter().hunt(cells(*map(str, range(1, 2001))))


def test_an_address_counts_only_where_it_is_asked_for() -> None:
    assert not hunter().hunt(cells(ROW["email"]))
    assert hunter().hunt(cells(ROW["email"]), (), ("email",))


def test_stays_quiet_on_random_digits_dates_and_hexadecimal() -> None:
    source = random.Random(1)

    def text() -> str:
        date = f"20{source.randrange(10, 30)}-{source.randrange(1, 13):02d}-{source.randrange(1, 29):02d}"
        return f"{source.random():.9f} {source.randrange(10**5)} {source.getrandbits(128):032x} {date}"

    noisy = sum(bool(hunter().hunt(cells(*(text() for _ in range(20))))) for _ in range(30))
    assert noisy <= 1
