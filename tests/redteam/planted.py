"""The planted data: `plant()` gives the rows as COPY blocks, and every secret in them by class and by row. None of them is real.

Rules: every value comes from a SHA-256 counter stream, so one seed gives the same bytes on every machine and Python; cases name values by
row, so the order of draws is part of the format. The alphabets leave out a-f, so that no planted run can occur inside hexadecimal output
(OIDs, md5, uuid, bytea); each window of six characters of a password or token has two letters, so that none can occur inside a number.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

SEED: Final = "sidegate-redteam-1"
LETTERS: Final = "ghjkmnpqrstvwxyz"
DIGITS: Final = "23456789"
FIRST: Final = [
    "Mira",
    "Jon",
    "Aiko",
    "Sven",
    "Lotta",
    "Omar",
    "Priya",
    "Tomas",
    "Wren",
    "Yusuf",
    "Zoya",
    "Hugo",
    "Nils",
    "Kira",
    "Pavel",
    "Rosa",
]
LAST: Final = [
    "Holt",
    "Myers",
    "Okoro",
    "Quist",
    "Rossi",
    "Strand",
    "Tovar",
    "Vik",
    "Wynn",
    "Youssef",
    "Zhou",
    "Novak",
    "Pryor",
    "Horst",
    "Kuipers",
    "Smit",
]
TOKENS: Final = ("aws_id", "aws_secret", "github", "slack", "stripe", "google", "jwt", "pem")
FULL_WIDTH: Final = {ord(digit): 0xFF10 + int(digit) for digit in "0123456789"}
ARABIC: Final = {ord(digit): 0x0660 + int(digit) for digit in "0123456789"}


@dataclass(frozen=True, slots=True)
class Planted:
    """`rows`: table, then id, then what is secret in that row. `sql` is for psql: COPY blocks with their data."""

    sql: str
    classes: dict[str, list[str]]
    rows: dict[str, dict[str, dict[str, Any]]]


class _Stream:
    def __init__(self, name: str) -> None:
        self._name, self._block, self._left = name, 0, b""

    def _byte(self) -> int:
        if not self._left:
            self._left = hashlib.sha256(f"{SEED}/{self._name}/{self._block}".encode()).digest()
            self._block += 1
        first, self._left = self._left[0], self._left[1:]
        return first

    def below(self, limit: int) -> int:
        span = 1 << 32
        while True:
            drawn = int.from_bytes(bytes(self._byte() for _ in range(4)), "big")
            if drawn < span - span % limit:
                return drawn % limit

    def pick(self, choices: Sequence[str]) -> str:
        return choices[self.below(len(choices))]


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def with_check_digit(body: str) -> str:
    total = 0
    for place, digit in enumerate(reversed(body)):
        doubled = int(digit) * 2
        total += int(digit) if place % 2 else doubled - 9 * (doubled > 9)
    return body + str(-total % 10)


def grouped(digits: str, separator: str) -> str:
    return separator.join(digits[start : start + 4] for start in range(0, len(digits), 4))


@dataclass(slots=True)
class _Secrets:
    """Draws values of each kind, no SSN and no card twice."""

    stream: _Stream = field(default_factory=lambda: _Stream("main"))
    seen: set[str] = field(default_factory=set)

    def core(self, length: int, *, upper: bool = False) -> str:
        """Letters and digits; every window of six has two letters at least."""
        out = ""
        while len(out) < length:
            drawn = self.stream.pick(LETTERS + DIGITS)
            if len(out) >= 3 and drawn in DIGITS and sum(each in DIGITS for each in out[-5:]) >= 3:
                continue
            out += drawn.upper() if upper else self.stream.pick([drawn, drawn.upper()])
        return out

    def _fresh(self, draw: Callable[[], str]) -> str:
        while (value := draw()) in self.seen:
            pass
        self.seen.add(value)
        return value

    def ssn(self) -> str:
        areas = ["527", "583", "648", "719", "436", "392"]
        below = self.stream.below
        return self._fresh(lambda: f"{self.stream.pick(areas)}-{10 + below(89):02d}-{1000 + below(8999):04d}")

    def card(self) -> str:
        def draw() -> str:
            issuer = self.stream.pick(["424242", "453201", "545454", "555534", "601100", "378282"])
            length = 15 if issuer.startswith("37") else 16
            return with_check_digit(issuer + "".join(str(self.stream.below(10)) for _ in range(length - 7)))

        return self._fresh(draw)

    def password(self) -> str:
        return self.stream.pick(["Tulip", "Otter", "Quartz", "Walnut", "Mistral", "Yonder"]) + "-" + self.core(10)

    def email(self, number: int) -> str:
        name = self.core(7).lower()
        return f"{name}.{number}@{self.stream.pick(['example.com', 'example.org', 'mail.example.net'])}"

    def person(self) -> str:
        return f"{self.stream.pick(FIRST)} {self.stream.pick(LAST)}"

    def token(self, kind: str) -> str:
        match kind:
            case "aws_id":
                return "AKIA" + self.core(16, upper=True)
            case "aws_secret":
                return self.core(40)
            case "github":
                return "ghp_" + self.core(36)
            case "slack":
                digits = "".join(str(2 + self.stream.below(8)) for _ in range(12))
                return f"xoxb-{digits}-{self.core(24)}"
            case "stripe":
                return "sk_live_" + self.core(24)
            case "google":
                return "AIza" + self.core(35)
            case "jwt":
                head = _base64url(b'{"alg":"HS256","typ":"JWT"}')
                claims = _base64url(json.dumps({"sub": self.core(12), "scope": self.core(12)}).encode())
                return f"{head}.{claims}.{self.core(43)}"
            case _:
                body = "\n".join(self.core(64) for _ in range(4))
                return f"-----BEGIN RSA PRIVATE KEY-----\n{body}\n-----END RSA PRIVATE KEY-----"

    def note(self, number: int) -> tuple[str, list[tuple[str, str]]]:
        """The text, and what is hidden in it: another kind for each of 20 numbers in turn."""
        card_texts: dict[int, Callable[[str], str]] = {
            1: lambda card: f"paid with {grouped(card, ' ')} over the phone",
            2: lambda card: f"card {grouped(card, '-')} declined",
            3: lambda card: f"card {card.translate(FULL_WIDTH)} (typed on a wide keyboard)",
            4: lambda card: f"card {card.translate(ARABIC)} (typed in Arabic digits)",
            11: lambda card: "card " + "\u200b".join(card) + " (zero-width joined)",
            12: lambda card: f"card {grouped(card, chr(0xA0))} (no-break spaces)",
            13: lambda card: f"card {grouped(card, '.')} (dots)",
        }
        token_texts = {
            6: ("pem", "their key:\n{}\nplease rotate"),
            7: ("jwt", "Authorization: Bearer {}"),
            8: ("slack", "bot token {} pasted in chat"),
            9: ("github", "git clone https://{}@github.com/acme/app"),
            14: ("stripe", "stripe key {}"),
        }
        kind = number % 20
        if kind in card_texts:
            card = self.card()
            return card_texts[kind](card), [("card", card)]
        if kind in token_texts:
            name, text = token_texts[kind]
            token = self.token(name)
            return text.format(token), [("token", token)]
        match kind:
            case 0:
                ssn = self.ssn()
                return f"caller gave SSN {ssn} on the phone", [("ssn", ssn)]
            case 5:
                key, secret = self.token("aws_id"), self.token("aws_secret")
                return f"aws_access_key_id={key} aws_secret_access_key={secret}", [("token", key), ("token", secret)]
            case 10:
                email = self.email(9000 + number)
                return f"write to {email} instead", [("email", email)]
        return f"prefers a call on day {number % 7}", []


def _moment(number: int) -> str:
    return f"2024-{1 + number % 12:02d}-{1 + number % 28:02d} {number % 24:02d}:{number % 60:02d}:00+00"


def _copy_text(value: object) -> str:
    return r"\N" if value is None else str(value).replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n")


class _Tables:
    """Fills the tables in the order in which the cases' values were drawn."""

    def __init__(self) -> None:
        self.secrets = _Secrets()
        self.classes: dict[str, list[str]] = {name: [] for name in ("ssn", "password", "card", "token", "email")}
        self.rows: dict[str, dict[str, dict[str, Any]]] = {}
        self._lines: list[str] = []

    def sql(self) -> str:
        return "-- made by planted.py\n" + "\n".join(self._lines)

    def _plant(self, kind: str, value: str) -> str:
        self.classes[kind].append(value)
        return value

    def _keep(self, table: str, number: int, **values: Any) -> None:
        self.rows.setdefault(table, {})[str(number)] = values

    def _copy(self, table: str, columns: str, rows: Iterable[Sequence[object]]) -> None:
        made = list(rows)
        self._lines.append(f"COPY {table} ({', '.join(columns.split())}) FROM stdin;")
        self._lines.extend("\t".join(_copy_text(value) for value in row) for row in made)
        self._lines.append("\\.\n")

    def fill(self) -> None:
        columns = "id name email ssn password card_number notes prefs tags created_at"
        self._copy("public.customers", columns, map(self._customer, range(1, 601)))
        self._copy("public.orders", "id customer_id total status payment_ref placed_at", map(self._order, range(1, 501)))
        self._copy("public.api_keys", "id customer_id label secret created_at", map(self._api_key, range(1, 121)))
        self._copy("public.employees", "id name contact ssn salary", map(self._employee, range(1, 151)))
        self._copy("public.people", "id name ssn password", map(self._person, range(1, 121)))
        vips = ((*self._person(number), f"vip{number % 10}") for number in range(121, 201))
        self._copy("public.vip_people", "id name ssn password vip_code", vips)
        self._copy("public.payments", "id customer_id ssn card_number amount", map(self._payment, range(1, 201)))
        self._copy("prod.accounts", "id owner ssn password balance", map(self._account, range(1, 151)))

    def _customer(self, number: int) -> Sequence[object]:
        ssn, password = self._plant("ssn", self.secrets.ssn()), self._plant("password", self.secrets.password())
        card, email = self._plant("card", self.secrets.card()), self._plant("email", self.secrets.email(number))
        text, hidden = self.secrets.note(number)
        for kind, value in hidden:
            self._plant(kind, value)
        tag_card = self._plant("card", self.secrets.card()) if number % 9 == 0 else None
        prefs_card = self._plant("card", self.secrets.card()) if number % 7 == 0 else None
        prefs: dict[str, Any] = {"theme": self.secrets.stream.pick(["dark", "light"]), "visits": number % 37}
        if prefs_card:
            prefs["billing"] = {"pan": prefs_card, "exp": "11/29"}
        tags = [self.secrets.stream.pick(["vip", "late", "new", "trial"]), *([tag_card] if tag_card else [])]
        self._keep(
            "customers",
            number,
            ssn=ssn,
            password=password,
            card_number=card,
            email=email,
            note=[value for _, value in hidden],
            prefs_card=prefs_card,
            tag_card=tag_card,
        )
        name = self.secrets.person()
        return number, name, email, ssn, password, card, text, json.dumps(prefs), "{" + ",".join(tags) + "}", _moment(number)

    def _order(self, number: int) -> Sequence[object]:
        card = self._plant("card", self.secrets.card()) if number % 5 == 0 else None
        self._keep("orders", number, payment_ref=card)
        status = self.secrets.stream.pick(["open", "paid", "sent"])
        total = f"{(number * 37) % 900}.{number % 100:02d}"
        return number, 1 + number % 600, total, status, card or f"inv-{number}", _moment(number)

    def _api_key(self, number: int) -> Sequence[object]:
        kind = TOKENS[number % 8]
        token = self._plant("token", self.secrets.token(kind))
        self._keep("api_keys", number, secret=token, kind=kind)
        return number, number, kind, token, _moment(number)

    def _employee(self, number: int) -> Sequence[object]:
        ssn, email = self._plant("ssn", self.secrets.ssn()), self._plant("email", self.secrets.email(2000 + number))
        self._keep("employees", number, ssn=ssn)
        contact = f'("{email}","{ssn}","+1 555 {number % 900:04d}")'
        return number, self.secrets.person(), contact, ssn, 3000 + (number * 13) % 900

    def _person(self, number: int) -> Sequence[object]:
        ssn, password = self._plant("ssn", self.secrets.ssn()), self._plant("password", self.secrets.password())
        self._keep("people", number, ssn=ssn, password=password)
        return number, self.secrets.person(), ssn, password

    def _payment(self, number: int) -> Sequence[object]:
        ssn, card = self._plant("ssn", self.secrets.ssn()), self._plant("card", self.secrets.card())
        self._keep("payments", number, ssn=ssn, card_number=card)
        return number, 1 + number % 600, ssn, card, f"{number % 90}.00"

    def _account(self, number: int) -> Sequence[object]:
        ssn, password = self._plant("ssn", self.secrets.ssn()), self._plant("password", self.secrets.password())
        self._keep("accounts", number, ssn=ssn, password=password)
        return number, self.secrets.person(), ssn, password, f"{(number * 7) % 900}.00"


def plant() -> Planted:
    tables = _Tables()
    tables.fill()
    return Planted(tables.sql(), {kind: sorted(set(values)) for kind, values in tables.classes.items()}, tables.rows)
