"""Where the API server is and who we are to it: a pod's service account, or a kubeconfig.

Rules it keeps: a token in a file is read anew for each request, since the kubelet exchanges it within the hour; so is the cluster's
authority. Nothing is guessed: what a kubeconfig has that isn't understood is refused with the way forward.

Left out: exec and auth-provider plugins of kubeconfigs, which run programs; basic authentication, which Kubernetes no longer has.
"""

from __future__ import annotations

import base64
import binascii
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit

import yaml

from sidegate_operator.serving.tls import load_chain

ACCOUNT_DIR: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_MAX_FILE_BYTES: Final = 1024 * 1024
_REFUSED_KEYS: Final = {
    "exec": "it runs a program; make a kubeconfig with a token or a client certificate",
    "auth-provider": "Kubernetes has removed it; make a kubeconfig with a token or a client certificate",
    "username": "Kubernetes has no basic authentication; make a kubeconfig with a token or a client certificate",
    "as": "impersonation isn't supported; make a kubeconfig for the user itself",
}


class CredentialsError(Exception):
    """There is no way to the API server with what was given."""

    def __init__(self, problem: str, way_forward: str) -> None:
        super().__init__(problem)
        self.way_forward = way_forward


@dataclass(frozen=True, slots=True)
class Credentials:
    """INVARIANT: `url` is https. `authority` None: the machine's own authorities."""

    url: str
    authority: bytes | None = None
    authority_file: Path | None = None
    fixed_token: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    certificate: bytes | None = field(default=None, repr=False)
    key: bytes | None = field(default=None, repr=False)

    @classmethod
    def in_cluster(cls, environment: Mapping[str, str], account: Path = ACCOUNT_DIR) -> Self:
        """As a pod.

        Raises:
            CredentialsError: this isn't a pod with a service account's token.
        """
        host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT")
        token, authority = account / "token", account / "ca.crt"
        if not host or not port:
            raise CredentialsError("this process runs in no cluster", "run it in a pod, or give --kubeconfig")
        for file in (token, authority):
            if not file.is_file():
                raise CredentialsError(f"`{file}` isn't there", "let the pod mount its service account's token")
        address = f"[{host}]" if ":" in host else host
        return cls(f"https://{address}:{port}", authority_file=authority, token_file=token)

    @classmethod
    def from_kubeconfig(cls, file: Path) -> Self:
        """For the current context of a kubeconfig.

        Raises:
            CredentialsError: it can't be read, or has something that isn't supported.
        """
        try:
            document = yaml.safe_load(file.read_text("utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as problem:
            raise CredentialsError(f"kubeconfig `{file}` can't be read: {problem}", "give a kubeconfig in YAML") from problem
        if not isinstance(document, dict):
            raise CredentialsError(f"kubeconfig `{file}` isn't a mapping", "give a kubeconfig in YAML")
        context = _named(document, "context", document.get("current-context"), file)
        cluster = _named(document, "cluster", context.get("cluster"), file)
        user = _named(document, "user", context.get("user"), file)
        for key, way_forward in _REFUSED_KEYS.items():
            if key in user:
                raise CredentialsError(f"kubeconfig `{file}` has `{key}` for its user", way_forward)
        if cluster.get("insecure-skip-tls-verify"):
            raise CredentialsError(
                f"kubeconfig `{file}` skips the verification of TLS", "give certificate-authority-data instead"
            )
        url = str(cluster.get("server", "")).rstrip("/")
        if urlsplit(url).scheme != "https" or not urlsplit(url).hostname:
            raise CredentialsError(f"kubeconfig `{file}` has the server `{url}`", "give an address that starts with https://")
        token_file = user.get("tokenFile")
        return cls(
            url,
            authority=_content(cluster, "certificate-authority", file),
            fixed_token=None if token_file else user.get("token"),
            token_file=file.parent / token_file if token_file else None,
            certificate=_content(user, "client-certificate", file),
            key=_content(user, "client-key", file),
        )

    def token(self) -> str | None:
        """The bearer token as it is now.

        Raises:
            CredentialsError: its file can't be read, or has no token in it.
        """
        if self.token_file is None:
            return self.fixed_token
        found = _read(self.token_file).strip().decode("ascii", "replace")
        if not found or not found.isprintable() or " " in found:
            raise CredentialsError(f"`{self.token_file}` has no token in it", "see what writes it")
        return found

    def authority_pem(self) -> bytes | None:
        """The certificates that the API server's is verified against, as they are now.

        Raises:
            CredentialsError: their file can't be read.
        """
        return _read(self.authority_file) if self.authority_file is not None else self.authority

    def tls(self, authority: bytes | None) -> ssl.SSLContext:
        """For a client that trusts `authority` and shows our certificate.

        Raises:
            CredentialsError: what there is makes no TLS.
        """
        try:
            context = ssl.create_default_context(cadata=authority.decode("ascii") if authority is not None else None)
            if self.certificate is not None and self.key is not None:
                load_chain(context, self.certificate, self.key)
        except (ssl.SSLError, ValueError, OSError) as problem:
            raise CredentialsError(f"the certificates for `{self.url}` can't be used: {problem}", "give them as PEM") from problem
        return context


def _named(document: Mapping[str, Any], kind: str, name: object, file: Path) -> Mapping[str, Any]:
    entries = document.get(f"{kind}s")
    for each in entries if isinstance(entries, list) else []:
        if isinstance(each, dict) and each.get("name") == name and isinstance(each.get(kind), dict):
            found: Mapping[str, Any] = each[kind]
            return found
    raise CredentialsError(f"kubeconfig `{file}` has no {kind} `{name}`", "set its current-context to one that is complete")


def _content(entry: Mapping[str, Any], key: str, kubeconfig: Path) -> bytes | None:
    """What stands in the kubeconfig itself, or in the file that it names."""
    inline, named = entry.get(f"{key}-data"), entry.get(key)
    if inline:
        try:
            return base64.b64decode(inline, validate=True)
        except (binascii.Error, ValueError, TypeError) as problem:
            raise CredentialsError(f"kubeconfig `{kubeconfig}` has `{key}-data` that isn't base64", "write it anew") from problem
    return _read(kubeconfig.parent / named) if named else None


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(_MAX_FILE_BYTES)
    except OSError as problem:
        raise CredentialsError(
            f"`{file}` can't be read: {problem.strerror}", "see that it is there for this process"
        ) from problem
