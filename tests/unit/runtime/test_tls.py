from __future__ import annotations

import base64
import hashlib
import os
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import NameOID

from sidegate.policy.config import ClientTlsConfig, TargetTlsConfig, TargetTlsMode
from sidegate.runtime import tls


def write_pair(folder: Path, authority: trustme.CA, name: str = "gate.example") -> tuple[str, str]:
    issued = authority.issue_cert(name)
    cert, key = folder / "tls.crt", folder / "tls.key"
    cert.unlink(missing_ok=True)
    key.unlink(missing_ok=True)
    for blob in issued.cert_chain_pems:
        blob.write_to_path(cert, append=True)
    issued.private_key_pem.write_to_path(key)
    return str(cert), str(key)


def shake_hands(
    ours: ssl.SSLContext, theirs: ssl.SSLContext, name: str | None = "gate.example"
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """A whole handshake in memory: (the listening side, the connecting side)."""
    to_listener, to_connector = ssl.MemoryBIO(), ssl.MemoryBIO()
    listener = ours.wrap_bio(to_listener, to_connector, server_side=True)
    connector = theirs.wrap_bio(to_connector, to_listener, server_hostname=name)
    open_sides = [connector, listener]
    for _ in range(10):
        for side in list(open_sides):
            try:
                side.do_handshake()
                open_sides.remove(side)
            except ssl.SSLWantReadError:
                continue
    assert open_sides == []
    return listener, connector


def client_of(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.set_alpn_protocols(["postgresql"])
    return context


def test_clients_get_the_certificate_of_the_files_and_the_alpn_of_postgresql(tmp_path: Path) -> None:
    authority = trustme.CA()
    listener, connector = shake_hands(tls.context_for_clients(*write_pair(tmp_path, authority)), client_of(authority))
    assert listener.selected_alpn_protocol() == "postgresql"
    assert connector.version() == "TLSv1.3"


def test_tls_1_2_is_accepted_and_tls_1_1_is_not(tmp_path: Path) -> None:
    authority = trustme.CA()
    ours = tls.context_for_clients(*write_pair(tmp_path, authority))
    assert ours.minimum_version is ssl.TLSVersion.TLSv1_2
    older = client_of(authority)
    older.maximum_version = ssl.TLSVersion.TLSv1_2
    assert shake_hands(ours, older)[1].version() == "TLSv1.2"


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
def test_a_client_that_only_speaks_tls_1_1_fails_the_handshake(tmp_path: Path) -> None:
    authority = trustme.CA()
    ours = tls.context_for_clients(*write_pair(tmp_path, authority))
    ancient = client_of(authority)
    ancient.set_ciphers("ALL:@SECLEVEL=0")
    ancient.minimum_version = ssl.TLSVersion.TLSv1_1
    ancient.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError, match=r"(?i)protocol"):
        shake_hands(ours, ancient)


def test_a_client_gets_no_session_ticket_to_resume_with(tmp_path: Path) -> None:
    authority = trustme.CA()
    context = tls.context_for_clients(*write_pair(tmp_path, authority))
    older = client_of(authority)
    older.maximum_version = ssl.TLSVersion.TLSv1_2
    _, connector = shake_hands(context, older)
    assert connector.session is not None
    assert not connector.session.has_ticket
    assert context.num_tickets == 0  # TLS 1.3 sends its tickets after the handshake


@pytest.mark.parametrize("missing", ["tls.crt", "tls.key"])
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    cert, key = write_pair(tmp_path, trustme.CA())
    (tmp_path / missing).unlink()
    with pytest.raises(tls.TlsError, match=rf"{missing}` can't be read: No such file"):
        tls.context_for_clients(cert, key)


def test_a_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    authority = trustme.CA()
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    cert, _ = write_pair(tmp_path / "one", authority)
    _, key = write_pair(tmp_path / "two", authority)
    with pytest.raises(tls.TlsError, match="KEY_VALUES_MISMATCH") as caught:
        tls.context_for_clients(cert, key)
    assert caught.value.way_forward


def test_a_key_with_a_passphrase_is_refused_and_never_asked_for(tmp_path: Path) -> None:
    cert, key = write_pair(tmp_path, trustme.CA())
    private = serialization.load_pem_private_key(Path(key).read_bytes(), None)
    sealed = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
    )
    Path(key).write_bytes(sealed)
    with pytest.raises(tls.TlsError, match="passphrase"):
        tls.context_for_clients(cert, key)


