"""TLS contexts that get their certificate from memory. Left out: which certificate, and when (`keeper`)."""

from __future__ import annotations

import os
import ssl
import tempfile


def listening_context(client_authority: str | None = None, minimum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2) -> ssl.SSLContext:
    """For a listener; `load_chain` gives it its certificate, at the start and at each rotation.

    With a client authority, clients without a certificate get in all the same: the kubelet's probes have none.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = minimum
    context.set_alpn_protocols(["http/1.1"])
    if client_authority is not None:
        context.load_verify_locations(cadata=client_authority)
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def load_chain(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """Into a context, also into one that is in use: handshakes from now on have it. `ssl` reads files alone; where the system has files
    without a name, the key never reaches a disk.

    Raises:
        ssl.SSLError: they don't belong together.
    """
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("sidegate-certificate")
        try:
            os.write(descriptor, certificate.rstrip() + b"\n" + key)
            context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)
        return
    with tempfile.NamedTemporaryFile() as file:
        file.write(certificate.rstrip() + b"\n" + key)
        file.flush()
        context.load_cert_chain(file.name)
