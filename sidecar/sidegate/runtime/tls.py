"""TLS on both sides of the gate: contexts from files, taken up anew when the files change, and a target's channel binding.

Rules: TLS 1.2 or newer; no renegotiation, no session tickets (a resumed session must not carry an earlier login's trust); a key that asks
for a passphrase is refused, never asked for; a reload that fails keeps the last good context and says so. Whoever accepts direct TLS
checks that ALPN chose `postgresql`: Python's context goes on without a common protocol, PostgreSQL doesn't.

Left out: client certificates, and the handshake itself, which is the relay's.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes

from sidegate.policy.config import ClientTlsConfig, TargetTlsConfig, TargetTlsMode

ALPN_PROTOCOL: Final = "postgresql"  # registered with IANA; mandatory for direct TLS since PostgreSQL 17


class FileState(NamedTuple):
    """What changes when a file is written, replaced, or switched behind a symbolic link."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int


class TlsError(Exception):
    """A context can't be made from these files. `way_forward` says what to mend."""

    def __init__(self, problem: str, way_forward: str) -> None:
        super().__init__(problem)
        self.way_forward = way_forward


def _refuse_passphrase() -> str:
    raise TlsError("the private key asks for a passphrase", "give the gate a key without one, in a file that only it can read")


def context_for_clients(cert_file: str, key_file: str) -> ssl.SSLContext:
    """What the gate shows to its clients.

    Raises:
        TlsError: a file is missing, unreadable or no PEM, or the key isn't the certificate's.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _harden(context)
    context.options |= ssl.OP_NO_TICKET | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.num_tickets = 0
    for path in (cert_file, key_file):
        _check_readable(path)
    try:
        context.load_cert_chain(cert_file, key_file, password=_refuse_passphrase)
    except ssl.SSLError as error:
        raise TlsError(
            f"certificate `{cert_file}` and key `{key_file}` can't be used: {error.reason or 'not PEM'}",
            "write a PEM certificate chain and its own PEM key",
        ) from error
    return context


def context_for_target(tls: TargetTlsConfig) -> ssl.SSLContext | None:
    """How the gate speaks to its target; None for `Loopback`, which has no TLS.

    `Require` verifies the chain too when a CA file is given, as libpq does, but not the name. Without a CA file `VerifyFull` trusts this
    machine's store.

    Raises:
        TlsError: the CA file is missing, unreadable or has no certificate.
    """
    if tls.mode is TargetTlsMode.LOOPBACK:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _harden(context)
    if tls.mode is not TargetTlsMode.VERIFY_FULL:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED if tls.ca_file else ssl.CERT_NONE
    if tls.ca_file:
        _check_readable(tls.ca_file)
        try:
            context.load_verify_locations(tls.ca_file)
        except ssl.SSLError as error:
            raise TlsError(
                f"`{tls.ca_file}` has no usable certificate", "write the target's CA certificate there as PEM"
            ) from error
    elif context.verify_mode is ssl.CERT_REQUIRED:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    return context


def _harden(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols([ALPN_PROTOCOL])


def _check_readable(path: str) -> None:
    """OpenSSL's own error doesn't say which file it means."""
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise TlsError(f"`{path}` can't be read: {error.strerror}", "mount the file there, readable for the gate") from error


def file_state(path: str | Path) -> FileState | None:
    """None: it isn't there."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return FileState(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


class WatchedContext:
    """A context that follows its files: `current` for each new connection, `refresh` now and then.

    The first context has to be good; a later one that isn't leaves the last good one in use. Open connections keep what they began with.
    """

    def __init__(self, make: Callable[[], ssl.SSLContext], files: tuple[str, ...]) -> None:
        self._make = make
        self._files = files
        self._seen = self._state()
        self.current = make()
        self.problem: TlsError | None = None

    def _state(self) -> tuple[FileState | None, ...]:
        return tuple(file_state(path) for path in self._files)

    def refresh(self) -> bool:
        """Take up changed files; true when `current` or `problem` changed.

        The state is read before the files are, so a pair that is written in two steps and caught between them is tried again.
        """
        state = self._state()
        if state == self._seen:
            return False
        self._seen = state
        try:
            self.current = self._make()
        except TlsError as error:
            self.problem = error
        else:
            self.problem = None
        return True


def watch_for_clients(tls: ClientTlsConfig) -> WatchedContext | None:
    """None when the config names no certificate: then there is no TLS at all.

    Raises:
        TlsError: only one of the two files is named, or they can't be used.
    """
    if tls.cert_file is None and tls.key_file is None:
        return None
    if tls.cert_file is None or tls.key_file is None:
        raise TlsError("TLS for clients needs both a certificate and a key", "name both files, or neither")
    cert_file, key_file = tls.cert_file, tls.key_file
    return WatchedContext(lambda: context_for_clients(cert_file, key_file), (cert_file, key_file))


def watch_for_target(tls: TargetTlsConfig) -> WatchedContext | None:
    """None for `Loopback`.

    Raises:
        TlsError: the CA file can't be used.
    """
    if tls.mode is TargetTlsMode.LOOPBACK:
        return None

    def make() -> ssl.SSLContext:
        context = context_for_target(tls)
        assert context is not None
        return context

    return WatchedContext(make, (tls.ca_file,) if tls.ca_file else ())


def channel_binding(certificate: bytes) -> bytes | None:
    """The `tls-server-end-point` binding of a certificate in DER (RFC 5929, section 4.1): its hash by its own signature's hash function.

    MD5 and SHA-1 are replaced by SHA-256, as the RFC says. None where the RFC defines nothing (Ed25519, Ed448), or for a certificate that
    can't be read: then SCRAM-SHA-256-PLUS isn't offered.
    """
    try:
        algorithm = x509.load_der_x509_certificate(certificate).signature_hash_algorithm
    except (ValueError, UnsupportedAlgorithm):
        return None
    if algorithm is None:
        return None
    digest = hashes.Hash(hashes.SHA256() if isinstance(algorithm, hashes.MD5 | hashes.SHA1) else algorithm)
    digest.update(certificate)
    return digest.finalize()


def channel_binding_of(connection: ssl.SSLObject | ssl.SSLSocket) -> bytes | None:
    """The binding of the certificate that the target showed on this connection, verified or not."""
    certificate = connection.getpeercert(binary_form=True)
    return channel_binding(certificate) if certificate else None
