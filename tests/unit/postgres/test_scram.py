"""SCRAM-SHA-256: the RFC's own vector, strict parsing of what a target may say, and mutual authentication."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidegate.postgres.scram import ScramClient, ScramError, ScramKeyCache, ScramLimits, derive_keys, prepare_password

NONCE = "rOprNGfwEbeRWgbNEkqO"
# RFC 7677, section 3
SERVER_FIRST = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
CLIENT_FINAL = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
SERVER_FINAL = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
SALT = base64.b64encode(b"sixteen bytes...").decode()


def client(**changes: object) -> ScramClient:
    return ScramClient(**({"password": "pencil", "nonce": NONCE, "username": "user"} | changes))  # type: ignore[arg-type]


def started(**changes: object) -> ScramClient:
    scram = client(**changes)
    scram.client_first()
    return scram


def test_speaks_the_vector_of_rfc_7677() -> None:
    scram = client()
    assert scram.client_first() == b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
    assert scram.client_final(SERVER_FIRST) == CLIENT_FINAL
    assert not scram.is_verified
    scram.verify(SERVER_FINAL)
    assert scram.is_verified


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"r=" + NONCE.encode(),
        b"r=,s=" + SALT.encode() + b",i=4096",
        SERVER_FIRST + b",",
        SERVER_FIRST + b"\0",
        SERVER_FIRST + b"\n",
        SERVER_FIRST + b",x=extension",
        b"m=mandatory," + SERVER_FIRST,
        SERVER_FIRST.replace(b"i=4096", b"i=04096"),
        SERVER_FIRST.replace(b"i=4096", b"i=+4096"),
        SERVER_FIRST.replace(b"i=4096", b"i=-4096"),
        SERVER_FIRST.replace(b"i=4096", b"i=4096.0"),
        SERVER_FIRST.replace(b"i=4096", "i=٤٠٩٦".encode()),
        SERVER_FIRST.replace(b"i=4096", b"i=" + b"9" * 4000),
        SERVER_FIRST.replace(b"s=W22", b"s=W2\xff"),
        SERVER_FIRST.replace(b"==,", b"=,"),
        SERVER_FIRST.replace(b"s=W22ZaJ0SNY7soEsUEjb6gQ==", b"s="),
        SERVER_FIRST.replace(b"s=W22ZaJ0SNY7soEsUEjb6gQ==", b"s=AAAA"),
        SERVER_FIRST.replace(b"s=W22ZaJ0SNY7soEsUEjb6gQ==", b"s=" + b"A" * 2000),
        SERVER_FIRST.replace(b"r=", b"R=", 1),
        SERVER_FIRST.replace(b",s=", b", s="),
        b"e=other-error",
        b"v=" + SALT.encode(),
        SERVER_FIRST + b"x" * 5000,
    ],
)
def test_refuses_a_malformed_server_first_message(message: bytes) -> None:
    with pytest.raises(ScramError) as caught:
        started().client_final(message)
    assert caught.value.way_forward
    assert "pencil" not in str(caught.value)


@pytest.mark.parametrize(
    "nonce", [NONCE, NONCE[:-1] + "x" + "target", "target" + NONCE, NONCE.lower() + "target", "attacker-chosen-nonce"]
)
def test_refuses_a_nonce_that_doesnt_extend_ours(nonce: str) -> None:
    with pytest.raises(ScramError, match="nonce"):
        started().client_final(f"r={nonce},s={SALT},i=4096".encode())


@pytest.mark.parametrize("iterations", [1, 4095, 1_000_001, 9_999_999_999])
def test_refuses_an_iteration_count_out_of_bounds_before_working_on_it(iterations: int) -> None:
    cache = ScramKeyCache()
    with pytest.raises(ScramError, match="iterations") as caught:
        started(cache=cache).client_final(f"r={NONCE}target,s={SALT},i={iterations}".encode())
    assert len(cache) == 0
    assert "scram_iterations" in caught.value.way_forward


def test_bounds_are_configurable() -> None:
    limits = ScramLimits(min_iterations=1, max_iterations=2)
    assert started(limits=limits).client_final(f"r={NONCE}target,s={SALT},i=1".encode())
    with pytest.raises(ScramError):
        started(limits=limits).client_final(f"r={NONCE}target,s={SALT},i=3".encode())


@pytest.mark.parametrize(
    "message",
    [
        b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5=",
        b"v=" + base64.b64encode(bytes(32)),
        b"v=",
        b"v=AAAA",
        b"",
        SERVER_FINAL + b",x=extension",
        SERVER_FINAL + b"\n",
        SERVER_FINAL[:-1],
        b"v=\xff",
    ],
)
def test_refuses_a_target_that_cant_prove_that_it_knows_the_password(message: bytes) -> None:
    scram = started()
    scram.client_final(SERVER_FIRST)
    with pytest.raises(ScramError):
        scram.verify(message)
    assert not scram.is_verified
    with pytest.raises(RuntimeError):
        scram.verify(SERVER_FINAL)


def test_tells_what_the_target_says_when_it_refuses() -> None:
    scram = started()
    scram.client_final(SERVER_FIRST)
    with pytest.raises(ScramError, match="`invalid-proof`") as caught:
        scram.verify(b"e=invalid-proof")
    assert "credential" in caught.value.way_forward


def test_each_step_comes_once_and_in_order() -> None:
    with pytest.raises(RuntimeError):
        client().client_final(SERVER_FIRST)
    with pytest.raises(RuntimeError):
        client().verify(SERVER_FINAL)
    scram = started()
    with pytest.raises(RuntimeError):
        scram.client_first()
    with pytest.raises(RuntimeError):
        scram.verify(SERVER_FINAL)
    scram.client_final(SERVER_FIRST)
    with pytest.raises(RuntimeError):
        scram.client_final(SERVER_FIRST)


def test_a_failed_step_cant_be_tried_again() -> None:
    scram = started()
    with pytest.raises(ScramError):
        scram.client_final(b"garbage")
    with pytest.raises(RuntimeError):
        scram.client_final(SERVER_FIRST)


@pytest.mark.parametrize("nonce", ["", "short", "with,comma-in-the-middle", "with space in the middle", "nön-ascii-nonce-here"])
def test_a_bad_nonce_is_the_callers_mistake(nonce: str) -> None:
    with pytest.raises(ValueError):
        client(nonce=nonce)


def test_names_its_flag_by_what_is_bound() -> None:
    assert client().client_first().startswith(b"n,,")
    assert client(could_bind=True).client_first().startswith(b"y,,")
    bound = client(channel_binding=b"hash")
    assert bound.client_first().startswith(b"p=tls-server-end-point,,")
    assert bound.mechanism == "SCRAM-SHA-256-PLUS"


def test_the_final_message_carries_header_and_binding() -> None:
    final = started(channel_binding=b"\x01\x02").client_final(SERVER_FIRST)
    assert base64.b64decode(final.split(b",")[0][2:]) == b"p=tls-server-end-point,,\x01\x02"
    final = started(could_bind=True).client_final(SERVER_FIRST)
    assert base64.b64decode(final.split(b",")[0][2:]) == b"y,,"


def test_escapes_a_username() -> None:
    assert client(username="a=b,c").client_first() == b"n,,n=a=3Db=2Cc,r=" + NONCE.encode()


def test_shows_neither_password_nor_nonce() -> None:
    assert repr(client()) == "ScramClient(SCRAM-SHA-256, START)"


def test_refuses_an_empty_password() -> None:
    with pytest.raises(ScramError, match="empty"):
        client(password="")


class Target(NamedTuple):
    """The other side of the login, from the RFC's formulas, to play every role of it against the client."""

    password: bytes
    salt: bytes
    iterations: int
    nonce: str

    def first(self, client_first: bytes) -> bytes:
        nonce = client_first.rpartition(b"r=")[2].decode()
        return f"r={nonce}{self.nonce},s={base64.b64encode(self.salt).decode()},i={self.iterations}".encode()

    def final(self, client_first: bytes, client_final: bytes) -> bytes | None:
        without_proof, _, proof = client_final.rpartition(b",p=")
        message = client_first.split(b",", 2)[2] + b"," + self.first(client_first) + b"," + without_proof
        salted = hashlib.pbkdf2_hmac("sha256", self.password, self.salt, self.iterations)
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        signature = hmac.digest(hashlib.sha256(client_key).digest(), message, "sha256")
        if bytes(a ^ b for a, b in zip(base64.b64decode(proof), signature, strict=True)) != client_key:
            return None
        return b"v=" + base64.b64encode(hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), message, "sha256"))


