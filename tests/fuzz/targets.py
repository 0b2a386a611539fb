"""What is fuzzed, and what must hold: one function a target, from bytes to nothing. It raises for a finding and for nothing else.

The oracle: whatever comes, a decoder gives a value or the error that it promises; the session core raises nothing at all; nothing reaches
the target without a permit; how bytes are cut changes nothing; memory stays bounded. `tests/property/test_codec_bytes.py` runs every target in
`make test`, `tests/fuzz/run.py` runs them with atheris for as long as it is told to.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import struct
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from sidegate.api.manifests import ManifestError, parse_manifests
from sidegate.identity.compact import parse_compact
from sidegate.policy.config import ApprovalConfig, ColumnMatch, ConfigError, RuleAction, RuleConfig, StatementMatch, decode_config
from sidegate.policy.decision import ColumnMask, ColumnUse, Masks, MaskStrategy, Permit, ValueMask
from sidegate.policy.source import PolicyRule
from sidegate.postgres.authn import parse_initial_response
from sidegate.postgres.catalog import Catalog
from sidegate.postgres.copy_out import CopyFormat, CopyKind, CopyOutRewriter
from sidegate.postgres.effects import Effects, RefreshCatalog
from sidegate.postgres.messages import (
    SYNC,
    ClientProtocolError,
    TargetProtocolError,
    decode_bind,
    decode_command_tag,
    decode_data_row,
    decode_execute,
    decode_fields,
    decode_named,
    decode_parameter_status,
    decode_parse,
    decode_query,
    rows_of_tag,
)
from sidegate.postgres.results import ColumnOrigin, FieldDescription, Reach, ResultPlan, decode_row_description, plan_result
from sidegate.postgres.rows import rewrite_rows
from sidegate.postgres.scram import ScramClient, ScramError, ScramLimits
from sidegate.postgres.startup import StartupMessage, allowed_parameters, decode_startup_packet, packet_length
from sidegate.record.entries import decode_entry
from sidegate.record.frame import RecordKind, check_header, decode_result, decode_trailer
from sidegate.record.reader import read_frames
from sidegate.sql import analyse
from tests.support.session import NOW, Bench, bind, describe, execute, parse, policy, query

Target = Callable[[bytes], None]

APPROVAL: Final = ApprovalConfig(approver_groups=("dba",))
RULES: Final = (
    RuleConfig("no-ddl", RuleAction.DENY, StatementMatch(kinds=("DDL",))),
    RuleConfig("few", RuleAction.REQUIRE_APPROVAL, StatementMatch(kinds=("Delete",), rows_more_than=1), approval=APPROVAL),
    RuleConfig("ssn", RuleAction.MASK, columns=(ColumnMatch("ssn"),)),
    RuleConfig("cards", RuleAction.MASK, detectors=("payment-card",)),
)
CATALOG: Final = Catalog.decode(
    [(b"20000", b"public", b"users", b"r", b"1", b"id"), (b"20000", b"public", b"users", b"r", b"2", b"ssn")], [], [], 1
)
SOURCE: Final = PolicyRule("shop", "p", "ssn")
MASKS: Final = Masks(
    (ColumnMask(frozenset({"ssn"}), None, None, MaskStrategy.PARTIAL, ColumnUse.REFUSED, SOURCE),),
    (ValueMask(frozenset({"payment-card", "email"}), MaskStrategy.REDACT, SOURCE),),
)


class _Origins:
    def origin(self, table_oid: int, attnum: int) -> ColumnOrigin | None:
        return ColumnOrigin("public", "users", "ssn" if attnum == 2 else "id")

    def is_own(self, table_oid: int, attnum: int) -> bool:
        return not self.is_tainted(table_oid, attnum)

    def is_tainted(self, table_oid: int, attnum: int) -> bool:
        return False


def _plan(*types: tuple[int, int, int]) -> ResultPlan:
    """Columns as (attribute number, type OID, format)."""
    fields = [FieldDescription(f"c{number}", 20000, number, oid, -1, -1, code) for number, oid, code in types]
    plan = plan_result(fields, None, MASKS, _Origins(), (Reach.NONE,) * len(fields), hash_key=b"k" * 32)
    assert isinstance(plan, ResultPlan)
    return plan


PLANS: Final = (_plan((1, 25, 0), (2, 25, 0)), _plan((1, 17, 1), (2, 20, 1)), _plan((1, 3802, 1), (3, 1043, 0)))


def _cuts(data: bytes) -> list[int]:
    """Where to cut: by the bytes themselves, so that a finding is one file."""
    cuts = []
    at = 0
    for byte in data:
        at += 1 + byte % 23
        if at >= len(data):
            break
        cuts.append(at)
    return cuts


def _pieces(data: bytes) -> list[bytes]:
    edges = [0, *_cuts(data), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges) if end > start]


class _Ends:
    """Both outputs of a bench, whole and in order."""

    def __init__(self, before: bytes, *, masks: bool) -> None:
        self.bench = Bench(policy(RULES if masks else RULES[:2]), catalog=CATALOG)
        self.to_target = b""
        self.to_client = b""
        self.feed_client(before)

    def _take(self, effects: Effects) -> None:
        for permit, data in effects.to_target:
            assert isinstance(permit, Permit)
            self.to_target += data
        self.to_client += b"".join(effects.to_client)
        for action in effects.actions:
            if isinstance(action, RefreshCatalog):
                self._take(self.bench.session.catalog_refreshed(CATALOG, NOW))

    def feed_client(self, data: bytes) -> None:
        self._take(self.bench.session.from_client(data, NOW))

    def feed_target(self, data: bytes) -> None:
        self._take(self.bench.session.from_target(data, NOW))


def from_client(data: bytes) -> None:
    """A session's messages, whole and in pieces."""
    for masks in (False, True):
        whole, cut = _Ends(b"", masks=masks), _Ends(b"", masks=masks)
        whole.feed_client(data)
        for piece in _pieces(data):
            cut.feed_client(piece)
        assert (whole.to_target, whole.to_client) == (cut.to_target, cut.to_client), "it matters how bytes are cut"


