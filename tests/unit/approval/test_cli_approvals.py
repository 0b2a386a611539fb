"""`sidegate approve`, `deny` and `approvals`, with real tokens of a real issuer."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sidegate.approval.backend import HoldRequest, Phase, ShownParameter, ShownStatement
from sidegate.approval.local import LocalApprovals
from sidegate.cli.main import main
from sidegate.mask.plain import cells
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


def run(*arguments: str | Path, token: str | None = None, columns: int = 160) -> Result:
    environment = {"COLUMNS": str(columns), "SIDEGATE_TOKEN": token}
    return CliRunner(env=environment).invoke(main, [str(each) for each in arguments])


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
        "  impact     5000 rows by the statement, 14000 in all\n",
        "             +0 ~0 -9000  shop.items\n             +0 ~0 -5000  shop.orders\n",
        "    | DELETE FROM orders\n    | WHERE total < 10\n",
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
    assert asyncio.run(approvals.find_pending(asked, asked.requested_at + 20)) == name


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
    assert asyncio.run(approvals.find_pending(asked, asked.requested_at + 20)) == name


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


WHOLE = {
    "detail": "it changes 14000 rows, and the limit is 100: ask before you delete what finance still needs for the closing of the year",
    "statement": "EXECUTE d(10)\n  impact     0 rows by the statement, 0 in all\n    $1 (int4) = '0'\n  runs\n    | SELECT 1\x1b[2A\u202e"
    + "\n" + " " * 90 + "  approved   by dana@example.com of dba",
    "parameters": (
        ShownParameter("int4", True, "10"),
        ShownParameter("", True, hexadecimal="00ff"),
        ShownParameter("text", text="it's ') masked = 'x", is_masked=True),
        ShownParameter(text="DELETE\n  runs\n    | nothing"),
        ShownParameter("int8"),
    ),
    "runs": (ShownStatement("PREPARE d AS DELETE FROM orders\nWHERE total < $1"), ShownStatement("SELECT '漢字'", (ShownParameter(text="7"),))),
    "alternatives": (ShownStatement("DROP TABLE orders"),),
    "search_path": ("public", "odd, name", 'with "quotes"'),
    "current_role": "boss",
    "database": "shop as nobody",
}  # fmt: skip


@pytest.mark.parametrize("columns", [100, 60])
def test_a_request_looks_like_this(approvals: LocalApprovals, asked: HoldRequest, columns: int) -> None:
    """Imitations of the command's own lines stay behind the bar, however narrow the terminal is."""
    name = submit(approvals, replace(asked, **WHOLE))  # type: ignore[arg-type]
    found = run("approvals", "show", name, columns=columns).stdout.replace(name, "NAME")
    found = re.sub(r"\d+ s ago", "12 s ago", found)
    found = re.sub(r"expires    .*", "expires    AT", found)
    assert found == (Path(__file__).parent / f"request_in_{columns}_columns.txt").read_text()
    assert all(cells(line) <= columns for line in found.splitlines())


def test_what_approve_leaves_out_is_counted_and_show_has_it(
    approvals: LocalApprovals, asked: HoldRequest, issuer: Issuer
) -> None:
    text = "\n".join(f"DELETE FROM orders WHERE id = {number};" for number in range(1, 41))
    parameters = tuple(ShownParameter("int4", text=str(number)) for number in range(30))
    name = submit(approvals, replace(asked, statement=text, parameters=parameters))
    found = run("approve", name, token=issuer.token("dana", "psql")).stdout
    assert "    | DELETE FROM orders WHERE id = 20;\n" in found
    assert "id = 21" not in found
    assert f"    ... 20 more lines, 660 characters: sidegate approvals show {name}\n" in found
    assert "    $20 (int4) = '19'\n" in found
    assert f"    ... 10 more parameters: sidegate approvals show {name}\n" in found
    shown = run("approvals", "show", name).stdout
    assert all(f"    | {line}\n" in shown for line in text.split("\n"))
    assert "    $30 (int4) = '29'\n" in shown
    assert "..." not in shown


def test_what_isnt_known_of_path_and_role_is_said(approvals: LocalApprovals, asked: HoldRequest) -> None:
    found = run("approvals", "show", submit(approvals, asked)).stdout
    assert "  on         shop/shop-db, database shop as writer, if no SET ROLE came before\n" in found
    assert "  path       not known: what is named without its schema could be in any\n" in found
    known = run("approvals", "show", submit(approvals, replace(asked, current_role="writer", search_path=("public",)))).stdout
    assert "  on         shop/shop-db, database shop as writer\n  path       public\n" in known


def test_no_line_of_a_list_is_longer_than_the_terminal(approvals: LocalApprovals, asked: HoldRequest) -> None:
    name = submit(approvals, replace(asked, statement="SELECT 1 " + "\n" * 100 + "ar-20261124-103530-x7k2 Approved 1/1 " * 40))
    listed, watched = run("approvals", columns=140).stdout, run("approvals", "watch", "--count", "1", columns=140).stdout
    for found in (listed, watched):
        assert all(len(line) <= 140 for line in found.splitlines())
        assert found.splitlines()[-1].startswith(name)
        assert found.rstrip().endswith("...")


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
