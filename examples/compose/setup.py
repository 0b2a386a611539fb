"""Makes what compose.yaml needs before anything starts: passwords, and a certificate for the gate from an authority of its own.

Each file goes to whoever reads it and to nobody else: the gate's secrets to the gate's user, the database's to the database's container.
What is there already stays, so that `docker compose up` can be run again.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import secrets
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

MADE = Path("/made")
GATE_USER = 64802  # of the image
LIFETIME = datetime.timedelta(days=90)


def main() -> None:
    os.umask(0o077)
    os.chown(MADE / "state", GATE_USER, GATE_USER)
    for role in ("superuser", "readonly", "readwrite"):
        password = secrets.token_urlsafe(24)
        if role != "superuser":
            password = place(MADE / "secrets" / f"shop-db-{role}" / "password", password, GATE_USER)
        # In a volume that the database's container alone mounts; which user it runs as is its image's affair.
        place(MADE / "initial" / role, password, 0, mode=0o444)
    folder = MADE / "secrets" / "shop-db-gate-tls"
    if not (folder / "tls.key").exists():
        now = datetime.datetime.now(datetime.UTC)  # noqa: TID251 - a program of its own, outside of sidegate: this is its one clock
        authority, certificate, key = make_certificate(now)
        place(MADE / "certificate" / "ca.crt", authority, 0, mode=0o444)
        place(folder / "tls.crt", certificate, GATE_USER)
        place(folder / "tls.key", key, GATE_USER)  # last: with it the pair is whole
    for directory in (MADE / "initial", MADE / "certificate"):
        directory.chmod(0o755)
    for directory in (MADE / "secrets", *(MADE / "secrets").iterdir()):
        os.chown(directory, GATE_USER, GATE_USER)


def place(path: Path, text: str, owner: int, mode: int = 0o400) -> str:
    """Write `text`, unless there is something already; what is there afterwards comes back."""
    if path.exists():
        return path.read_text("ascii")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "ascii")
    path.chmod(mode)
    os.chown(path, owner, owner)
    return text


def make_certificate(now: datetime.datetime) -> tuple[str, str, str]:
    """Authority, certificate and key in PEM. The authority's own key is forgotten: nobody signs another with it."""
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Sidegate compose authority")])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    blank = x509.CertificateBuilder().issuer_name(issuer).not_valid_before(now).not_valid_after(now + LIFETIME)
    authority = (
        blank.subject_name(issuer)
        .public_key(authority_key.public_key())
        .serial_number(x509.random_serial_number())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    certificate = (
        blank.subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return authority.public_bytes(pem).decode("ascii"), certificate.public_bytes(pem).decode("ascii"), private.decode("ascii")


if __name__ == "__main__":
    main()