def _without_end(data: bytes) -> bytes:
    """Without the FATAL error that closes a session."""
    at = data.rfind(b"SFATAL\0")
    return data[: at - 5] if at >= 5 else data


ASKED: Final = (
    query("select ssn, id from users"),
    parse("select ssn, id from users") + bind() + describe() + execute() + SYNC,
    parse("select 1") + bind() + execute() + SYNC + query("select 2"),
    query("begin") + query("commit"),
    query("delete from users"),
    query("copy users from stdin"),
    query("copy users to stdout"),
    query("drop table users"),
)


def from_target(data: bytes) -> None:
    """A target's answers to a few questions; the first byte says to which."""
    if not data:
        return
    before = ASKED[data[0] % len(ASKED)]
    answers = data[1:]
    for masks in (False, True):
        whole, cut = _Ends(before, masks=masks), _Ends(before, masks=masks)
        whole.feed_target(answers)
        for piece in _pieces(answers):
            cut.feed_target(piece)
        if whole.bench.session.is_closed or cut.bench.session.is_closed:
            # A damaged row is found when it is read, and what needs no masking isn't: rows before it may be out, or all of them
            first, second = sorted((_without_end(whole.to_client), _without_end(cut.to_client)), key=len)
            assert second.startswith(first), "it matters how bytes are cut"
        else:
            assert (whole.to_target, whole.to_client) == (cut.to_target, cut.to_client), "it matters how bytes are cut"


def client_messages(data: bytes) -> None:
    for decode in (decode_query, decode_parse, decode_bind, decode_execute, decode_named):
        with contextlib.suppress(ClientProtocolError):
            decode(data)


def target_messages(data: bytes) -> None:
    for decode in (decode_fields, decode_parameter_status, decode_data_row, decode_row_description):
        with contextlib.suppress(TargetProtocolError):
            decode(data)
    with contextlib.suppress(TargetProtocolError):
        rows_of_tag(decode_command_tag(data))


def startup(data: bytes) -> None:
    with contextlib.suppress(ClientProtocolError):
        length = packet_length(data[:4].ljust(4, b"\0"))
        packet = decode_startup_packet(data[:length].ljust(8, b"\0"))
        if isinstance(packet, StartupMessage):
            allowed = allowed_parameters(packet.parameters)
            assert all("\0" not in name + value for name, value in allowed.items())


