"""Strings that mean something: durations, sizes, times of day, networks. Each is a `str` that was checked, with its value as a property.

They stay strings, so that a manifest survives a round trip as its author wrote it, and so that the CRD can carry the same pattern. Patterns
are written in the syntax that Python, Rust (pydantic) and Go (the API server) read alike: no look-around, no back references. Every refusal
says the fix. Names of PostgreSQL objects are in `names`.
"""

from __future__ import annotations

import ipaddress
import re
import zoneinfo
from datetime import datetime, timedelta
from typing import Any, ClassVar, Final, Self

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import PydanticCustomError, core_schema

REFUSED: Final = "sidegate_refused"  # the `type` of errors that carry `problem` and `way_forward` in their context
_SHOWN: Final = 80


def refusal(problem: str, way_forward: str) -> PydanticCustomError:
    """The error of every check in this package: what is wrong, and what to write instead."""
    return PydanticCustomError(REFUSED, "{problem}; fix: {way_forward}", {"problem": problem, "way_forward": way_forward})


def shown(value: str) -> str:
    """User input for a message: in backticks, without control characters, cut."""
    printable = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in value)
    return f"`{printable[:_SHOWN]}...`" if len(printable) > _SHOWN else f"`{printable}`"


class Text(str):
    """A string of one form. Subclasses give the pattern, the longest length, and the sentence that tells how to write it."""

    __slots__ = ()
    pattern: ClassVar[str]
    min_length: ClassVar[int] = 1
    max_length: ClassVar[int] = 253
    meaning: ClassVar[str]
    way_forward: ClassVar[str]
    takes_integers: ClassVar[bool] = False

    def __new__(cls, text: str) -> Self:
        if len(text) > cls.max_length:
            raise refusal(f"{cls.meaning} is longer than {cls.max_length} characters", "shorten it")
        if re.fullmatch(cls.pattern, text) is None:
            raise refusal(f"{shown(text)} is not {cls.meaning}", cls.way_forward)
        made = super().__new__(cls, text)
        made._check()
        return made

    def _check(self) -> None:
        """What the pattern can't say."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        text: core_schema.CoreSchema = core_schema.str_schema(strict=True)
        if cls.takes_integers:
            text = core_schema.no_info_plain_validator_function(cls._from_either)
        return core_schema.no_info_after_validator_function(
            lambda value: value if type(value) is cls else cls(str(value)),
            text,
            serialization=core_schema.plain_serializer_function_ser_schema(str.__str__, return_schema=core_schema.str_schema()),
        )

    @classmethod
    def _from_either(cls, value: object) -> str:
        if isinstance(value, str):
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        raise refusal(f"{shown(str(value))} is not {cls.meaning}", cls.way_forward)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        if cls.takes_integers:
            return {"x-kubernetes-int-or-string": True, "pattern": f"^({cls.pattern})$", "maxLength": cls.max_length}
        return {"type": "string", "pattern": f"^({cls.pattern})$", "minLength": cls.min_length, "maxLength": cls.max_length}


class ObjectName(Text):
    """The name of a Kubernetes object (RFC 1123 subdomain)."""

    __slots__ = ()
    pattern = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
    meaning = "the name of a Kubernetes object"
    way_forward = "use lower case letters, digits and `-`, as in `shop-db`"


class LabelName(Text):
    """A short name in lower case (RFC 1123 label): of a rule, a passthrough, a namespace."""

    __slots__ = ()
    pattern = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
    max_length = 63
    meaning = "a short name"
    way_forward = "use lower case letters, digits and `-`, as in `big-deletes`"


class EnvironmentName(Text):
    """The name of an environment: what a Kubernetes label's value may be."""

    __slots__ = ()
    pattern = r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?"
    max_length = 63
    meaning = "the name of an environment"
    way_forward = "use letters, digits, `-`, `_` and `.`, as in `production`"


class Label(Text):
    """A person's, group's, agent's or audience's name, as an issuer spells it: anything printable without blanks around it."""

    __slots__ = ()
    pattern = r"[^\x00-\x20\x7f]([^\x00-\x1f\x7f]*[^\x00-\x20\x7f])?"
    max_length = 256
    meaning = "a name without blanks around it and without control characters"
    way_forward = "write it exactly as the issuer's token has it"


