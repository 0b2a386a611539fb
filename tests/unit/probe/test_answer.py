"""What each first answer of a server says of the door."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.probe.answer import Door, DoorState, UnreadableAnswer, read_answer, startup_message


def error(**fields: str) -> bytes:
    body = b"".join(f"{name}{value}\0".encode() for name, value in fields.items()) + b"\0"
    return b"E" + struct.pack(">I", len(body) + 4) + body


def authentication(kind: int, rest: bytes = b"") -> bytes:
    return b"R" + struct.pack(">II", 8 + len(rest), kind) + rest


REJECTED = error(S="FATAL", C="28000", M='pg_hba.conf rejects connection for host "10.0.0.9"', R="ClientAuthentication")


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        (REJECTED, DoorState.REJECTED),
        (error(C="28000", M='no pg_hba.conf entry for host "10.0.0.9"', R="ClientAuthentication"), DoorState.REJECTED),
        (error(C="28000", M="pg_hba.conf lehnt Verbindung ab", R="ClientAuthentication"), DoorState.REJECTED),
        (error(C="28000", M="connection requires a valid client certificate", R="ClientAuthentication"), DoorState.ASKS),
        (error(C="28000", M='role "pg_hba.conf" does not exist', R="InitializeSessionUserId"), DoorState.UNCLEAR),
        (error(S="FATAL", C="28000", M="refused by sidegate: the client isn't who it should be"), DoorState.GATE),
        (error(C="28000", M='role "refused by sidegate: " does not exist'), DoorState.UNCLEAR),
        (error(C="28P01", M="see pg_hba.conf"), DoorState.UNCLEAR),
        (error(C="57P03", M="the database system is starting up"), DoorState.UNCLEAR),
        (error(C="53300", M="sorry, too many clients already"), DoorState.UNCLEAR),
        (error(C="3D000", M="database does not exist"), DoorState.UNCLEAR),
        (authentication(0), DoorState.WIDE_OPEN),
        (authentication(3), DoorState.ASKS),
        (authentication(5, b"salt"), DoorState.ASKS),
        (authentication(10, b"SCRAM-SHA-256\0\0"), DoorState.ASKS),
        (authentication(77), DoorState.ASKS),
    ],
)
def test_tells_the_state_of_the_door(answer: bytes, state: DoorState) -> None:
    found = read_answer(answer)
    assert found is not None
    assert found[0] is state


def test_reads_past_what_comes_before_the_answer() -> None:
    negotiation = b"v" + struct.pack(">III", 12, 0, 0)
    assert read_answer(negotiation + REJECTED) == (DoorState.REJECTED, "")
    assert read_answer(negotiation) is None


@given(st.integers(min_value=0, max_value=len(REJECTED) - 1))
def test_half_an_answer_says_nothing(length: int) -> None:
    assert read_answer(REJECTED[:length]) is None


@given(st.binary(max_size=200))
def test_noise_is_never_a_closed_door(noise: bytes) -> None:
    try:
        found = read_answer(noise)
    except UnreadableAnswer:
        return
    assert found is None or found[0] is not DoorState.REJECTED or b"pg_hba.conf" in noise


def test_a_servers_words_are_told_in_printable_ascii() -> None:
    found = read_answer(error(C="57P03", M="evil\x1b[2J `x`\u202e" + "y" * 500))
    assert found is not None
    assert found[1].isascii()
    assert found[1].isprintable()
    assert len(found[1]) <= 160


def test_refuses_names_that_would_add_parameters() -> None:
    with pytest.raises(ValueError):
        startup_message("readonly\0replication\0true", "shop")


def test_only_the_closed_states_are_neither_open_nor_unclear() -> None:
    doors = [Door("10.0.0.9", 5432, None, "shop", False, state) for state in DoorState]
    closed = {each.state for each in doors if not each.is_open and not each.is_unclear}
    assert closed == {DoorState.REJECTED, DoorState.SILENT, DoorState.NO_TLS, DoorState.GATE}
