"""People of a tour: each gets a client certificate from the cluster's own signer, as an administrator would hand one out.

The API server then knows them by the certificate's names: CN is the username, each O a group (Kubernetes, X509 client certificates).
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from tests.support.cluster_client import ClusterClient

_SIGNER = "kubernetes.io/kube-apiserver-client"
_API = "certificates.k8s.io/v1"
_LIFETIME_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Person:
    username: str
    groups: tuple[str, ...]


def kubeconfig_for(person: Person, administrators: Path, client: ClusterClient, directory: Path) -> Path:
    """Write a kubeconfig for the person, with the cluster of the administrators' one."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = [x509.NameAttribute(NameOID.COMMON_NAME, person.username)]
    subject += [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in person.groups]
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(subject)).sign(key, hashes.SHA256())
    certificate = _signed(client, person.username.replace("@", "-at-"), request.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    document = yaml.safe_load(administrators.read_text())
    current = next(each["context"] for each in document["contexts"] if each["name"] == document["current-context"])
    user = {
        "client-certificate-data": base64.b64encode(certificate).decode(),
        "client-key-data": base64.b64encode(private).decode(),
    }
    document["users"] = [{"name": person.username, "user": user}]
    document["contexts"] = [{"name": "tour", "context": {"cluster": current["cluster"], "user": person.username}}]
    document["current-context"] = "tour"
    file = directory / f"{person.username}.kubeconfig"
    file.touch(mode=0o600)
    file.write_text(yaml.safe_dump(document))
    return file


def _signed(client: ClusterClient, name: str, request: bytes) -> bytes:
    spec = {
        "request": base64.b64encode(request).decode(),
        "signerName": _SIGNER,
        "usages": ["client auth"],
        "expirationSeconds": _LIFETIME_SECONDS,
    }
    asked = client.create(
        {"apiVersion": _API, "kind": "CertificateSigningRequest", "metadata": {"generateName": name}, "spec": spec}
    )
    try:
        approved = {"type": "Approved", "status": "True", "reason": "Tour", "message": "a person of the tour"}
        asked["status"] = {"conditions": [approved]}
        path = f"/apis/{_API}/certificatesigningrequests/{asked['metadata']['name']}/approval"
        client.request("PUT", path, asked)
        signed = client.wait_for(
            _API, "CertificateSigningRequest", asked["metadata"]["name"], lambda found: "certificate" in found.get("status", {})
        )
        return base64.b64decode(signed["status"]["certificate"])
    finally:
        client.delete(_API, "CertificateSigningRequest", asked["metadata"]["name"])