class Sentence(Text):
    """One line of prose for a person."""

    __slots__ = ()
    pattern = r"[^\x00-\x1f\x7f]+"
    max_length = 512
    meaning = "one line of text"
    way_forward = "leave out line breaks and control characters"


class ClaimName(Text):
    """The name of a claim; dots lead into nested ones (`realm_access.roles`); a name that is a URL is taken whole."""

    __slots__ = ()
    pattern = r"[!-~]+"
    max_length = 128
    meaning = "the name of a claim"
    way_forward = "write the claim's name as the token has it, as in `groups` or `realm_access.roles`"


_UNIT_SECONDS: Final = {"d": 86400, "h": 3600, "m": 60, "s": 1}


class Duration(Text):
    """A length of time, never zero: `30s`, `10m`, `1h30m`, `90d`."""

    __slots__ = ()
    pattern = r"([1-9][0-9]{0,4}[dhms]){1,4}"
    max_length = 24
    meaning = "a duration"
    way_forward = "write whole numbers with d, h, m or s, as in `90d`, `1h30m` or `30s`"

    @property
    def seconds(self) -> int:
        return sum(int(count) * _UNIT_SECONDS[unit] for count, unit in re.findall(r"([0-9]+)([dhms])", self))


class AtMost:
    """Puts an upper bound on a `Duration` field: `Annotated[Duration, AtMost("30d")]`."""

    def __init__(self, limit: str) -> None:
        self.limit = Duration(limit)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def _check(self, value: Duration) -> Duration:
        if value.seconds > self.limit.seconds:
            raise refusal(f"{shown(value)} is longer than {self.limit}", f"write {self.limit} or less")
        return value


_SIZE_UNITS: Final = {
    "": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40,
}  # fmt: skip


class ByteQuantity(Text):
    """A number of bytes as Kubernetes writes quantities: `64Ki`, `10Gi`, `500M`, or a plain number."""

    __slots__ = ()
    pattern = r"[1-9][0-9]{0,14}(k|M|G|T|Ki|Mi|Gi|Ti)?"
    max_length = 17
    meaning = "a size in bytes"
    way_forward = "write a whole number with Ki, Mi, Gi or Ti, as in `10Gi`"
    takes_integers = True

    @property
    def bytes(self) -> int:
        digits = self.rstrip("kKMGTi")
        return int(digits) * _SIZE_UNITS[self[len(digits) :]]


class CpuQuantity(Text):
    """An amount of CPU as Kubernetes writes quantities: `100m` or `2`."""

    __slots__ = ()
    pattern = r"[1-9][0-9]{0,5}m?"
    max_length = 7
    meaning = "an amount of CPU"
    way_forward = "write thousandths of a CPU as `100m`, or whole CPUs as `2`"
    takes_integers = True


class TimeOfDay(Text):
    """An hour and minute of 24: `08:00`. `24:00` is midnight at the end of the day."""

    __slots__ = ()
    pattern = r"([01][0-9]|2[0-3]):[0-5][0-9]|24:00"
    max_length = 5
    meaning = "a time of day"
    way_forward = 'write two digits, a colon and two digits, in quotes, as in "08:00" or "22:00"'

    @property
    def minute(self) -> int:
        """Minutes after midnight, 0 to 1440."""
        hour, minute = self.split(":")
        return int(hour) * 60 + int(minute)


DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


class Days(Text):
    """One day of the week or a span of them: `Sat`, `Mon-Fri`, `Fri-Mon`."""

    __slots__ = ()
    pattern = rf"({'|'.join(DAYS)})(-({'|'.join(DAYS)}))?"
    max_length = 7
    meaning = "a day of the week or a span of days"
    way_forward = "write `Mon`, `Tue`, `Wed`, `Thu`, `Fri`, `Sat`, `Sun`, or a span as in `Mon-Fri`"

    @property
    def indexes(self) -> tuple[int, ...]:
        """0 is Monday. A span may go over the end of the week."""
        first, _, last = self.partition("-")
        start, end = DAYS.index(first), DAYS.index(last or first)
        return tuple((start + step) % 7 for step in range((end - start) % 7 + 1))


