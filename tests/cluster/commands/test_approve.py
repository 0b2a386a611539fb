"""`sidegate approvals`, `approve` and `deny` in a cluster: real admission, real guards, the operator counts."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.admission import DEVELOPERS, OPERATOR, REQUESTER, request_of, target
from tests.support.api_server import ADMIN_GROUP
from tests.support.cluster_client import ApiError
from tests.support.installation import Installation
from tests.support.processes import wait_until

VERSION = "sidegate.dev/v1alpha1"
DBA = ("dba",)


@pytest.fixture
def asked(installation: Installation, namespace: str) -> str:
    return make(installation, namespace)


def make(installation: Installation, namespace: str, **spec: Any) -> str:
    """A request as the operator makes it, for a target that it knows: without one it is withdrawn."""
    admin = installation.api.admin
    admin.apply(target(namespace))
    admin.wait_for(VERSION, "ProtectedTarget", "shop-db", lambda found: "status" in found, namespace=namespace)
    made = installation.api.admin.acting_as(OPERATOR).create(request_of(namespace, **spec))
    name: str = made["metadata"]["name"]
    return name


def get(installation: Installation, namespace: str, name: str) -> dict[str, Any]:
    return installation.api.admin.get(VERSION, "ApprovalRequest", name, namespace=namespace)


def test_an_approver_sees_the_whole_request_approves_it_and_sees_it_counted(
    installation: Installation, namespace: str, asked: str
) -> None:
    said = installation.sidegate("approve", asked, "-n", namespace, "--yes", "-c", "fine with me", user="dana", groups=DBA)
    assert (said.exit_code, said.stderr) == (0, "")
    lines = said.stdout.splitlines()
    assert lines[0] == f"pending  {asked}  (0 of 1 approvals)"
    assert f"  on         {namespace}/shop-db" in lines
    assert "    | ALTER TABLE prod.ledger ADD COLUMN note text" in lines
    assert any(line.startswith("  asked by   ann@example.com through cursor") for line in lines)
    assert lines[-2:] == [f"approved  {asked}  by dana", f"approved  {asked}  (1 of 1 approvals)"]
    found = get(installation, namespace, asked)
    assert found["status"]["phase"] == "Approved"
    assert [(each["by"], each["decision"], each["comment"]) for each in found["spec"]["decisions"]] == [
        ("dana", "Approved", "fine with me")
    ]


def test_one_who_denies_ends_it(installation: Installation, namespace: str) -> None:
    name = make(installation, namespace, required=2)
    said = installation.sidegate("deny", name, "-n", namespace, "--yes", user="dana", groups=DBA)
    assert said.exit_code == 0, said.stderr
    assert said.stdout.splitlines()[-1].startswith(f"denied  {name}")
    assert get(installation, namespace, name)["status"]["phase"] == "Denied"


def test_the_first_of_two_approvers_is_told_that_one_more_must_approve(installation: Installation, namespace: str) -> None:
    name = make(installation, namespace, required=2)
    said = installation.sidegate("approve", name, "-n", namespace, "--yes", user="dana", groups=DBA)
    assert said.exit_code == 0, said.stderr
    assert said.stdout.splitlines()[-1] == f"pending  {name}  (1 of 2 approvals; 1 more must approve)"


@pytest.mark.parametrize(
    ("user", "groups", "problem", "way_forward"),
    [
        (REQUESTER["username"], DBA, "`ann@example.com` asked for it and can't decide on it", "ask "),
        (REQUESTER["username"], (*DBA, ADMIN_GROUP), "`ann@example.com` asked for it and can't decide on it", "ask "),
        ("eve", (), "`eve` is not an approver of", "ask `chief` or "),
    ],
    ids=["who asks", "who asks, cluster-admin", "an outsider"],
)
def test_a_refusal_is_told_in_the_words_of_admission_alone(
    installation: Installation, namespace: str, asked: str, user: str, groups: tuple[str, ...], problem: str, way_forward: str
) -> None:
    said = installation.sidegate("approve", asked, "-n", namespace, "--yes", user=user, groups=groups)
    assert said.exit_code == 1
    first, second = said.stderr.splitlines()
    assert first.startswith(f"sidegate approve: {problem}")
    assert second.startswith(f"hint: {way_forward}")
    assert "webhook" not in said.stderr
    assert "decisions" not in get(installation, namespace, asked)["spec"]


def test_who_may_not_read_requests_is_told_so(installation: Installation, namespace: str, asked: str) -> None:
    kubeconfig = str(installation.kubeconfig("mallory", ()))
    said = installation.sidegate("approve", asked, "-n", namespace, "--yes", "--kubeconfig", kubeconfig)
    assert said.exit_code == 1
    assert 'User "mallory" cannot get resource "approvalrequests"' in said.stderr
    assert "hint: have the cluster's administrator grant you that" in said.stderr


def test_while_the_webhook_is_down_an_approver_is_told_what_to_see_to(
    installation: Installation, namespace: str, asked: str
) -> None:
    with installation.admission.webhook_down():
        said = installation.sidegate("approve", asked, "-n", namespace, "--yes", user="dana", groups=DBA)
    assert said.exit_code == 1
    assert "sidegate approve: nobody can decide while Sidegate's webhook doesn't answer: connection refused" in said.stderr
    assert "kubectl -n sidegate-system get pods" in said.stderr


def test_without_the_webhook_configuration_nothing_is_approved_and_the_hint_says_what_is_missing(
    installation: Installation, namespace: str, asked: str
) -> None:
    admin = installation.api.admin
    admin.delete("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration", "sidegate")
    try:
        patched: list[str] = []

        def is_unstamped() -> bool:
            said = installation.sidegate("approve", asked, "-n", namespace, "--yes", "--no-wait", user="eve")
            patched[:] = [said.stderr]
            return "not an approver" not in said.stderr

        wait_until(is_unstamped, "the API server to forget the webhook", 30)
        assert "nobody stamped who decided" in patched[0]
        assert "hint: " in patched[0]
    finally:
        installation.admission.apply_objects()
        wait_until(installation.admission.is_ready, "the webhook to be trusted again", 30)
        wait_until(lambda: is_stamped(installation, namespace, asked), "decisions to be stamped again", 30)
    assert "decisions" not in get(installation, namespace, asked)["spec"]


def is_stamped(installation: Installation, namespace: str, name: str) -> bool:
    """Whether an approver's decision would be taken now."""
    dana = installation.api.admin.acting_as("dana", [*DBA, DEVELOPERS])
    path = dana.path_of(VERSION, "ApprovalRequest", name, namespace=namespace)
    patch = {"spec": {"decision": "Approved"}}
    try:
        tried = dana.request("PATCH", path, patch, query={"dryRun": "All"}, content_type="application/merge-patch+json")
    except ApiError:
        return False
    return bool(tried["spec"].get("decisions"))


