"""Where fuzzing starts: well-formed input for each target, made here, so that the folder `corpus` keeps findings alone."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

from sidegate.policy.config import encode_config
from sidegate.postgres.messages import frame
from sidegate.record.entries import NoticeRecord
from sidegate.record.frame import encode_frames
from tests.support.session import (
    BIND_COMPLETE,
    CLOSE_COMPLETE,
    FLUSH,
    NO_DATA,
    PARSE_COMPLETE,
    SYNC,
    bind,
    complete,
    config_of,
    data_row,
    describe,
    execute,
    parse,
    policy,
    query,
    ready,
    row_description,
    target_error,
)

EXAMPLES: Final = Path(__file__).parent.parent.parent / "examples"
CARD: Final = b"4111111111111111"
ROW: Final = data_row(b"7", CARD)
COPY_SIGNATURE: Final = b"PGCOPY\n\xff\r\n\0" + b"\0" * 8


def _frames() -> bytes:
    data, _ = encode_frames([NoticeRecord(statement=1, text="held").entry()] * 2, 0, 1, b"\0" * 32)
    return data


def _from_client() -> list[bytes]:
    return [
        query("select 1"),
        query("select ssn from users; select 2"),
        query("drop table users") + query("begin") + query("commit"),
        parse("select $1::int") + bind("", "", b"1") + describe() + execute() + SYNC,
        parse("delete from users", "s") + bind("p", "s") + execute("p", 1) + FLUSH + SYNC + query("select 1"),
        query("copy users from stdin") + frame(b"d", b"1\tx\n") + frame(b"c") + frame(b"f", b"why\0"),
        query("prepare d as delete from users") + query("execute d") + query("deallocate all"),
        query("declare c cursor for select 1") + query("fetch 1 from c") + execute("c") + SYNC,
        frame(b"F", b"\0\0\3\xe8\0\0\0\0\0\0") + frame(b"C", b"Ss\0") + frame(b"D", b"Ss\0") + frame(b"X"),
    ]


def _from_target() -> list[bytes]:
    description = row_description(("ssn", 20000, 2), ("id", 20000, 1))
    notice = frame(b"N", b"SNOTICE\0C00000\0Mcard " + CARD + b"\0\0")
    return [
        b"\0" + description + ROW + ROW + complete("SELECT 2") + ready(),
        b"\1" + PARSE_COMPLETE + BIND_COMPLETE + description + ROW + complete("SELECT 1") + ready(),
        b"\2" + PARSE_COMPLETE + BIND_COMPLETE + target_error() + ready() + row_description("a") + complete("SELECT 0") + ready(),
        b"\3" + complete("BEGIN") + ready("T") + notice + complete("COMMIT") + ready(),
        b"\4" + PARSE_COMPLETE + BIND_COMPLETE + complete("BEGIN") + CLOSE_COMPLETE + CLOSE_COMPLETE + ready("T"),
        b"\5" + frame(b"G", b"\0\0\2\0\0\0\0") + complete("COPY 1") + ready(),
        b"\6" + PARSE_COMPLETE + frame(b"t", b"\0\0") + description + CLOSE_COMPLETE + CLOSE_COMPLETE + ready(),
        b"\6" + frame(b"H", b"\0\0\2\0\0\0\0") + frame(b"d", b"7\t" + CARD + b"\n") + frame(b"c") + complete("COPY 1") + ready(),
        b"\7" + target_error() + ready() + frame(b"A", b"\0\0\0\1ch\0note\0") + frame(b"S", b"TimeZone\0UTC\0") + NO_DATA,
    ]


def _startup() -> list[bytes]:
    body = b"user\0ada\0database\0shop\0application_name\0x\0options\0-c datestyle=iso\0_pq_.odd\x001\0\0"
    return [
        struct.pack(">II", len(body) + 8, 0x00030002) + body,
        struct.pack(">II", 8, 80877103),
        struct.pack(">IIII", 16, 80877102, 1, 2),
    ]


def _bodies() -> list[bytes]:
    return [
        piece[5:]
        for piece in (ROW, row_description(("a", 1, 1)), bind("p", "s", b"1"), parse("select 1"), target_error(), complete("A 1"))
    ]


def seeds_of(name: str) -> list[bytes]:
    """Well-formed input for a target of `targets.TARGETS`."""
    match name:
        case "from_client":
            return _from_client()
        case "from_target":
            return _from_target()
        case "client_messages" | "target_messages":
            return _bodies()
        case "startup":
            return _startup()
        case "rows":
            return [bytes([number]) + ROW * 2 for number in range(3)]
        case "rows_of_cells":
            return [b'{"a": "b@example.org"}' + CARD, CARD * 4]
        case "copy_out":
            binary = COPY_SIGNATURE + struct.pack(">hi", 2, 1) + b"7" + struct.pack(">i", 16) + CARD + b"\xff\xff"
            text = [b"7\t" + CARD + b"\n\\.\n", b'7,"' + CARD + b'"\n', b"a;b\n'x\\'';\\N\n"]
            return [bytes([number]) + data for number, data in enumerate([*text, binary])]
        case "scram":
            return [
                b"r=" + b"n" * 24 + b"more,s=c2FsdA==,i=4096\nv=c2ln",
                b"more,s=c2FsdHNhbHRzYWx0c2FsdA==,i=4096\ne=other-error",
            ]
        case "oauth":
            return [b"n,,\x01auth=Bearer abc.def\x01\x01", b"n,,\x01auth=\x01\x01", b"y,,\x01host=x\x01auth=Bearer a\x01\x01"]
        case "token":
            return [b"eyJhbGciOiJSUzI1NiIsImtpZCI6ImEifQ.eyJpc3MiOiJhIn0.c2ln"]
        case "recording":
            return [_frames(), NoticeRecord(statement=1, text="x").entry().payload]
        case "config":
            return [encode_config(config_of(policy()))]
        case "manifests":
            return [file.read_bytes() for file in sorted(EXAMPLES.glob("demo/*.yaml"))[:4]]
        case "sql":
            return [
                b"select a, b from t where c = 'x' -- y",
                b"with d as (delete from t returning *) select * from d",
                b"copy t to program 'x'",
            ]
        case _:
            return []
