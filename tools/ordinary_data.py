"""Ordinary data without secrets: what detectors must leave alone, as generators of one value each.

Every kind stands for columns that real tables have. The source of chance is an argument, so a seed always makes the same values. Only what
is never a secret is in here: nine digits in the form of a social security number, or a number with a card's check digit made on purpose,
can't be told from one by anybody, and are left out.
"""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable, Mapping
from random import Random
from typing import Final

_LOREM: Final = (
    "lorem ipsum dolor sit amet consetetur sadipscing elitr sed diam nonumy eirmod tempor invidunt ut labore et dolore magna aliquyam "
    "erat voluptua at vero eos accusam justo duo dolores ea rebum stet clita kasd gubergren no sea takimata sanctus est"
)
_WORDS: Final = _LOREM.split(" ")
_HOSTS: Final = ("api", "db", "cache", "web", "mail", "build", "edge")
_BASE36: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_BASE62: Final = _BASE36 + _BASE36[10:].lower()
_CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_CODE: Final = (
    "for i in range({0}): total += items[i] * {1}.{0}",
    "if (x_{0} >= {1}) {{ return await load(id={1}, retries={0}); }}",
    "#define LIMIT_{0} 0x{1:08x} /* {0} */",
    "const ratio = {0}.{1} / 1024; // see section {0}.{0}",
    "SELECT a.id, b.total FROM a JOIN b USING (id) WHERE a.id = {1} LIMIT {0}",
    "@app.route('/v{0}/items/<int:id>') def show(id): return items[{1}]",
    "y = A @ x + b; grad = w @ self.delta.T * {0}e-{0}",
    "def read_{0}(self, path: str) -> list[int]: ...",
    "assert round(total, {0}) == {1}.{0}, f'{{total}}'",
    "log.info('loaded %d of %d', {0}, {1})",
    "x = w@self.delta.T  # {1}",
    "static final long serialVersionUID = -{1}{1}{0}L;",
    "grid-template-columns: repeat({0}, minmax(0, 1fr)); color: #{1:06x};",
    "INSERT INTO t (id, name) VALUES ({1}, 'n{0}'), ({0}, 'm{1}');",
    "curl -sS -H 'X-Request-Id: {1}' http://localhost:80{0:02d}/health",
    "0x{1:08x}: push rbp; mov rbp, rsp; sub rsp, 0x{0:x}",
    '    - {{name: PORT_{0}, value: "{1}"}}',
    "import {{ useState }} from 'react'; // react@{0}.2.{0} left-pad@1.{0}.x",
    "git checkout -b fix/{1} && git push origin HEAD~{0}",
    "task_live_migration_{0}(desk_test_case_{1})",
)
_AGENT: Final = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{}.0.{}.{} Safari/537.36"


def _digits(chance: Random, count: int) -> str:
    return "".join(chance.choice("0123456789") for _ in range(count))


def _of(chance: Random, alphabet: str, count: int) -> str:
    return "".join(chance.choice(alphabet) for _ in range(count))


def _date(chance: Random) -> str:
    return f"{chance.randrange(1990, 2031)}-{chance.randrange(1, 13):02d}-{chance.randrange(1, 29):02d}"


def _time(chance: Random) -> str:
    return f"{chance.randrange(24):02d}:{chance.randrange(60):02d}:{chance.randrange(60):02d}"


def _words(chance: Random, fewest: int, most: int) -> str:
    return " ".join(chance.choice(_WORDS) for _ in range(chance.randrange(fewest, most)))


def _ean(chance: Random, length: int) -> str:
    body = _digits(chance, length - 1)
    total = sum(int(digit) * (3 if place % 2 == 0 else 1) for place, digit in enumerate(reversed(body)))
    return body + str(-total % 10)


def _order(chance: Random) -> str:
    return chance.choice(
        (
            f"{_date(chance).replace('-', '')}{_digits(chance, 8)}",
            f"ORD-{_digits(chance, 10)}",
            f"{chance.randrange(10**7, 10**8)}-{chance.randrange(100):02d}",
            f"INV-{chance.randrange(2000, 2031)}-{_digits(chance, 6)}",
            f"{_digits(chance, 3)}-{_digits(chance, 7)}-{_digits(chance, 7)}",
            f"PO {_digits(chance, 8)}",
        )
    )


