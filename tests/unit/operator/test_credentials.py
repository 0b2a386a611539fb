"""Where the API server is, and who we are to it."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from sidegate_operator.credentials import Credentials, CredentialsError

AUTHORITY = trustme.CA().cert_pem.bytes()


def kubeconfig(folder: Path, user: dict[str, Any], **cluster: Any) -> Path:
    authority = base64.b64encode(AUTHORITY).decode()
    document = {
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [
            {"name": "c", "cluster": {"server": "https://10.0.0.1:6443/", "certificate-authority-data": authority, **cluster}}
        ],
        "users": [{"name": "u", "user": user}],
    }
    file = folder / "kubeconfig"
    file.write_text(yaml.safe_dump(document))
    return file


def account(folder: Path, token: str = "first") -> Path:
    (folder / "token").write_text(token + "\n")
    (folder / "ca.crt").write_bytes(AUTHORITY)
    return folder


POD = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}


def test_a_pod_has_its_service_accounts_token_and_reads_it_anew(tmp_path: Path) -> None:
    found = Credentials.in_cluster(POD, account(tmp_path))
    assert (found.url, found.token()) == ("https://10.96.0.1:443", "first")
    (tmp_path / "token").write_text("second")
    assert found.token() == "second"
    assert found.tls(found.authority_pem()).get_ca_certs()


def test_an_ipv6_address_stands_in_brackets(tmp_path: Path) -> None:
    assert Credentials.in_cluster({**POD, "KUBERNETES_SERVICE_HOST": "fd00::1"}, account(tmp_path)).url == "https://[fd00::1]:443"


@pytest.mark.parametrize("environment", [{}, {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}])
def test_outside_a_pod_it_says_what_to_give(tmp_path: Path, environment: dict[str, str]) -> None:
    with pytest.raises(CredentialsError) as caught:
        Credentials.in_cluster(environment, account(tmp_path))
    assert "--kubeconfig" in caught.value.way_forward


@pytest.mark.parametrize("content", ["", "\n", "two words", "a\x00b"])
def test_a_token_file_without_a_token_is_refused(tmp_path: Path, content: str) -> None:
    found = Credentials.in_cluster(POD, account(tmp_path))
    (tmp_path / "token").write_text(content)
    with pytest.raises(CredentialsError):
        found.token()
    (tmp_path / "token").unlink()
    with pytest.raises(CredentialsError):
        found.token()


def test_a_kubeconfig_names_the_server_its_authority_and_a_token(tmp_path: Path) -> None:
    found = Credentials.from_kubeconfig(kubeconfig(tmp_path, {"token": "abc"}))
    assert (found.url, found.token(), found.authority_pem()) == ("https://10.0.0.1:6443", "abc", AUTHORITY)
    assert "abc" not in repr(found)


def test_a_kubeconfigs_token_file_wins_and_is_relative_to_it(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("from-file")
    assert Credentials.from_kubeconfig(kubeconfig(tmp_path, {"token": "abc", "tokenFile": "t"})).token() == "from-file"


@pytest.mark.parametrize(
    ("user", "cluster", "word"),
    [
        ({"exec": {"command": "aws"}}, {}, "exec"),
        ({"auth-provider": {}}, {}, "auth-provider"),
        ({"username": "u", "password": "p"}, {}, "username"),
        ({"token": "t", "as": "somebody"}, {}, "as"),
        ({"token": "t"}, {"insecure-skip-tls-verify": True}, "verification"),
        ({"token": "t"}, {"server": "http://10.0.0.1"}, "http://10.0.0.1"),
        ({"client-certificate-data": "%%%", "client-key-data": "%%%"}, {}, "base64"),
    ],
)
def test_refuses_what_it_doesnt_understand_of_a_kubeconfig(
    tmp_path: Path, user: dict[str, Any], cluster: dict[str, Any], word: str
) -> None:
    with pytest.raises(CredentialsError) as caught:
        Credentials.from_kubeconfig(kubeconfig(tmp_path, user, **cluster))
    assert word in str(caught.value)
    assert caught.value.way_forward


@pytest.mark.parametrize("text", ["[]", "{}", "a: [", "current-context: x"])
def test_refuses_what_is_no_kubeconfig(tmp_path: Path, text: str) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text(text)
    with pytest.raises(CredentialsError):
        Credentials.from_kubeconfig(file)


def test_certificates_that_are_none_are_said_to_be(tmp_path: Path) -> None:
    found = Credentials("https://x", authority=b"nonsense")
    with pytest.raises(CredentialsError):
        found.tls(found.authority_pem())