def test_a_request_that_has_ended_is_shown_and_not_decided(installation: Installation, namespace: str, asked: str) -> None:
    assert installation.sidegate("deny", asked, "-n", namespace, "--yes", user="dana", groups=DBA).exit_code == 0
    said = installation.sidegate("approve", asked, "-n", namespace, "--yes", user="dan", groups=DBA)
    assert said.exit_code == 1
    assert f"`{asked}` is Denied already" in said.stderr
    assert "    | ALTER TABLE" in said.stdout


def test_what_is_no_request_is_named_with_its_namespace(installation: Installation, namespace: str) -> None:
    said = installation.sidegate("approve", "nothing", "-n", namespace, "--yes")
    assert said.exit_code == 1
    assert f"there is no approval request `nothing` in namespace `{namespace}` of the cluster of context `tests`" in said.stderr


def test_without_a_terminal_and_yes_nothing_is_decided(installation: Installation, namespace: str, asked: str) -> None:
    said = installation.sidegate("approve", asked, "-n", namespace, user="dana", groups=DBA, stdin="y\n")
    assert said.exit_code == 2
    assert "give --yes" in said.stderr
    assert "decisions" not in get(installation, namespace, asked)["spec"]


@pytest.mark.parametrize(("answer", "status", "decided"), [("y", 0, ["dana"]), ("", 1, []), ("n", 1, [])])
def test_on_a_terminal_it_asks_who_one_is_to_the_api_server(
    installation: Installation, namespace: str, asked: str, answer: str, status: int, decided: list[str]
) -> None:
    code, said = on_a_terminal(
        [sys.executable, "-m", "sidegate.cli.main", "approve", asked, "-n", namespace],
        installation.kubeconfig("dana", (*DBA, DEVELOPERS)),
        f"{answer}\n",
    )
    assert code == status, said
    assert "approve it as dana, in the cluster of context `tests`? it is final [y/N]:" in said
    assert [each["by"] for each in get(installation, namespace, asked)["spec"].get("decisions", ())] == decided