def _phone(chance: Random) -> str:
    area, office, line = chance.randrange(200, 999), chance.randrange(200, 999), _digits(chance, 4)
    return chance.choice(
        (
            f"+1 {area} {office} {line}",
            f"({area}) {office}-{line}",
            f"{area}-{office}-{line}",
            f"{area}.{office}.{line}",
            f"+1{area}{office}{line}",
            f"+49 {_digits(chance, 3)} {_digits(chance, 7)}",
            f"+44 20 {_digits(chance, 4)} {_digits(chance, 4)}",
            f"+33 {' '.join(_digits(chance, 2) for _ in range(5))[1:]}",
            f"0049-{_digits(chance, 3)}-{_digits(chance, 8)}",
        )
    )


def _moment(chance: Random) -> str:
    seconds = chance.randrange(1_000_000_000, 1_900_000_000)
    return chance.choice(
        (
            f"{_date(chance)} {_time(chance)}.{_digits(chance, 6)}+00",
            f"{_date(chance)}T{_time(chance)}.{_digits(chance, 3)}Z",
            f"{_date(chance)} {_time(chance)}",
            f"{seconds}",
            f"{seconds}{_digits(chance, 3)}",
            f"{seconds}{_digits(chance, 6)}",
            f"{seconds}{_digits(chance, 9)}",
            f"{_date(chance).replace('-', '')}{_time(chance).replace(':', '')}",
            f"{_date(chance).replace('-', '/')} - {_date(chance).replace('-', '/')}",
            f"{_date(chance).replace('-', '.')}",
        )
    )


def _digest(chance: Random) -> str:
    digest = chance.randbytes(chance.choice((16, 20, 28, 32, 48, 64))).hex()
    return chance.choice((digest, digest.upper(), f"sha256:{digest}", digest[:12]))


def _blob(chance: Random) -> str:
    raw = chance.randbytes(chance.randrange(9, 200))
    return chance.choice((base64.b64encode(raw), base64.urlsafe_b64encode(raw), base64.b32encode(raw))).decode()


def _account(chance: Random) -> str:
    """Like an account number, with check digits that are wrong, or no country's; or a part of one."""
    country = chance.choice(("DE", "GB", "FR", "XX", "ZZ", "US"))
    number = f"{country}{_digits(chance, 2)}{_digits(chance, chance.choice((10, 14, 18, 23)))}"
    if country in ("DE", "GB", "FR") and len(number) in (22, 27):
        remainder = int("".join(str(int(character, 36)) for character in number[4:] + number[:4])) % 97
        number = number[:-1] + str((int(number[-1]) + (1 if remainder == 1 else 0)) % 10)
        wrong = int("".join(str(int(character, 36)) for character in number[4:] + number[:4])) % 97 != 1
        return number if wrong else number[:-1]
    return number


def _article(chance: Random) -> str:
    code = _ean(chance, chance.choice((8, 12, 13, 14)))
    isbn = _digits(chance, 9)
    check = sum((10 - place) * int(digit) for place, digit in enumerate(isbn))
    last = "0123456789X"[-check % 11]
    return chance.choice(
        (
            code,
            f"978-3-{isbn[:2]}-{isbn[2:8]}-{_digits(chance, 1)}",
            f"ISBN {isbn}{last}",
            f"{isbn[:1]}-{isbn[1:4]}-{isbn[4:]}-{last}",
        )
    )


def _address(chance: Random) -> str:
    octets = ".".join(str(chance.randrange(256)) for _ in range(4))
    groups = [f"{chance.randrange(65536):x}" for _ in range(8)]
    return chance.choice(
        (
            octets,
            f"{octets}/{chance.randrange(33)}",
            f"{octets}:{chance.randrange(65536)}",
            ":".join(groups),
            f"{':'.join(groups[:3])}::{groups[3]}/64",
        )
    )


def _mac(chance: Random) -> str:
    separator = chance.choice((":", "-"))
    return separator.join(f"{chance.randrange(256):02x}" for _ in range(chance.choice((6, 8))))


def _parcel(chance: Random) -> str:
    """UPS, FedEx, USPS, DHL, DPD, Royal Mail and the postal union's, by their published forms."""
    return chance.choice(
        (
            f"1Z{_of(chance, _BASE36, 6)}{_digits(chance, 10)}",
            _digits(chance, 12),
            f"{chance.choice(('7', '8', '9'))}{_digits(chance, 14)}",
            f"96{_digits(chance, 20)}",
            f"9400 1{_digits(chance, 3)} {_digits(chance, 4)} {_digits(chance, 4)} {_digits(chance, 4)} {_digits(chance, 2)}",
            f"92{_digits(chance, 20)}",
            f"JD{_digits(chance, 18)}",
            f"0{_digits(chance, 13)}",
            f"{_of(chance, _BASE36[10:], 2)}{_digits(chance, 9)}GB",
            f"0034{_digits(chance, 16)}",
        )
    )


