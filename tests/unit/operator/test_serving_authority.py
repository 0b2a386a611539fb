"""The rotation of the listener's authority: at every moment, whoever serves an allowed certificate is trusted by what was published."""

from __future__ import annotations

import ipaddress
import ssl

import pytest
from cryptography import x509

from sidegate_operator.serving.authority import (
    DAY_S,
    Held,
    KeyPair,
    Lifetimes,
    Step,
    decode_held,
    encode_held,
    is_same_bundle,
    is_trusted,
    names_in,
    new_authority,
    new_serving,
    next_step,
    take_step,
)

NOW = 1_800_000_000.0
LIFETIMES = Lifetimes()
NAMES = ("sidegate-webhook.sidegate-system.svc", "127.0.0.1")


def held_at(now: float = NOW) -> Held:
    return take_step(Step.CREATE, None, NAMES, now, LIFETIMES)


def step_of(held: Held | None, now: float, published: list[bytes] | None = None) -> Step:
    bundles = [held.bundle] if published is None and held is not None else published or []
    return next_step(held, bundles, NAMES, now, LIFETIMES)


def test_nothing_held_makes_an_authority_and_a_certificate() -> None:
    assert step_of(None, NOW) is Step.CREATE
    held = held_at()
    assert step_of(held, NOW) is Step.NONE
    assert names_in(held.serving.certificate) == set(NAMES)
    x509.load_pem_x509_certificate(held.serving.certificate).verify_directly_issued_by(
        x509.load_pem_x509_certificate(held.authority.certificate)
    )


def test_the_authority_may_sign_for_its_names_alone_and_for_no_authority() -> None:
    extensions = x509.load_pem_x509_certificate(held_at().authority.certificate).extensions
    constraints = extensions.get_extension_for_class(x509.NameConstraints)
    assert constraints.critical
    assert constraints.value.permitted_subtrees == [
        x509.DNSName(NAMES[0]),
        x509.IPAddress(ipaddress.ip_network("127.0.0.1/32")),
    ]
    assert extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0


def test_a_rotation_goes_through_every_step_and_back_to_none() -> None:
    held, steps, day = held_at(), [], 0
    now = NOW
    serving_under: list[tuple[bytes, bytes]] = []  # what is served, and what was published when it was
    while day < 400:
        step = step_of(held, now, [held.bundle])
        if step is not Step.NONE:
            before = held.bundle
            held = take_step(step, held, NAMES, now, LIFETIMES)
            serving_under.append((held.authority.certificate, before))
            steps.append(step)
        else:
            now, day = now + DAY_S, day + 1
    rotation = [step for step in steps if step is not Step.REISSUE]
    assert rotation == [Step.STAGE, Step.NOTE_PUBLISHED, Step.PROMOTE, Step.RETIRE]
    # INVARIANT: the authority of what is served was already trusted before it began to be served.
    assert all(is_trusted(authority, [bundle]) for authority, bundle in serving_under)
    assert Step.CREATE not in steps


def test_a_staged_authority_is_not_used_before_it_is_published_everywhere() -> None:
    late = NOW + LIFETIMES.authority_s - LIFETIMES.authority_renewed_before_s + 1
    old = take_step(Step.REISSUE, held_at(), NAMES, late, LIFETIMES)
    assert step_of(old, late) is Step.STAGE
    staged = take_step(Step.STAGE, old, NAMES, late, LIFETIMES)
    assert step_of(staged, late + DAY_S, []) is Step.NONE
    assert step_of(staged, late, [staged.bundle, old.bundle]) is Step.NONE
    assert step_of(staged, late, [staged.bundle, staged.bundle]) is Step.NOTE_PUBLISHED
    noted = take_step(Step.NOTE_PUBLISHED, staged, NAMES, late, LIFETIMES)
    assert step_of(noted, late + LIFETIMES.settle_s - 1) is Step.NONE
    assert step_of(noted, late + LIFETIMES.settle_s, [old.bundle]) is Step.NONE  # somebody took it out again
    assert step_of(noted, late + LIFETIMES.settle_s) is Step.PROMOTE


def test_the_old_authority_is_trusted_until_the_overlap_is_over() -> None:
    noted = take_step(Step.STAGE, held_at(), NAMES, NOW, LIFETIMES)
    promoted = take_step(Step.PROMOTE, noted, NAMES, NOW, LIFETIMES)
    assert is_trusted(noted.authority.certificate, [promoted.bundle])
    assert step_of(promoted, NOW + LIFETIMES.overlap_s - 1) is Step.NONE
    assert step_of(promoted, NOW + LIFETIMES.overlap_s) is Step.RETIRE
    retired = take_step(Step.RETIRE, promoted, NAMES, NOW, LIFETIMES)
    assert not is_trusted(noted.authority.certificate, [retired.bundle])
    assert is_trusted(promoted.authority.certificate, [retired.bundle])