_targets = st.builds(
    Target,
    st.just(b""),
    st.binary(min_size=8, max_size=40),
    st.integers(4096, 4200),
    st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters=","), min_size=1, max_size=40),
)


@settings(max_examples=60, deadline=None)
@given(
    password=st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    target=_targets,
    binding=st.none() | st.binary(max_size=64),
)
def test_client_and_target_agree_for_any_password_salt_and_binding(password: str, target: Target, binding: bytes | None) -> None:
    scram = ScramClient(password, NONCE, binding)
    first = scram.client_first()
    target = target._replace(password=prepare_password(password))
    answer = target.final(first, scram.client_final(target.first(first)))
    assert answer is not None
    scram.verify(answer)


@settings(max_examples=30, deadline=None)
@given(password=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1), target=_targets)
def test_another_password_is_refused_by_both_sides(password: str, target: Target) -> None:
    target = target._replace(password=(password + "!").encode())
    scram = ScramClient(password, NONCE)
    first = scram.client_first()
    final = scram.client_final(target.first(first))
    assert target.final(first, final) is None
    # A target that makes up a signature from the password it has doesn't get in either.
    own = ScramClient(password + "!", NONCE)
    own.client_first()
    forged = target.final(first, own.client_final(target.first(first)))
    assert forged is not None
    with pytest.raises(ScramError):
        scram.verify(forged)