def rows(data: bytes) -> None:
    """DataRows under a plan; the first byte says which."""
    if not data:
        return
    plan = PLANS[data[0] % len(PLANS)]
    with contextlib.suppress(TargetProtocolError):
        masked = rewrite_rows(data[1:], 0, len(data) - 1, plan)
        assert len(rewrite_rows(masked, 0, len(masked), plan)) >= 0  # what goes out is rows again


def rows_of_cells(data: bytes) -> None:
    """Well-formed rows with any cells: those of a masked column never come out."""
    half = len(data) // 2
    first, second = data[:half], data[half:]
    body = struct.pack(">hi", 2, len(first)) + first + struct.pack(">i", len(second)) + second
    frame = b"D" + struct.pack(">I", len(body) + 4) + body
    for plan in PLANS[:2]:
        masked = rewrite_rows(frame, 0, len(frame), plan)
        cells = decode_data_row(masked[5:])
        if len(second) > 24:
            assert cells[1] is None or second[:-4] not in cells[1], "a masked cell came out"


FORMATS: Final = (
    CopyFormat(CopyKind.TEXT),
    CopyFormat(CopyKind.CSV, delimiter=b",", null=b""),
    CopyFormat(CopyKind.CSV, delimiter=b";", null=b"\\N", header=True, quote=b"'", escape=b"\\"),
    CopyFormat(CopyKind.BINARY),
)


def copy_out(data: bytes) -> None:
    """COPY data in each format, whole and in pieces."""
    if not data:
        return
    copy_format, plan = FORMATS[data[0] % len(FORMATS)], PLANS[data[0] // 16 % len(PLANS)]

    def run(pieces: list[bytes]) -> bytes | None:
        rewriter = CopyOutRewriter(plan, copy_format, max_row_bytes=4096)
        try:
            return b"".join([*map(rewriter.feed, pieces), rewriter.finish()])
        except TargetProtocolError:
            return None

    whole, cut = run([data[1:]]), run(_pieces(data[1:]))
    # Rows in which nothing is to be masked pass whole and unread, however many columns they have; a cut one is read.
    assert whole == cut or None in (whole, cut), "it matters how bytes are cut"


def scram(data: bytes) -> None:
    """A target's two SCRAM messages. A forged signature never verifies."""
    first, _, final = data.partition(b"\n")
    for nonce_goes_on in (False, True):
        client = ScramClient("secret", "n" * 24, limits=ScramLimits(max_iterations=4096))
        client.client_first()
        with contextlib.suppress(ScramError):
            client.client_final(b"r=" + b"n" * 24 + first if nonce_goes_on else first)
            client.verify(final)
            raise AssertionError("a login that nobody could prove was verified")


def oauth(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        parse_initial_response(data)


def token(data: bytes) -> None:
    parse_compact(data.decode("latin-1"))


def recording(data: bytes) -> None:
    list(read_frames(io.BytesIO(data)))
    check_header(data)
    decode_trailer(data)
    with contextlib.suppress(ValueError):
        decode_result(data)
    for kind in RecordKind:
        with contextlib.suppress(msgspec.DecodeError, KeyError):
            decode_entry(kind, data)


def config(data: bytes) -> None:
    with contextlib.suppress(ConfigError):
        decode_config(data)


def manifests(data: bytes) -> None:
    with contextlib.suppress(ManifestError):
        parse_manifests([("fuzz.yaml", data.decode("utf-8", "replace"))])


def sql(data: bytes) -> None:
    analyse(data.decode("utf-8", "replace"), ("public",))


TARGETS: Final[Mapping[str, Target]] = {
    "from_client": from_client,
    "from_target": from_target,
    "client_messages": client_messages,
    "target_messages": target_messages,
    "startup": startup,
    "rows": rows,
    "rows_of_cells": rows_of_cells,
    "copy_out": copy_out,
    "scram": scram,
    "oauth": oauth,
    "token": token,
    "recording": recording,
    "config": config,
    "manifests": manifests,
    "sql": sql,
}