class Timestamp(Text):
    """A moment (RFC 3339) with its offset from UTC: `2026-11-24T08:00:00Z`."""

    __slots__ = ()
    pattern = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})"
    max_length = 35
    meaning = "a moment"
    way_forward = "write date, time and offset, as in `2026-11-24T08:00:00Z`"

    def _check(self) -> None:
        try:
            self._moment()
        except ValueError as error:
            raise refusal(f"{shown(self)} is not a moment: {error}", self.way_forward) from error

    def _moment(self) -> datetime:
        return datetime.fromisoformat(re.sub(r"(\.[0-9]{6})[0-9]+", r"\1", self))  # finer than microseconds is cut

    @property
    def epoch_s(self) -> float:
        return self._moment().timestamp()

    @classmethod
    def from_epoch(cls, seconds: float) -> Timestamp:
        """Whole seconds in UTC, as Kubernetes writes metav1.Time."""
        moment = datetime(1970, 1, 1) + timedelta(seconds=int(seconds))  # noqa: DTZ001 UTC by construction, written with Z
        return cls(moment.isoformat() + "Z")

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "format": "date-time", "maxLength": cls.max_length}


class TimeZoneName(Text):
    """The name of a time zone in the IANA database: `Europe/Berlin`."""

    __slots__ = ()
    pattern = r"[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+){0,2}"
    max_length = 64
    meaning = "a time zone of the IANA database"
    way_forward = "write a name as in `Europe/Berlin` or `UTC`"

    def _check(self) -> None:
        try:
            zoneinfo.ZoneInfo(self)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise refusal(
                f"{shown(self)} is not a time zone that this machine knows", f"{self.way_forward}; or install the tzdata package"
            ) from error


class Network(Text):
    """A network in CIDR form with no host bits set: `10.0.0.0/8`, `fd00::/8`."""

    __slots__ = ()
    pattern = r"[0-9A-Fa-f:.]+/(0|[1-9][0-9]{0,2})"
    max_length = 49
    meaning = "a network"
    way_forward = "write it in CIDR form, as in `10.0.0.0/8`, `192.0.2.7/32` or `fd00::/8`"

    def _check(self) -> None:
        _check_network(self, self.way_forward)


class NetworkOrSocket(Text):
    """Where a passthrough role may come from: a network in CIDR form, or `unix` for the Unix socket."""

    __slots__ = ()
    pattern = r"unix|[0-9A-Fa-f:.]+/(0|[1-9][0-9]{0,2})"
    max_length = 49
    meaning = "a network or `unix`"
    way_forward = "write a network in CIDR form, as in `10.0.0.0/8`, or `unix`"

    def _check(self) -> None:
        if self != "unix":
            _check_network(self, self.way_forward)


def _check_network(text: str, way_forward: str) -> None:
    try:
        ipaddress.ip_network(text, strict=True)
    except ValueError as error:
        raise refusal(f"{shown(text)} is not a network: {error}", way_forward) from error


LOOPBACK_HOSTS: Final = ("localhost", "127.0.0.1", "::1")


class Host(Text):
    """A host name, an IP address, or the directory that holds a Unix socket."""

    __slots__ = ()
    pattern = r"[A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?|[0-9A-Fa-f:]+|/[!-~]*"
    meaning = "a host"
    way_forward = "write a host name, an IP address, or the directory of a Unix socket; the port has its own field"

    @property
    def is_local(self) -> bool:
        """Whether what is sent there stays on this machine."""
        return self in LOOPBACK_HOSTS or self.startswith("/")


class IssuerUrl(Text):
    """The URL of an OIDC issuer, exactly as its tokens' `iss` has it (OpenID Connect Discovery 1.0, section 3)."""

    __slots__ = ()
    pattern = r"(https://[^\s/?#@]+|http://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?)(/[^\s?#]*)?"
    max_length = 512
    meaning = "an issuer's URL"
    way_forward = "write the https URL that the token's `iss` claim has; http is for loopback only"


class ImageName(Text):
    """A container image, pinned by digest or named by tag."""

    __slots__ = ()
    pattern = r"[a-z0-9][A-Za-z0-9._:/-]*(@sha256:[0-9a-f]{64})?"
    max_length = 512
    meaning = "the name of a container image"
    way_forward = "write repository and digest, as in `registry.example/sidegate@sha256:...`"