def _log_document(chance: Random) -> str:
    return json.dumps(
        {
            "ts": f"{_date(chance)}T{_time(chance)}Z",
            "level": chance.choice(("info", "warn", "error")),
            "msg": _words(chance, 3, 9),
            "request_id": str(uuid.UUID(bytes=chance.randbytes(16), version=4)),
            "duration_ms": chance.random() * 1000,
            "bytes": chance.randrange(10**7),
            "user_id": chance.randrange(10**9),
            "path": f"/v1/items/{chance.randrange(10**6)}?page={chance.randrange(100)}&q={_words(chance, 1, 3).replace(' ', '%20')}",
        },
        indent=chance.choice((None, 2)),
    )


def _log_line(chance: Random) -> str:
    path = "/".join(_words(chance, 1, 4).split())
    agent = _AGENT.format(chance.randrange(90, 140), chance.randrange(7000), chance.randrange(300))
    request = (
        f'"GET /{path}?id={chance.randrange(10**8)} HTTP/1.1" {chance.choice((200, 301, 404, 500))} {chance.randrange(10**6)}'
    )
    return f'{_address(chance).split("/")[0]} - - [{_date(chance)}:{_time(chance)} +0000] {request} "-" "{agent}"'


def _code(chance: Random) -> str:
    return chance.choice(_CODE).format(chance.randrange(1, 64), chance.randrange(10**6))


def _floats(chance: Random) -> str:
    values = [chance.random() * 10 ** chance.randrange(-3, 6) for _ in range(chance.randrange(1, 9))]
    texts = [repr(value) if chance.random() < 0.5 else f"{value:.{chance.randrange(1, 7)}f}" for value in values]
    return chance.choice((", ", " ", ",", ";", "\n", "\t")).join(texts)


def _integers(chance: Random) -> str:
    size = 10 ** chance.randrange(1, 8)
    values = [str(chance.randrange(size)) for _ in range(chance.randrange(2, 12))]
    return chance.choice((", ", ",", ";", "|", ":", ", ")).join(values)


def _table_row(chance: Random) -> str:
    cells = [
        _date(chance),
        str(chance.randrange(10**6)),
        f"{chance.random() * 1000:.2f}",
        _words(chance, 1, 3),
        str(chance.randrange(100)),
        str(chance.randrange(10**4)),
    ]
    chance.shuffle(cells)
    return chance.choice(("\t", ",", ";", " | ")).join(cells)


def _place(chance: Random) -> str:
    latitude, longitude = chance.uniform(-90, 90), chance.uniform(-180, 180)
    minutes, seconds = chance.randrange(60), chance.randrange(60)
    return chance.choice(
        (
            f"{latitude:.6f},{longitude:.6f}",
            f"POINT({longitude!r} {latitude!r})",
            f"{latitude:.4f} {longitude:.4f}",
            f"({latitude!r},{longitude!r})",
            f"{abs(latitude):.0f}°{minutes}'{seconds}\"N {abs(longitude):.0f}°{seconds}'{minutes}\"E",
        )
    )


def _version(chance: Random) -> str:
    parts = [str(chance.randrange(200)) for _ in range(chance.randrange(2, 5))]
    return chance.choice(
        (
            ".".join(parts),
            f"v{'.'.join(parts)}-rc.{chance.randrange(9)}",
            f"{'.'.join(parts)}+build.{_digits(chance, 8)}",
            f"{'.'.join(parts)}.{_date(chance).replace('-', '')}",
            f"Chrome/{chance.randrange(90, 140)}.0.{chance.randrange(9999)}.{chance.randrange(300)}",
        )
    )