def test_a_certificate_near_its_end_is_issued_again_by_the_same_authority() -> None:
    held = held_at()
    near = NOW + LIFETIMES.serving_s - LIFETIMES.serving_renewed_before_s + 1
    assert step_of(held, near) is Step.REISSUE
    again = take_step(Step.REISSUE, held, NAMES, near, LIFETIMES)
    assert again.authority == held.authority
    assert again.serving != held.serving
    assert step_of(again, near) is Step.NONE


def test_a_certificate_is_not_issued_over_and_over_at_its_authoritys_end() -> None:
    end = NOW + LIFETIMES.authority_s - DAY_S
    held = take_step(Step.REISSUE, take_step(Step.STAGE, held_at(), NAMES, NOW, LIFETIMES), NAMES, end, LIFETIMES)
    assert held.serving.not_after <= held.authority.not_after
    assert step_of(held, end, []) is Step.NONE


def test_an_authority_that_is_over_is_made_anew() -> None:
    assert step_of(held_at(), NOW + LIFETIMES.authority_s) is Step.CREATE


def test_other_names_need_another_authority() -> None:
    held = held_at()
    other = ("sidegate-webhook.elsewhere.svc",)
    assert next_step(held, [held.bundle], other, NOW, LIFETIMES) is Step.REISSUE
    renamed = take_step(Step.REISSUE, held, other, NOW, LIFETIMES)
    assert renamed.authority != held.authority
    assert next_step(renamed, [renamed.bundle], other, NOW, LIFETIMES) is Step.NONE


def full() -> Held:
    staged = take_step(Step.STAGE, held_at(), NAMES, NOW, LIFETIMES)
    promoted = take_step(Step.PROMOTE, staged, NAMES, NOW, LIFETIMES)
    return take_step(Step.NOTE_PUBLISHED, take_step(Step.STAGE, promoted, NAMES, NOW, LIFETIMES), NAMES, NOW, LIFETIMES)


@pytest.mark.parametrize("held", [held_at(), full()], ids=["plain", "in the midst of two rotations"])
def test_the_secret_gives_back_what_was_put_in(held: Held) -> None:
    assert decode_held(encode_held(held)) == held


@pytest.mark.parametrize("name", sorted(encode_held(held_at())))
@pytest.mark.parametrize("value", [None, b"", b"nonsense", held_at().authority.key, held_at().serving.certificate])
def test_a_secret_that_is_not_whole_is_as_none(name: str, value: bytes | None) -> None:
    data = encode_held(held_at())
    changed = {key: each for key, each in {**data, name: value}.items() if each is not None}
    assert decode_held(changed) is None


def test_a_certificate_of_another_authority_is_not_taken() -> None:
    one, other = held_at(), held_at()
    assert decode_held(encode_held(Held(one.authority, other.serving))) is None


def test_bundles_are_compared_by_what_they_hold() -> None:
    one, other = held_at().authority.certificate, held_at().authority.certificate
    assert is_same_bundle(one + other, other.strip() + b"\n\n" + one)
    assert not is_same_bundle(one, one + other)
    assert not is_trusted(one, [b"nonsense"])
    assert not is_trusted(one, [])


def test_openssl_takes_the_certificate_and_no_other_name_of_the_authority() -> None:
    """A real handshake in memory, with the names checked: what the API server does."""
    held = held_at()
    assert handshake(held.authority, held.serving, NAMES[0]) is None
    stranger = new_serving(held.authority, ("kubernetes.default.svc",), NOW, LIFETIMES)
    assert "permitted subtree violation" in str(handshake(held.authority, stranger, "kubernetes.default.svc"))
    assert "unable to get local issuer" in str(handshake(new_authority(NAMES, NOW, LIFETIMES), held.serving, NAMES[0]))


def handshake(authority: KeyPair, serving: KeyPair, name: str) -> ssl.SSLError | None:
    from sidegate_operator.serving.tls import load_chain

    listening = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_chain(listening, serving.certificate + authority.certificate, serving.key)
    calling = ssl.create_default_context(cadata=authority.certificate.decode())
    calling.verify_flags |= 0x200000  # X509_V_FLAG_NO_CHECK_TIME: the certificates are of a fixed moment
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = calling.wrap_bio(to_client, to_server, server_hostname=name)
    server = listening.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(10):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError as error:
                return error
    return None