@settings(max_examples=300, deadline=None)
@given(
    message=st.binary(max_size=200)
    | st.tuples(st.integers(0, len(SERVER_FIRST)), st.binary(max_size=3)).map(lambda t: _spliced(*t))
)
def test_any_other_message_is_refused_or_is_a_whole_one(message: bytes) -> None:
    scram = started(limits=ScramLimits(min_iterations=1, max_iterations=100_000))
    try:
        final = scram.client_final(message)
    except ScramError:
        return
    assert message.startswith(b"r=" + NONCE.encode())
    assert final.startswith(b"c=biws,r=" + NONCE.encode())


def _spliced(at: int, inserted: bytes) -> bytes:
    return SERVER_FIRST[:at] + inserted + SERVER_FIRST[at:]


def test_remembers_keys_and_forgets_the_oldest() -> None:
    cache = ScramKeyCache(max_entries=2)
    first = cache.keys(b"one", b"salt....", 4096)
    assert first == derive_keys(b"one", b"salt....", 4096)
    assert cache.keys(b"one", b"salt....", 4096) is first
    cache.keys(b"two", b"salt....", 4096)
    cache.keys(b"one", b"salt....", 4096)
    cache.keys(b"three", b"salt....", 4096)
    assert len(cache) == 2
    assert cache.keys(b"one", b"salt....", 4096) is first
    assert cache.keys(b"one", b"salt....", 4097) != first
    assert cache.keys(b"one", b"tlas....", 4096) != first


def test_a_cached_login_is_the_same_login() -> None:
    cache = ScramKeyCache()
    for _ in range(2):
        scram = started(cache=cache)
        assert scram.client_final(SERVER_FIRST) == CLIENT_FINAL
        scram.verify(SERVER_FINAL)
    assert len(cache) == 1


def test_the_cache_doesnt_hold_the_password() -> None:
    cache = ScramKeyCache()
    cache.keys(b"a very particular password", b"salt....", 4096)
    assert "particular" not in repr(vars(cache))


@pytest.mark.parametrize(
    ("password", "prepared"),
    [
        ("pencil", "pencil"),
        ("with\x07control", "with\x07control"),  # ASCII is left alone
        ("I\u00adX", "IX"),  # RFC 4013, section 3: mapped to nothing
        ("\u00aa", "a"),  # and normalised
        ("\u2168", "IX"),
        ("a\u00a0b", "a b"),  # a space that isn't ASCII
        ("\u200b", " "),  # a space and nothing at once: PostgreSQL looks for spaces first
        ("\u0627\u0031", "\u0627\u0031"),  # mixed directions are prohibited: as it is
        ("\u0627\u0031\u0628", "\u0627\u0031\u0628"),
        ("é\x07", "é\x07"),  # a prohibited control character: as it is
        ("é\ufffd\u00aa", "é\ufffd\u00aa"),
        ("\u00ad", "\u00ad"),  # nothing would be left
        ("🔑\u00aa", "🔑\u00aa"),  # not assigned in Unicode 3.2: as it is
        ("e\u0301", "é"),
    ],
)
def test_prepares_passwords_as_postgresql_does(password: str, prepared: str) -> None:
    assert prepare_password(password) == prepared.encode()
