"""`sidegate approve`, `deny` and `approvals`, with real tokens of a real issuer."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sidegate.approval.backend import HoldRequest, Phase
from sidegate.approval.local import LocalApprovals
from sidegate.cli.main import main
from sidegate.policy.config import AddressConfig, GateConfig, IdentityConfig, Protocol, TargetConfig, encode_config
from sidegate.policy.decision import ApprovalTerms
from tests.support.issuer import Issuer


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with Issuer(now=None) as running:
        yield running


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, issuer: Issuer) -> Path:
    monkeypatch.setenv("SIDEGATE_STATE", str(tmp_path))
    monkeypatch.delenv("SIDEGATE_TOKEN", raising=False)
    monkeypatch.delenv("SIDEGATE_CONFIG", raising=False)
    (tmp_path / "shop-db").mkdir()
    (tmp_path / "shop-db" / "gate.json").write_bytes(_config(issuer, "shop-db"))
    return tmp_path


def _config(issuer: Issuer, name: str) -> bytes:
    target = TargetConfig(
        namespace="shop",
        name=name,
        protocol=Protocol.POSTGRES,
        environment="production",
        address=AddressConfig("127.0.0.1", 5432),
        port=5432,
        identity=IdentityConfig(issuers=(issuer.config(),)),
    )
    return encode_config(GateConfig.sealed(target, ()))


@pytest.fixture
def approvals(state: Path) -> LocalApprovals:
    return LocalApprovals(state / "approvals", clock=time.time, random_bytes=os.urandom, poll_interval_s=0.001)  # noqa: TID251


@pytest.fixture
def asked(request_of_ada: HoldRequest, issuer: Issuer) -> HoldRequest:
    now = time.time() - 12  # noqa: TID251 - the command has the machine's clock
    return replace(request_of_ada, requester_key=f"{issuer.url}#u-1001", requested_at=now, hold_until=now + 600)


def submit(approvals: LocalApprovals, request: HoldRequest) -> str:
    return asyncio.run(approvals.submit(request, request.requested_at))


def run(*arguments: str | Path, token: str | None = None) -> Result:
    return CliRunner(env={"SIDEGATE_TOKEN": token} if token is not None else None).invoke(main, [str(each) for each in arguments])


def test_an_approver_approves_and_sees_what_they_approved(approvals: LocalApprovals, asked: HoldRequest, issuer: Issuer) -> None:
    name = submit(approvals, asked)
    found = run("approve", name, "-c", "as discussed", token=issuer.token("dana", "psql", algorithm="ES256"))
    assert (found.exit_code, found.stderr) == (0, "")
    lines = found.stdout.splitlines()
    assert lines[0] == f"approved  {name}  by dana@example.com (token of psql)  (1 of 1 approvals)"
    text = found.stdout
    for part in (
        "  asked by   ada@example.com through cursor from 10.0.0.7, 1",
        "  on         shop/shop-db, database shop as writer",
        "  held by    shop/assistants#big-deletes (ApprovalRequired): deletes 5000 rows of `shop.orders`",
        "  impact     5000 rows by the statement, 14000 in all (shop.items +0 ~0 -9000, shop.orders +0 ~0 -5000)",
        "    DELETE FROM orders\n    WHERE total < 10\n",
        "  approved   by dana@example.com of dba, ",
        ": as discussed\n",
        "  usable     once, until ",
        "; the gate holds the statement until ",
    ):
        assert part in text, text
    verdict = asyncio.run(approvals.wait(name))
    assert (verdict.phase, verdict.approvers, verdict.comment) == (Phase.APPROVED, ("dana@example.com",), "as discussed")


def test_when_the_client_has_left_the_approver_is_told_how_it_goes_on(
    approvals: LocalApprovals, asked: HoldRequest, issuer: Issuer
) -> None:
    name = submit(approvals, replace(asked, hold_until=asked.requested_at + 1))
    found = run("approve", name, token=issuer.token("dana", "psql"))
    assert "the gate no longer waits: it runs when the same statement is sent again" in found.stdout


def test_a_denial_reaches_the_gate_with_its_comment(
    approvals: LocalApprovals, asked: HoldRequest, issuer: Issuer, tmp_path: Path
) -> None:
    name = submit(approvals, asked)
    (tmp_path / "token").write_text(issuer.token("dana", "psql") + "\n")
    found = run("deny", name, "--comment", "too many rows", "--token-file", tmp_path / "token")
    assert (found.exit_code, found.stdout.split()[0]) == (0, "denied")
    verdict = asyncio.run(approvals.wait(name))
    assert (verdict.phase, verdict.comment) == (Phase.DENIED, "too many rows")


def test_the_one_who_asked_cannot_approve_even_as_an_approver(
    approvals: LocalApprovals, asked: HoldRequest, issuer: Issuer
) -> None:
    name = submit(approvals, asked)
    found = run("approve", name, token=issuer.token("ada", groups=["dba"]))
    assert found.exit_code == 1
    assert found.stderr == (
        "sidegate approve: `ada@example.com` asked for it and can't decide on it\nhint: have another approver decide\n"
    )
    assert asyncio.run(approvals.find_pending(asked.fingerprint, asked.requester_key, asked.requested_at + 20)) == name


def test_somebody_who_is_no_approver_is_refused(approvals: LocalApprovals, asked: HoldRequest, issuer: Issuer) -> None:
    found = run("approve", submit(approvals, asked), token=issuer.token("app", "psql"))
    assert found.exit_code == 1
    assert "is not an approver" in found.stderr
    assert "ask `carol@example.com` or a member of `dba`" in found.stderr


@pytest.mark.parametrize(
    "kind", ["expired", "wrong audience", "unknown issuer", "algorithm none", "an impostor's signature", "empty"]
)
def test_a_bad_token_decides_nothing(approvals: LocalApprovals, asked: HoldRequest, issuer: Issuer, kind: str) -> None:
    name = submit(approvals, asked)
    found = run("approve", name, token=issuer.bad_tokens()[kind].token)
    assert found.exit_code == 1
    assert "your token wasn't accepted" in found.stderr or "you have given no token" in found.stderr
    assert asyncio.run(approvals.find_pending(asked.fingerprint, asked.requester_key, asked.requested_at + 20)) == name


def test_no_token_is_told_how_to_get_one(approvals: LocalApprovals, asked: HoldRequest) -> None:
    found = run("approve", submit(approvals, asked))
    assert found.exit_code == 1
    assert "sidegate token --help" in found.stderr


def test_two_approvals_when_two_are_required(approvals: LocalApprovals, asked: HoldRequest, issuer: Issuer) -> None:
    terms = ApprovalTerms(frozenset({"dba", "applications"}), frozenset(), 2, 3600.0)
    name = submit(approvals, replace(asked, terms=terms))
    first = run("approve", name, token=issuer.token("dana", "psql"))
    assert "(1 of 2 approvals; 1 more must approve)" in first.stdout
    assert "has decided" in run("approve", name, token=issuer.token("dana", "psql")).stderr
    assert "(2 of 2 approvals)" in run("approve", name, token=issuer.token("app", "psql")).stdout
    assert "is Approved already" in run("deny", name, token=issuer.token("dana", "psql")).stderr


def test_the_config_of_another_target_is_not_used(
    approvals: LocalApprovals, asked: HoldRequest, issuer: Issuer, tmp_path: Path
) -> None:
    name = submit(approvals, asked)
    (tmp_path / "other.json").write_bytes(_config(issuer, "other-db"))
    found = run("approve", name, "--config", tmp_path / "other.json", token=issuer.token("dana", "psql"))
    assert (found.exit_code, "is the gate config of shop/other-db" in found.stderr) == (1, True)
    (tmp_path / "shop-db" / "gate.json").unlink()
    found = run("approve", name, token=issuer.token("dana", "psql"))
    assert (found.exit_code, "no gate config for shop/shop-db" in found.stderr) == (1, True)


def test_a_tampered_request_is_shown_to_nobody(
    approvals: LocalApprovals, asked: HoldRequest, issuer: Issuer, state: Path
) -> None:
    name = submit(approvals, asked)
    path = state / "approvals" / f"{name}.yaml"
    path.write_text(path.read_text().replace("WHERE total < 10", "WHERE total < 11"))
    for found in (run("approve", name, token=issuer.token("dana", "psql")), run("approvals", "show", name)):
        assert found.exit_code == 1
        assert "was changed by somebody" in found.stderr
        assert "DELETE" not in found.output
    listed = run("approvals")
    assert (listed.exit_code, "was changed by somebody" in listed.stderr) == (1, True)


def test_list_shows_what_waits_and_all_shows_the_rest(approvals: LocalApprovals, asked: HoldRequest, issuer: Issuer) -> None:
    waiting = submit(approvals, asked)
    denied = submit(approvals, asked)
    run("deny", denied, token=issuer.token("dana", "psql"))
    for found in (run("approvals"), run("approvals", "list")):
        header, row = found.stdout.splitlines()
        assert header.split() == ["NAME", "PHASE", "REQUESTER", "TARGET", "IMPACT", "EXPIRES", "IN", "STATEMENT"]
        assert row.startswith(f"{waiting}  Pending 0/1  ada@example.com  shop/shop-db  14000 rows  59 min")
        assert row.endswith("DELETE FROM orders WHERE total < 10")
    assert denied in run("approvals", "list", "--all").stdout


def test_show_has_everything_an_approver_needs(approvals: LocalApprovals, asked: HoldRequest) -> None:
    name = submit(approvals, replace(asked, statement="SELECT '\x1b[2J\u202e'"))
    found = run("approvals", "show", name)
    assert found.stdout.startswith(f"pending  {name}  (0 of 1 approvals)\n  asked by   ada@example.com")
    assert "SELECT '\\x1b[2J\\u202e'" in found.stdout
    assert all(c.isprintable() or c == "\n" for c in found.stdout)


def test_watch_prints_what_waits_and_ends_after_its_count(approvals: LocalApprovals, asked: HoldRequest) -> None:
    name = submit(approvals, asked)
    found = run("approvals", "watch", "--count", "1")
    assert found.stdout == f"{name}  Pending 0/1  ada@example.com  DELETE FROM orders WHERE total < 10\n"


def test_without_a_directory_the_way_forward_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDEGATE_STATE", str(tmp_path / "none"))
    found = run("approvals")
    assert (found.exit_code, "is not a directory" in found.stderr) == (1, True)
    assert "--directory or SIDEGATE_STATE" in found.stderr


def test_a_directory_open_to_others_is_refused(approvals: LocalApprovals, asked: HoldRequest, state: Path) -> None:
    submit(approvals, asked)
    (state / "approvals").chmod(0o755)
    found = run("approvals")
    assert (found.exit_code, "is open to others" in found.stderr) == (1, True)


@pytest.mark.parametrize("verb", [["approve"], ["deny"], ["approvals"], ["approvals", "show"], ["approvals", "watch"]])
def test_help_has_an_example(verb: list[str]) -> None:
    found = run(*verb, "--help")
    assert found.exit_code == 0
    assert "EXAMPLE" in found.stdout