def test_one_file_without_the_other_is_refused(tmp_path: Path) -> None:
    cert, key = write_pair(tmp_path, trustme.CA())
    for half in (ClientTlsConfig(cert_file=cert), ClientTlsConfig(key_file=key)):
        with pytest.raises(tls.TlsError, match="both"):
            tls.watch_for_clients(half)


def test_no_files_mean_no_tls() -> None:
    assert tls.watch_for_clients(ClientTlsConfig()) is None


def test_a_new_pair_is_taken_up_and_old_connections_keep_theirs(tmp_path: Path) -> None:
    first, second = trustme.CA(), trustme.CA()
    cert, key = write_pair(tmp_path, first)
    watched = tls.watch_for_clients(ClientTlsConfig(cert_file=cert, key_file=key))
    assert watched is not None
    assert not watched.refresh()
    before = watched.current
    write_pair(tmp_path, second)
    assert watched.refresh()
    assert watched.problem is None
    shake_hands(watched.current, client_of(second))
    shake_hands(before, client_of(first))
    assert not watched.refresh()


def test_half_a_pair_keeps_the_last_good_one_until_the_other_half_is_there(tmp_path: Path) -> None:
    first, second = trustme.CA(), trustme.CA()
    cert, key = write_pair(tmp_path, first)
    watched = tls.watch_for_clients(ClientTlsConfig(cert_file=cert, key_file=key))
    assert watched is not None
    (tmp_path / "new").mkdir()
    new_cert, new_key = write_pair(tmp_path / "new", second)
    os.replace(new_cert, cert)
    assert watched.refresh()
    assert watched.problem is not None
    assert watched.problem.way_forward
    shake_hands(watched.current, client_of(first))
    os.replace(new_key, key)
    assert watched.refresh()
    assert watched.problem is None
    shake_hands(watched.current, client_of(second))


def test_a_pair_switched_behind_a_symbolic_link_is_taken_up(tmp_path: Path) -> None:
    first, second = trustme.CA(), trustme.CA()
    for number, authority in enumerate((first, second)):
        (tmp_path / f"..v{number}").mkdir()
        write_pair(tmp_path / f"..v{number}", authority)
    (tmp_path / "..data").symlink_to("..v0")
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    watched = tls.watch_for_clients(ClientTlsConfig(cert_file=str(tmp_path / "tls.crt"), key_file=str(tmp_path / "tls.key")))
    assert watched is not None
    (tmp_path / "..tmp").symlink_to("..v1")
    os.replace(tmp_path / "..tmp", tmp_path / "..data")
    assert watched.refresh()
    shake_hands(watched.current, client_of(second))


def test_loopback_has_no_tls() -> None:
    assert tls.context_for_target(TargetTlsConfig(mode=TargetTlsMode.LOOPBACK)) is None
    assert tls.watch_for_target(TargetTlsConfig(mode=TargetTlsMode.LOOPBACK)) is None


def write_ca(folder: Path, authority: trustme.CA) -> str:
    authority.cert_pem.write_to_path(folder / "ca.crt")
    return str(folder / "ca.crt")


def target_context(mode: TargetTlsMode, ca_file: str | None) -> ssl.SSLContext:
    context = tls.context_for_target(TargetTlsConfig(mode=mode, ca_file=ca_file))
    assert context is not None
    return context


def test_verify_full_takes_the_targets_own_name_only(tmp_path: Path) -> None:
    authority = trustme.CA()
    target = tls.context_for_clients(*write_pair(tmp_path, authority, "db.example"))
    ours = target_context(TargetTlsMode.VERIFY_FULL, write_ca(tmp_path, authority))
    shake_hands(target, ours, "db.example")
    with pytest.raises(ssl.SSLCertVerificationError, match=r"doesn't match|not valid for|mismatch"):
        shake_hands(target, ours, "other.example")