def on_a_terminal(command: list[str], kubeconfig: Path, typed: str) -> tuple[int, str]:
    """Exit status and all that was printed."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "KUBECONFIG": str(kubeconfig), "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("SIDEGATE_STATE", None)
    with subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment) as process:
        os.write(ours, typed.encode())
        said, _ = process.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    return process.returncode, said.decode()


def test_a_version_that_was_not_seen_is_decided_only_if_it_asks_the_same(installation: Installation, namespace: str) -> None:
    """Another approver's decision makes a new version of the request; it still asks what was shown."""
    name = make(installation, namespace, required=2)
    kubeconfig = installation.kubeconfig("dana", (*DBA, DEVELOPERS))
    ours, theirs = pty.openpty()
    environment = {**os.environ, "KUBECONFIG": str(kubeconfig), "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("SIDEGATE_STATE", None)
    command = [sys.executable, "-m", "sidegate.cli.main", "approve", name, "-n", namespace]
    with subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert b"approve it" in process.stderr.read(10)  # it has read the request, and asks
        assert installation.sidegate("approve", name, "-n", namespace, "--yes", user="dan", groups=DBA).exit_code == 0
        os.write(ours, b"y\n")
        said, errors = process.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    assert process.returncode == 0, errors
    assert said.decode().splitlines()[-2:] == [f"approved  {name}  by dana", f"approved  {name}  (2 of 2 approvals)"]
    assert {each["by"] for each in get(installation, namespace, name)["spec"]["decisions"]} == {"dan", "dana"}


def test_the_list_has_what_is_open_in_the_namespace_or_in_all(installation: Installation, namespace: str, asked: str) -> None:
    other = installation.api.create_namespace()
    elsewhere, ended = make(installation, other), make(installation, namespace)
    assert installation.sidegate("deny", ended, "-n", namespace, "--yes", user="dana", groups=DBA).exit_code == 0
    here = installation.sidegate("approvals", "-n", namespace).stdout
    assert asked in here
    assert "ALTER TABLE prod.ledger" in here
    assert elsewhere not in here
    assert ended not in here
    assert f"{other}/shop-db" in installation.sidegate("approvals", "-A").stdout
    assert ended in installation.sidegate("approvals", "list", "-n", namespace, "--all").stdout
    listed = json.loads(installation.sidegate("approvals", "-n", namespace, "-o", "json").stdout)
    assert [each["metadata"]["name"] for each in listed["items"]] == [asked]


def test_a_namespace_with_nothing_to_decide_says_so(installation: Installation, namespace: str) -> None:
    said = installation.sidegate("approvals", "-n", namespace)
    assert (said.exit_code, said.stdout) == (0, "")
    assert f"nothing waits for approval in namespace `{namespace}` of the cluster of context `tests`" in said.stderr


def test_watch_prints_what_comes(installation: Installation, namespace: str, asked: str) -> None:
    said = installation.sidegate("approvals", "watch", "-n", namespace, "--count", "1")
    assert said.stdout.startswith(f"{asked}  Pending 0/1  ann@example.com  ALTER TABLE")


def test_texts_of_a_request_don_t_steer_the_terminal(installation: Installation, namespace: str) -> None:
    name = make(installation, namespace, statement="SELECT 1 --\x1b[2J\u202e\nSELECT 2", hiddenCharacters=["U+001B", "U+202E"])
    said = installation.sidegate("approvals", "show", name, "-n", namespace).stdout
    assert "    | SELECT 1 --\\x1b[2J\\u202e" in said
    assert "    | SELECT 2" in said
    as_json = installation.sidegate("approvals", "show", name, "-n", namespace, "-o", "json").stdout
    assert as_json.isascii()
    assert "\x1b" not in as_json


def test_a_kubeconfig_that_impersonates_is_refused(installation: Installation, namespace: str, tmp_path: Path) -> None:
    document = yaml.safe_load(installation.api.kubeconfig.read_text())
    document["users"][0]["user"]["as"] = "somebody"
    file = tmp_path / "kubeconfig"
    file.write_text(yaml.safe_dump(document))
    said = installation.sidegate("approvals", "-n", namespace, "--kubeconfig", str(file))
    assert said.exit_code == 1
    assert "impersonates, which this command can't" in said.stderr


@pytest.mark.parametrize("verb", ["approve", "deny"])
def test_options_of_both_places_exclude_each_other(installation: Installation, verb: str, tmp_path: Path) -> None:
    said = installation.sidegate(verb, "x", "-n", "shop", "--directory", str(tmp_path))
    assert said.exit_code == 2
    assert "exclude each other" in said.stderr


def test_a_cluster_that_can_t_be_reached_is_named(installation: Installation, tmp_path: Path) -> None:
    document = yaml.safe_load(installation.api.kubeconfig.read_text())
    document["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    file = tmp_path / "kubeconfig"
    file.write_text(yaml.safe_dump(document))
    said = installation.sidegate("approvals", "--kubeconfig", str(file))
    assert said.exit_code == 1
    assert "sidegate approvals: the cluster of context `tests` can't be reached: " in said.stderr
    assert "refused" in said.stderr