def _handle(chance: Random) -> str:
    name = chance.choice(_WORDS)
    return chance.choice(
        (
            f"@{name}_{chance.randrange(100)}",
            f"{name}@localhost",
            f"{name}@{chance.choice(_HOSTS)}-{chance.randrange(9)}",
            f"@{name}/{chance.choice(_WORDS)}@{chance.randrange(20)}.{chance.randrange(20)}.{chance.randrange(20)}",
            f"{name}@^{chance.randrange(9)}.{chance.randrange(9)}.{chance.randrange(9)}",
            f"{name}@v{chance.randrange(9)}.{chance.randrange(9)}.{chance.randrange(9)}-beta.rc",
            f"{name}@{chance.randrange(1, 4)}x.png",
            f"{chance.randrange(9)} @ {chance.random():.2f}",
            f"{name}#{_digits(chance, 4)}",
            f"meet {name} at noon.then go",
        )
    )


def _identifier(chance: Random) -> str:
    return chance.choice(
        (
            f"{_of(chance, _CROCKFORD, 26)}",
            f"{_of(chance, _BASE62, 21)}",
            f"{_of(chance, _BASE62, 27)}",
            f"cus_{_of(chance, _BASE62, 14)}",
            f"pk_live_{_of(chance, _BASE62, 24)}",
            f"req_{_of(chance, _BASE62, 16)}",
            f"arn:aws:iam::{_digits(chance, 12)}:role/{chance.choice(_WORDS)}",
            f"i-{chance.randbytes(8).hex()}",
            f"{chance.randrange(10**17, 10**18)}",
            f"{chance.randrange(10**18, 2 * 10**18)}",
        )
    )


def _amount(chance: Random) -> str:
    value = chance.random() * 10 ** chance.randrange(1, 14)
    return chance.choice(
        (
            f"{value:,.2f}",
            f"${value:,.2f}",
            f"{value:,.0f}".replace(",", "."),
            f"{value:,.0f}".replace(",", " "),
            f"{value:.2e}",
            f"{value:.2f} EUR",
        )
    )


def _link(chance: Random) -> str:
    path = "/".join(_words(chance, 2, 5).split())
    return chance.choice(
        (
            f"https://{chance.choice(_HOSTS)}.example/{path}?id={chance.randrange(10**9)}&ref={_of(chance, _BASE62, 12)}",
            f"s3://bucket-{chance.randrange(99)}/{_date(chance).replace('-', '/')}/{uuid.UUID(bytes=chance.randbytes(16))}.parquet",
            f"/var/lib/{chance.choice(_WORDS)}/{chance.randrange(10**6)}/{_of(chance, _BASE62, 30)}.bin",
            f"?q={_words(chance, 2, 4).replace(' ', '+')}&from={_date(chance)}&utm={_of(chance, _BASE62, 8)}%2F{chance.randrange(99)}",
        )
    )


def _markup(chance: Random) -> str:
    price = f"{chance.randrange(10**4)}&#8364;"
    return f'<p class="c{chance.randrange(99)}">{_words(chance, 3, 9)}&nbsp;&amp; {price} <b>{_words(chance, 1, 3)}</b></p>'


def _prose(chance: Random) -> str:
    opening = f"{_words(chance, 5, 30).capitalize()} on {_date(chance)}, {chance.randrange(100)} of {chance.randrange(1000)}"
    aside = f"({chance.random() * 100:.1f} %) – “{_words(chance, 2, 5)}” – room {chance.randrange(500)}"
    return f"{opening} {aside}, {chance.choice(('IN12', 'se02', 'be 42', 'MT 07'))} {_words(chance, 4, 9)}."


KINDS: Final[Mapping[str, Callable[[Random], str]]] = {
    "order numbers": _order,
    "16-digit numbers": lambda chance: _digits(chance, 16),
    "phone numbers": _phone,
    "UUIDs": lambda chance: str(uuid.UUID(bytes=chance.randbytes(16), version=4)),
    "times": _moment,
    "digests": _digest,
    "base64 and base32": _blob,
    "account numbers": _account,
    "EAN, ISBN, GTIN": _article,
    "IP addresses": _address,
    "MAC addresses": _mac,
    "parcel numbers": _parcel,
    "prose": _prose,
    "JSON logs": _log_document,
    "log lines": _log_line,
    "source code": _code,
    "lists of decimals": _floats,
    "lists of integers": _integers,
    "rows of tables": _table_row,
    "coordinates": _place,
    "versions": _version,
    "handles": _handle,
    "identifiers": _identifier,
    "amounts": _amount,
    "links and paths": _link,
    "HTML": _markup,
    "nine digits": lambda chance: _digits(chance, 9),
    "IMEI, ICCID": lambda chance: chance.choice(
        (f"35{_digits(chance, 13)}", f"8949{_digits(chance, 15)}", f"86{_digits(chance, 13)}")
    ),
}