def test_verify_full_refuses_a_certificate_of_another_authority(tmp_path: Path) -> None:
    target = tls.context_for_clients(*write_pair(tmp_path, trustme.CA(), "db.example"))
    ours = target_context(TargetTlsMode.VERIFY_FULL, write_ca(tmp_path, trustme.CA()))
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(target, ours, "db.example")


def test_verify_full_without_a_ca_file_still_verifies(tmp_path: Path) -> None:
    target = tls.context_for_clients(*write_pair(tmp_path, trustme.CA(), "db.example"))
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(target, target_context(TargetTlsMode.VERIFY_FULL, None), "db.example")


def test_require_takes_any_certificate_but_with_a_ca_file_only_its_own(tmp_path: Path) -> None:
    authority = trustme.CA()
    target = tls.context_for_clients(*write_pair(tmp_path, authority, "db.example"))
    shake_hands(target, target_context(TargetTlsMode.REQUIRE, None), "other.example")
    shake_hands(target, target_context(TargetTlsMode.REQUIRE, write_ca(tmp_path, authority)), "other.example")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(target, target_context(TargetTlsMode.REQUIRE, write_ca(tmp_path, trustme.CA())), "db.example")


def test_a_ca_file_without_a_certificate_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("not a certificate\n")
    with pytest.raises(tls.TlsError, match="no usable certificate"):
        target_context(TargetTlsMode.VERIFY_FULL, str(tmp_path / "ca.crt"))


def test_a_new_ca_file_is_taken_up_and_a_broken_one_is_not(tmp_path: Path) -> None:
    authority = trustme.CA()
    target = tls.context_for_clients(*write_pair(tmp_path, authority, "db.example"))
    ca_file = write_ca(tmp_path, trustme.CA())
    watched = tls.watch_for_target(TargetTlsConfig(mode=TargetTlsMode.VERIFY_FULL, ca_file=ca_file))
    assert watched is not None
    write_ca(tmp_path, authority)
    assert watched.refresh()
    shake_hands(target, watched.current, "db.example")
    Path(ca_file).write_text("broken")
    assert watched.refresh()
    assert watched.problem is not None
    shake_hands(target, watched.current, "db.example")


Signing = Callable[[x509.CertificateBuilder], x509.Certificate]


def self_signed(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey, sign: Signing) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "db.example")])
    start = datetime(2026, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, start, start + timedelta(days=1))
    return sign(builder).public_bytes(serialization.Encoding.DER)


RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()
PSS = padding.PSS(padding.MGF1(hashes.SHA384()), hashes.SHA384().digest_size)


@pytest.mark.parametrize(
    ("certificate", "function"),
    [
        (self_signed(RSA_KEY, lambda b: b.sign(RSA_KEY, hashes.SHA256())), "sha256"),
        (self_signed(RSA_KEY, lambda b: b.sign(RSA_KEY, hashes.SHA512())), "sha512"),
        (self_signed(EC_KEY, lambda b: b.sign(EC_KEY, hashes.SHA384())), "sha384"),
        (self_signed(RSA_KEY, lambda b: b.sign(RSA_KEY, hashes.SHA384(), rsa_padding=PSS)), "sha384"),
    ],
    ids=["rsa-sha256", "rsa-sha512", "ecdsa-sha384", "rsa-pss-sha384"],
)
def test_channel_binding_hashes_by_the_signatures_own_function(certificate: bytes, function: str) -> None:
    assert tls.channel_binding(certificate) == hashlib.new(function, certificate).digest()


