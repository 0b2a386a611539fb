"""Values that detectors must find: made up, with right check digits, and the forms and surroundings in which tables hold them."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from itertools import pairwise
from random import Random
from typing import Final

from sidegate.mask.detect.iban import LENGTHS
from sidegate.mask.detect.payment_card import SCHEMES, has_luhn_digit, is_card_number

_UPPER: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_BASE62: Final = "0123456789" + _UPPER + _UPPER.lower()
# In front of some values, and no part of them.
LABELS: Final = ("ssn: ", "SSN=", "social security number ", "aws_secret_access_key = ")
_COUNTRIES: Final = sorted(country.decode() for country in LENGTHS)
_MOST_SPREAD: Final = ("Visa", "Mastercard", "American Express", "Discover", "JCB", "UnionPay", "Diners Club", "Maestro")
_SCHEMES: Final = tuple(scheme for scheme in SCHEMES if scheme[3] in _MOST_SPREAD)


def _of(chance: Random, alphabet: str, count: int) -> str:
    return "".join(chance.choice(alphabet) for _ in range(count))


def _card(chance: Random) -> str:
    while True:
        first, last, lengths, _ = chance.choice(_SCHEMES)
        length = chance.choice(sorted(lengths))
        prefix = str(chance.randrange(int(first), int(last) + 1))
        body = prefix + _of(chance, "0123456789", length - len(prefix) - 1)
        number = next(body + digit for digit in "0123456789" if has_luhn_digit((body + digit).encode()))
        if is_card_number(number.encode()):  # but for EAN-13, which docs/coverage/detectors.md says are left out
            break
    groups = {14: (4, 6, 4), 15: (4, 6, 5), 16: (4, 4, 4, 4), 19: (4, 4, 4, 4, 3)}.get(length)
    separator = chance.choice(("", "", "", " ", "-", ".", "\u00a0", "\u2011", "\t", "\n", "%20", "&nbsp;", "_", "/"))
    if groups is None or not separator:
        return number
    ends = [sum(groups[:place]) for place in range(len(groups) + 1)]
    return separator.join(number[start:end] for start, end in pairwise(ends))


def _ssn(chance: Random) -> str:
    area = chance.choice([number for number in range(1, 900) if number != 666])
    parts = f"{area:03d}", f"{chance.randrange(1, 100):02d}", f"{chance.randrange(1, 10000):04d}"
    separator = chance.choice(("-", "-", "-", " ", ".", "\u2013", "\u00a0", "/", "", ""))
    return (
        separator.join(parts) if separator else f"{chance.choice(('ssn: ', 'SSN=', 'social security number '))}{''.join(parts)}"
    )


def _email(chance: Random) -> str:
    name = _of(chance, _UPPER.lower(), chance.randrange(2, 9))
    local = chance.choice(
        (name, f"{name}.{_of(chance, _UPPER.lower(), 6)}", f"{name}+{chance.randrange(99)}", f"{name}_{chance.randrange(9)}")
    )
    domain = f"{_of(chance, _UPPER.lower(), 7)}.{chance.choice(('com', 'example', 'co.uk', 'xn--p1ai', 'org', 'museum'))}"
    return f"{local}{chance.choice(('@', '@', '@', '@', '%40', ' [at] '))}{domain}"


def _iban(chance: Random) -> str:
    country = chance.choice(_COUNTRIES)
    length = LENGTHS[country.encode()]
    account = (
        _of(chance, _UPPER, 4) + _of(chance, "0123456789", length - 8)
        if country in ("GB", "NL", "IE", "MT")
        else _of(chance, "0123456789", length - 4)
    )
    check = 98 - int("".join(str(int(character, 36)) for character in f"{account}{country}00")) % 97
    number = f"{country}{check:02d}{account}"
    separator = chance.choice(("", "", " ", "-", "\u00a0", "%20"))
    return separator.join(number[at : at + 4] for at in range(0, len(number), 4))


def _aws(chance: Random) -> str:
    key = chance.choice(("AKIA", "ASIA")) + _of(chance, _UPPER + "234567", 16)
    while True:
        secret = _of(chance, _BASE62 + "/+", 40)
        if len(set(secret)) >= 16 and any(c.isdigit() for c in secret):
            return chance.choice((key, f"{key} {secret}", f"{LABELS[3]}{secret}"))


def _jwt(chance: Random) -> str:
    def segment(document: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(document, separators=(",", ":")).encode()).rstrip(b"=").decode()

    header = segment({"alg": chance.choice(("HS256", "RS256", "none")), "typ": "JWT"})
    return f"{header}.{segment({'sub': str(chance.randrange(10**6)), 'iat': chance.randrange(10**9)})}.{_of(chance, _BASE62 + '-_', 43)}"


def _pem(chance: Random) -> str:
    kind = chance.choice(("", "RSA ", "EC ", "OPENSSH ", "ENCRYPTED "))
    lines = "\n".join(base64.b64encode(chance.randbytes(48)).decode() for _ in range(chance.randrange(1, 5)))
    return f"-----BEGIN {kind}PRIVATE KEY-----\n{lines}\n-----END {kind}PRIVATE KEY-----"


PLANTED: Final[Mapping[str, Callable[[Random], str]]] = {
    "payment-card": _card,
    "us-ssn": _ssn,
    "email": _email,
    "iban": _iban,
    "aws-access-key": _aws,
    "github-token": lambda chance: f"gh{chance.choice('opsur')}_{_of(chance, _BASE62, 36)}",
    "slack-token": lambda chance: f"xox{chance.choice('bpas')}-{chance.randrange(10**11)}-{_of(chance, _BASE62, 24)}",
    "stripe-key": lambda chance: f"{chance.choice('rs')}k_{chance.choice(('live', 'test'))}_{_of(chance, _BASE62, 24)}",
    "google-api-key": lambda chance: f"AIza{_of(chance, _BASE62 + '-_', 35)}",
    "jwt": _jwt,
    "pem-private-key": _pem,
}

# Around a value: alone, in prose, in documents, arrays, composites and rows of tables.
SURROUNDINGS: Final[tuple[Callable[[str], str], ...]] = (
    lambda value: value,
    lambda value: f"please use {value} for this, thanks",
    lambda value: json.dumps({"id": 7, "note": value}),
    lambda value: json.dumps({"note": json.dumps([value])}),
    lambda value: '{x,"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"}',
    lambda value: '(1,"' + value.replace('"', '""') + '")',
    lambda value: f"2024-01-02|{value}|open",
)
