"""Key sets: which keys count, and which are left out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given, settings
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from jwt.algorithms import get_default_algorithms as algorithms

from sidegate.identity.jwks import KEY_SHAPES, KeySetError, parse_jwks

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
WEAK_RSA = rsa.generate_private_key(public_exponent=65537, key_size=1024)
P256 = ec.generate_private_key(ec.SECP256R1())
ED25519 = ed25519.Ed25519PrivateKey.generate()


def rsa_jwk(key: rsa.RSAPrivateKey = RSA, **changes: Any) -> dict[str, Any]:
    return _clean({**RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), "key_ops": None, "kid": "one", **changes})


def ec_jwk(key: ec.EllipticCurvePrivateKey = P256, **changes: Any) -> dict[str, Any]:
    return _clean({**ECAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": "one", **changes})


def _clean(jwk: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in jwk.items() if value is not None}


def parse(*entries: Any) -> Any:
    return parse_jwks(json.dumps({"keys": entries}).encode())


GOOD = ec_jwk(kid="good")


@pytest.mark.parametrize(
    "entry",
    [
        rsa_jwk(WEAK_RSA),
        rsa_jwk(use="enc"),
        rsa_jwk(use=["sig"]),
        rsa_jwk(key_ops=["sign"]),
        rsa_jwk(key_ops=["encrypt", "wrapKey"]),
        rsa_jwk(key_ops="verify"),
        rsa_jwk(alg="RSA-OAEP"),
        rsa_jwk(alg="HS256"),
        rsa_jwk(alg="none"),
        rsa_jwk(alg=["RS256"]),
        rsa_jwk(alg="ES256"),
        rsa_jwk(kid=7),
        rsa_jwk(kty="rsa"),
        rsa_jwk(n=""),
        rsa_jwk(n="AQAB"),
        rsa_jwk(e="AQ"),
        rsa_jwk(e="Ag"),
        rsa_jwk(n=7),
        _clean({**rsa_jwk(), "n": None}),
        {**RSAAlgorithm.to_jwk(RSA, as_dict=True), "kid": "private", "key_ops": ["verify"]},
        ec_jwk(crv="P-384"),
        ec_jwk(crv="secp256k1"),
        ec_jwk(ec.generate_private_key(ec.SECP256K1())),
        ec_jwk(alg="ES384"),
        ec_jwk(alg="RS256"),
        ec_jwk(x=ec_jwk()["y"]),  # a point that isn't on the curve
        ec_jwk(y=""),
        {"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0", "kid": "one"},
        {"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0", "kid": "one", "alg": "RS256"},
        {"kty": "OKP", "crv": "Ed448", "x": "AA", "kid": "one"},
        {"kty": "OKP", "crv": "Ed25519", "x": "AA", "kid": "one"},
        {"kty": "OKP", "crv": "X25519", "x": "3p7bfXt9wbTTW2HC7OQ1Nz-DQ8hbeGdNrfx-FG-IK08", "kid": "one"},
        {},
        [],
        "key",
        None,
    ],
)
def test_a_key_that_cant_verify_is_left_out_and_the_others_serve(entry: Any) -> None:
    keys = parse(entry, GOOD)
    assert [key.key_id for key in keys.keys] == ["good"]
    assert keys.candidates("one", "RS256") == ()
    assert keys.candidates("one", "ES256") == ()


@pytest.mark.parametrize(
    ("algorithm", "jwk"),
    [
        *[(name, rsa_jwk()) for name in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")],
        ("ES256", ec_jwk()),
        ("ES384", ec_jwk(ec.generate_private_key(ec.SECP384R1()))),
        ("ES512", ec_jwk(ec.generate_private_key(ec.SECP521R1()))),
        ("EdDSA", {**OKPAlgorithm.to_jwk(ED25519.public_key(), as_dict=True), "kid": "one"}),
    ],
)
def test_a_key_serves_the_algorithms_of_its_shape_alone(algorithm: str, jwk: dict[str, Any]) -> None:
    keys = parse(jwk)
    assert len(keys.candidates("one", algorithm)) == 1
    shape = KEY_SHAPES[algorithm]
    assert {name for name in KEY_SHAPES if keys.candidates("one", name)} == {n for n, s in KEY_SHAPES.items() if s == shape}
    assert not keys.candidates("one", "HS256")
    assert not keys.candidates("one", "none")


def test_a_key_that_names_its_algorithm_serves_no_other() -> None:
    keys = parse(rsa_jwk(alg="RS256"))
    assert {name for name in KEY_SHAPES if keys.candidates("one", name)} == {"RS256"}


def test_a_key_verifies_its_own_signature_and_no_other() -> None:
    (key,) = parse(rsa_jwk()).keys
    signature = algorithms()["RS256"].sign(b"said", RSA)
    assert key.verifies("RS256", b"said", signature)
    assert not key.verifies("RS256", b"said otherwise", signature)
    assert not key.verifies("RS512", b"said", signature)
    assert not key.verifies("HS256", b"said", signature)
    assert not key.verifies("ES256", b"said", signature)
    assert not key.verifies("RS256", b"said", b"")


@pytest.mark.parametrize("signature", [b"", bytes(64), bytes(63), bytes(65), b"\xff" * 64, bytes(32) + b"\x01" * 32])
def test_signatures_of_nothing_dont_verify_on_a_curve(signature: bytes) -> None:
    (key,) = parse(ec_jwk()).keys
    assert not key.verifies("ES256", b"", signature)
    assert not key.verifies("ES256", b"said", signature)


def test_keys_without_id_serve_tokens_without_id_when_one_fits() -> None:
    keys = parse(_clean({**rsa_jwk(), "kid": None}), ec_jwk(kid=None))
    assert len(keys.candidates(None, "RS256")) == 1
    assert len(keys.candidates(None, "ES256")) == 1
    assert keys.candidates("one", "RS256") == ()
    assert parse(rsa_jwk(kid=None), rsa_jwk(kid="two")).candidates(None, "RS256") == ()


def test_the_same_id_on_keys_of_two_types_is_told_apart_by_algorithm() -> None:
    keys = parse(rsa_jwk(), ec_jwk())
    assert [key.shape.key_type for key in keys.candidates("one", "RS256")] == ["RSA"]
    assert [key.shape.key_type for key in keys.candidates("one", "ES256")] == ["EC"]


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"[]",
        b"{}",
        b'{"keys": {}}',
        b'{"keys": []}',
        b'{"keys": null}',
        b'{"keys": [{"kty": "RSA"}], "keys": []}',
        b"<html>",
        b"\xff\xfe",
        b"[" * 100_000,
        json.dumps({"keys": [GOOD] * 65}).encode(),
    ],
)
def test_a_document_without_usable_keys_is_an_error(document: bytes) -> None:
    with pytest.raises(KeySetError) as caught:
        parse_jwks(document)
    assert caught.value.way_forward


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["kty", "crv", "n", "e", "x", "y", "kid", "alg", "use", "key_ops", "k", "d"]),
            st.sampled_from(["RSA", "EC", "OKP", "P-256", "Ed25519", "AQAB", "", "sig", "RS256", "verify"])
            | st.integers()
            | st.none()
            | st.lists(st.text(max_size=3), max_size=2),
        ),
        max_size=4,
    )
)
def test_no_key_set_makes_it_raise_anything_else(entries: list[dict[str, Any]]) -> None:
    try:
        parsed = parse(*entries)
    except KeySetError:
        return
    assert all(key.shape in KEY_SHAPES.values() for key in parsed.keys)