# Self-signed by `openssl req -x509 -sha1` (ECDSA) and `-md5` (RSA): signatures that are no longer made, but still met.
SHA1_CERTIFICATE = base64.b64decode(
    "MIIBbDCCARSgAwIBAgIUDWI7pjMXMB3jM3FzHudh17G8yGswCQYHKoZIzj0EATANMQswCQYDVQQDDAJkYjAeFw0yNjExMjUwMTAzMTZaFw0yNjExMjYwMT"
    "AzMTZaMA0xCzAJBgNVBAMMAmRiMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEh6PrE7HnllcK8d/P8LCJENh9McGqbhB92CxMPs5AiUtp5kWTc861WXr2"
    "4GEHdwWVNCTNQZZ08aUGoLI51wjeJ6NTMFEwHQYDVR0OBBYEFPsOwxWmcNICIojO34GxBblARNNVMB8GA1UdIwQYMBaAFPsOwxWmcNICIojO34GxBblARN"
    "NVMA8GA1UdEwEB/wQFMAMBAf8wCQYHKoZIzj0EAQNHADBEAiBwqXLyxs+BStEwrIkH/wh3L/yXMiEWPNQNEiOAaA0A+wIgTiUKiNpeas6Gjgw16+De/6bK"
    "oEbah9Cruu7E3pHYO9E="
)
MD5_CERTIFICATE = base64.b64decode(
    "MIIB9jCCAV+gAwIBAgIUCVYxusR9kWI7x9IiXas29voJyXgwDQYJKoZIhvcNAQEEBQAwDTELMAkGA1UEAwwCZGIwHhcNMjYxMTI1MDEwMzE2WhcNMjYxMT"
    "I2MDEwMzE2WjANMQswCQYDVQQDDAJkYjCBnzANBgkqhkiG9w0BAQEFAAOBjQAwgYkCgYEAnebN6ktm2oM5ktWjL58i39diOQshcO011P5C/NQ80gZfyr7r"
    "CNPotPQfYIRsC3nvdPA3yI3dDcaITSIXktKS7Rz2USlh/r2PGzDebU+BKFdRTYpf9vIoi2iD9ySFUtR5CNGLAUhUOuFJATbVsflyZ/Vy7IeiBoIkddkNEy"
    "2ByrcCAwEAAaNTMFEwHQYDVR0OBBYEFKPuhRJIzXBVayMRAq/7T7mdRU6iMB8GA1UdIwQYMBaAFKPuhRJIzXBVayMRAq/7T7mdRU6iMA8GA1UdEwEB/wQF"
    "MAMBAf8wDQYJKoZIhvcNAQEEBQADgYEAm8V3RquasbOCiw5nK33JvQgQMpzCGy0H1zU7Pv6mQryvp97tc7LzkvwhGH95yk3mKRdf8J/Q1Um1mjZQ+FhvDJ"
    "7g5VwoNbNn6GAJmP2c3sMP0T+3p33oBOQ36ku+oYexKzgYuDwQCX2VnarP0B0/rg3wZVy0VQ0lqN0Vj2/lGhs="
)


@pytest.mark.parametrize("certificate", [SHA1_CERTIFICATE, MD5_CERTIFICATE], ids=["sha1", "md5"])
def test_channel_binding_replaces_weak_functions_by_sha_256(certificate: bytes) -> None:
    signed_with = x509.load_der_x509_certificate(certificate).signature_hash_algorithm
    assert isinstance(signed_with, hashes.SHA1 | hashes.MD5)
    assert tls.channel_binding(certificate) == hashlib.sha256(certificate).digest()


def test_channel_binding_is_undefined_for_ed25519_and_for_what_is_no_certificate() -> None:
    assert tls.channel_binding(self_signed(ED_KEY, lambda b: b.sign(ED_KEY, None))) is None
    assert tls.channel_binding(b"\x30\x03not") is None


def test_channel_binding_of_a_connection_is_that_of_the_certificate_shown_even_when_unverified(tmp_path: Path) -> None:
    cert, key = write_pair(tmp_path, trustme.CA(), "db.example")
    _, ours = shake_hands(tls.context_for_clients(cert, key), target_context(TargetTlsMode.REQUIRE, None), None)
    shown = x509.load_pem_x509_certificate(Path(cert).read_bytes()).public_bytes(serialization.Encoding.DER)
    assert tls.channel_binding_of(ours) == hashlib.sha256(shown).digest()
