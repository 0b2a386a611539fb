"""The local back end: files as ApprovalRequests, decisions from outside, approvals used once, tampering refused."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidegate.api.approval_request import ApprovalRequest
from sidegate.approval.backend import ApprovalUnavailable, HoldRequest, Phase, TooManyApprovals
from sidegate.approval.document import digest, from_wire, request_of, to_wire
from sidegate.approval.files import KEPT_S, ApprovalFiles, IndexEntry, going
from sidegate.approval.hold import Approver, Choice, Hold
from sidegate.approval.local import MAX_OPEN_PER_REQUESTER, LocalApprovals
from sidegate.policy.decision import ApprovalTerms
from sidegate.policy.statement import Impact, TableImpact

NOW = 1_795_516_530.25
BOB = Approver("bob@example.com", "https://idp.example#u-bob", frozenset({"dba", "staff"}))
CAROL = Approver("carol@example.com", "https://idp.example#u-carol")


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "approvals"


@pytest.fixture
def make(directory: Path, clock: Clock) -> Callable[[], LocalApprovals]:
    return lambda: LocalApprovals(directory, clock=clock, random_bytes=os.urandom, poll_interval_s=0.001)


@pytest.fixture
def approvals(make: Callable[[], LocalApprovals]) -> LocalApprovals:
    return make()


@pytest.fixture
def files(directory: Path) -> ApprovalFiles:
    return ApprovalFiles(directory)


def _decide(files: ApprovalFiles, name: str, approver: Approver, choice: Choice, at: float = NOW + 5, comment: str = "") -> Hold:
    with files.locked():
        found = files.decide(name, approver, choice, comment, at)
    assert isinstance(found, Hold), found
    return found


def _edit(directory: Path, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    path = directory / f"{name}.yaml"
    wire = yaml.safe_load(path.read_text())
    change(wire)
    path.write_text(yaml.safe_dump(wire))


async def test_every_state_of_a_file_is_a_valid_approval_request(
    approvals: LocalApprovals, files: ApprovalFiles, directory: Path, clock: Clock, request_of_ada: HoldRequest
) -> None:
    def valid(name: str) -> ApprovalRequest:
        return ApprovalRequest.from_wire(yaml.safe_load((directory / f"{name}.yaml").read_text()))

    name = await approvals.submit(request_of_ada, NOW)
    resource = valid(name)
    assert resource.spec.principal.username == "ada@example.com"
    assert resource.spec.rule.name == "big-deletes"
    assert resource.spec.impact is not None
    assert resource.spec.impact.tables[0].relation == "shop.items"
    assert resource.spec.expires_at.epoch_s == NOW + 3600
    assert resource.status is not None
    assert (resource.status.phase.value, resource.status.approvals) == ("Pending", "0/1")
    _decide(files, name, BOB, Choice.APPROVED, comment="go")
    clock.now = NOW + 6
    resource = valid(name)
    assert resource.status is not None
    assert (resource.status.phase.value, resource.status.decisions[0].by, resource.status.decisions[0].groups) == (
        "Approved",
        "bob@example.com",
        ("dba",),
    )
    assert (await approvals.wait(name)).phase is Phase.APPROVED
    await approvals.executed(name, "DELETE 5000", NOW + 7)
    resource = valid(name)
    assert resource.status is not None
    assert resource.status.outcome is not None
    assert (resource.status.phase.value, resource.status.outcome.result.value, resource.status.outcome.rows) == (
        "Executed",
        "Succeeded",
        5000,
    )
    second = await approvals.submit(request_of_ada, NOW)
    await approvals.withdraw(second, "cancelled by the client", NOW + 8)
    assert valid(second).status.phase.value == "Withdrawn"  # type: ignore[union-attr]
    third = await approvals.submit(request_of_ada, NOW)
    clock.now = NOW + 3601
    assert (await approvals.wait(third)).phase is Phase.EXPIRED
    assert valid(third).status.phase.value == "Expired"  # type: ignore[union-attr]


async def test_what_is_written_reads_back_as_what_was_asked(
    approvals: LocalApprovals, files: ApprovalFiles, request_of_ada: HoldRequest
) -> None:
    name = await approvals.submit(request_of_ada, NOW)
    read = request_of(files.load(name))
    tables = tuple(sorted(request_of_ada.impact.tables)) if request_of_ada.impact else ()
    assert replace(read, impact=None) == replace(request_of_ada, impact=None)
    assert read.impact is not None
    assert tuple(sorted(read.impact.tables)) == tables


async def test_the_file_is_private_plain_and_named_by_time(
    approvals: LocalApprovals, directory: Path, request_of_ada: HoldRequest
) -> None:
    name = await approvals.submit(replace(request_of_ada, statement="SELECT '\u202e\x1b[2J\u2028ü'\n-- x"), NOW)
    assert name.startswith("ar-20261124-103530-")
    assert len(name) == len("ar-20261124-103530-xxxx")
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    for path in directory.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = (directory / f"{name}.yaml").read_bytes()
    assert all(0x20 <= byte < 0x7F or byte == 0x0A for byte in text)
    spec = yaml.safe_load(text)["spec"]
    assert spec["statement"] == "SELECT '\\u202e\\x1b[2J\\u2028ü'\n-- x"
    assert spec["hiddenCharacters"] == ["U+001B", "U+2028", "U+202E"]


async def test_statements_of_several_lines_are_written_as_such(
    approvals: LocalApprovals, directory: Path, request_of_ada: HoldRequest
) -> None:
    name = await approvals.submit(request_of_ada, NOW)
    assert "statement: |-\n    DELETE FROM orders\n    WHERE total < 10\n" in (directory / f"{name}.yaml").read_text()


async def test_a_waiting_gate_hears_the_decision(
    approvals: LocalApprovals, files: ApprovalFiles, request_of_ada: HoldRequest
) -> None:
    name = await approvals.submit(request_of_ada, NOW)
    waiting = asyncio.create_task(approvals.wait(name))
    await asyncio.sleep(0)
    assert not waiting.done()
    approvals._clock.now = NOW + 10  # type: ignore[attr-defined]
    _decide(files, name, BOB, Choice.DENIED, comment="too many")
    found = await asyncio.wait_for(waiting, 10)
    assert (found.phase, found.approvers, found.comment) == (Phase.DENIED, ("bob@example.com",), "too many")


async def test_of_many_who_wait_only_one_gets_the_approval(
    approvals: LocalApprovals, make: Callable[[], LocalApprovals], files: ApprovalFiles, clock: Clock, request_of_ada: HoldRequest
) -> None:
    name = await approvals.submit(request_of_ada, NOW)
    waiting = [asyncio.create_task(each.wait(name)) for each in (approvals, approvals, make(), make())]
    await asyncio.sleep(0)
    clock.now = NOW + 10
    _decide(files, name, BOB, Choice.APPROVED)
    phases = sorted(found.phase for found in await asyncio.wait_for(asyncio.gather(*waiting), 10))
    assert phases == [Phase.APPROVED, Phase.EXECUTED, Phase.EXECUTED, Phase.EXECUTED]
    assert await approvals.take_grant(request_of_ada, clock.now) is None


async def test_an_approval_after_the_client_left_is_a_grant_for_one_use(
    approvals: LocalApprovals, make: Callable[[], LocalApprovals], files: ApprovalFiles, clock: Clock, request_of_ada: HoldRequest
) -> None:
    name = await approvals.submit(request_of_ada, NOW)
    waiting = asyncio.create_task(approvals.wait(name))
    await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await approvals.find_pending(request_of_ada, NOW + 1) == name
    assert await approvals.take_grant(request_of_ada, NOW + 1) is None
    _decide(files, name, BOB, Choice.APPROVED)
    restarted = make()
    assert await restarted.find_pending(request_of_ada, NOW + 6) is None
    assert (
        await restarted.take_grant(replace(request_of_ada, fingerprint="another" + request_of_ada.fingerprint), NOW + 6) is None
    )
    assert await restarted.take_grant(replace(request_of_ada, requester_key="https://idp.example#someone"), NOW + 6) is None
    found = await restarted.take_grant(request_of_ada, NOW + 6)
    assert found is not None
    assert (found.phase, found.name, found.approvers) == (Phase.APPROVED, name, ("bob@example.com",))
    assert await restarted.take_grant(request_of_ada, NOW + 7) is None
    assert await approvals.take_grant(request_of_ada, NOW + 7) is None
    await restarted.executed(name, "42501", NOW + 8)


async def test_a_grant_is_gone_when_its_time_is_over(
    approvals: LocalApprovals, files: ApprovalFiles, request_of_ada: HoldRequest
) -> None:
    name = await approvals.submit(request_of_ada, NOW)
    _decide(files, name, BOB, Choice.APPROVED)
    assert await approvals.take_grant(request_of_ada, NOW + 3600) is None


async def test_a_withdrawn_request_takes_no_decision(
    approvals: LocalApprovals, files: ApprovalFiles, request_of_ada: HoldRequest
) -> None:
    name = await approvals.submit(request_of_ada, NOW)
    await approvals.withdraw(name, "cancelled by the client", NOW + 1)
    with files.locked():
        assert "Withdrawn already" in files.decide(name, BOB, Choice.APPROVED, "", NOW + 2).problem  # type: ignore[union-attr]
    assert (await approvals.wait(name)).phase is Phase.WITHDRAWN
    assert files.load(name).metadata.annotations["sidegate.dev/withdrawn-because"] == "cancelled by the client"


TAMPERING: dict[str, Callable[[dict[str, Any]], object]] = {
    "statement": lambda wire: wire["spec"].update(statement="DROP TABLE orders"),
    "fingerprint": lambda wire: wire["spec"].update(fingerprint="f" * 32),
    "approvers": lambda wire: wire["spec"]["approvers"].update(users=["eve@example.com"]),
    "required": lambda wire: wire["spec"].update(required=0),
    "expiry": lambda wire: wire["spec"].update(expiresAt="2036-11-24T10:35:30Z"),
    "requester": lambda wire: wire["spec"]["principal"].update(subject="someone"),
    "impact": lambda wire: wire["spec"]["impact"].update(rows=1),
    "name": lambda wire: wire["metadata"].update(name="ar-other"),
    "begin": lambda wire: wire["metadata"].update(creationTimestamp="2020-11-24T10:35:30Z"),
    "kind": lambda wire: wire.update(kind="Secret"),
    "unknown field": lambda wire: wire["spec"].update(extra=1),
    "no status": lambda wire: wire.pop("status"),
}


@pytest.mark.parametrize("what", TAMPERING)
async def test_a_changed_request_is_refused_everywhere(
    approvals: LocalApprovals,
    make: Callable[[], LocalApprovals],
    files: ApprovalFiles,
    directory: Path,
    request_of_ada: HoldRequest,
    what: str,
) -> None:
    name = await approvals.submit(request_of_ada, NOW)
    _decide(files, name, BOB, Choice.APPROVED)
    _edit(directory, name, TAMPERING[what])
    for each in (approvals, make()):
        with pytest.raises(ApprovalUnavailable, match="was changed by somebody"):
            await each.wait(name)
        assert await each.take_grant(request_of_ada, NOW + 6) is None
    with files.locked(), pytest.raises(ApprovalUnavailable, match="was changed by somebody"):
        files.decide(name, CAROL, Choice.APPROVED, "", NOW + 6)


async def test_a_request_swapped_with_its_index_entry_is_refused_by_the_gate_that_made_it(
    approvals: LocalApprovals, make: Callable[[], LocalApprovals], files: ApprovalFiles, request_of_ada: HoldRequest
) -> None:
    name = await approvals.submit(request_of_ada, NOW)
    with files.locked():
        index = files.load_index()
        document = files.load(name)
        wire = to_wire(document)
        wire["spec"]["statement"] = "SELECT 1"
        forged = from_wire(wire)
        index[name].digest = digest(forged)
        files.save_index(index)
        files.save(forged)
    with pytest.raises(ApprovalUnavailable, match="was changed by somebody"):
        await approvals.wait(name)


FORGED: dict[str, Callable[[dict[str, Any]], object]] = {
    "phase alone": lambda wire: wire["status"].update(phase="Approved"),
    "a decision without its decider's key": lambda wire: wire["status"].update(
        phase="Approved",
        decisions=[{"by": "bob@example.com", "groups": ["dba"], "decision": "Approved", "at": "2026-11-24T10:35:31Z"}],
    ),
    "the requester's own": lambda wire: (
        wire["status"].update(decisions=[{"by": "x", "groups": ["dba"], "decision": "Approved", "at": "2026-11-24T10:35:31Z"}]),
        wire["metadata"]["annotations"].update({"sidegate.dev/deciders": '{"x":"https://idp.example#u-ada"}'}),
    ),
    "no approver's": lambda wire: (
        wire["status"].update(decisions=[{"by": "eve", "decision": "Approved", "at": "2026-11-24T10:35:31Z"}]),
        wire["metadata"]["annotations"].update({"sidegate.dev/deciders": '{"eve":"https://idp.example#u-eve"}'}),
    ),
    "spec.decision": lambda wire: wire["spec"].update(decision="Approved"),
}


@pytest.mark.parametrize("what", FORGED)
async def test_a_decision_that_breaks_the_rules_does_not_count(
    approvals: LocalApprovals, directory: Path, request_of_ada: HoldRequest, what: str
) -> None:
    name = await approvals.submit(request_of_ada, NOW)
    _edit(directory, name, FORGED[what])
    assert await approvals.take_grant(request_of_ada, NOW + 6) is None
    assert await approvals.find_pending(request_of_ada, NOW + 6) == name


async def test_a_used_approval_stays_used_when_its_file_is_put_back(
    approvals: LocalApprovals,
    make: Callable[[], LocalApprovals],
    files: ApprovalFiles,
    directory: Path,
    clock: Clock,
    request_of_ada: HoldRequest,
) -> None:
    name = await approvals.submit(request_of_ada, NOW)
    _decide(files, name, BOB, Choice.APPROVED)
    before = (directory / f"{name}.yaml").read_bytes()
    clock.now = NOW + 6
    assert (await approvals.wait(name)).phase is Phase.APPROVED
    (directory / f"{name}.yaml").write_bytes(before)
    for each in (approvals, make()):
        assert (await each.wait(name)).phase is Phase.EXECUTED
        assert await each.take_grant(request_of_ada, NOW + 7) is None


async def test_a_file_that_no_gate_made_is_no_request(
    approvals: LocalApprovals, files: ApprovalFiles, directory: Path, request_of_ada: HoldRequest
) -> None:
    name = await approvals.submit(request_of_ada, NOW)
    copy = "ar-20261124-103530-mine"
    _edit(
        directory,
        name,
        lambda wire: (directory / f"{copy}.yaml").write_text(
            yaml.safe_dump({**wire, "metadata": {**wire["metadata"], "name": copy}})
        ),
    )
    with files.locked(), pytest.raises(ApprovalUnavailable, match="not one that a gate made"):
        files.decide(copy, BOB, Choice.APPROVED, "", NOW + 5)
    with pytest.raises(ApprovalUnavailable, match="not one that a gate made"):
        await approvals.wait(copy)


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "x.yaml", ".index", "ä", "x\n"])
async def test_no_name_leads_out_of_the_directory(approvals: LocalApprovals, files: ApprovalFiles, name: str) -> None:
    with pytest.raises(ApprovalUnavailable, match="is not the name"):
        files.load(name)
    with pytest.raises(ApprovalUnavailable):
        await approvals.wait(name)


async def test_a_deleted_request_is_an_error_never_an_approval(
    approvals: LocalApprovals, directory: Path, request_of_ada: HoldRequest
) -> None:
    name = await approvals.submit(request_of_ada, NOW)
    waiting = asyncio.create_task(approvals.wait(name))
    await asyncio.sleep(0.01)
    (directory / f"{name}.yaml").unlink()
    with pytest.raises(ApprovalUnavailable, match="can't be read"):
        await asyncio.wait_for(waiting, 10)


async def test_a_damaged_index_refuses_everything(
    approvals: LocalApprovals, directory: Path, request_of_ada: HoldRequest
) -> None:
    await approvals.submit(request_of_ada, NOW)
    (directory / ".index.json").write_text("{")
    with pytest.raises(ApprovalUnavailable, match="index"):
        await approvals.submit(request_of_ada, NOW)
    with pytest.raises(ApprovalUnavailable, match="index"):
        await approvals.take_grant(request_of_ada, NOW)


@pytest.mark.parametrize("mode", [0o750, 0o701, 0o777])
def test_a_directory_that_is_open_to_others_is_refused(make: Callable[[], LocalApprovals], directory: Path, mode: int) -> None:
    directory.mkdir()
    directory.chmod(mode)
    with pytest.raises(ApprovalUnavailable, match="open to others") as caught:
        make()
    assert "chmod 700" in caught.value.way_forward


async def test_a_lock_that_is_never_let_go_is_an_error(
    approvals: LocalApprovals, directory: Path, request_of_ada: HoldRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidegate.approval.local._LOCK_RETRY_S", 0.0)
    with (directory / ".lock").open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(ApprovalUnavailable, match="stays locked"):
            await approvals.submit(request_of_ada, NOW)
    assert await approvals.submit(request_of_ada, NOW)


async def test_a_statement_that_cannot_be_shown_whole_is_refused(
    approvals: LocalApprovals, request_of_ada: HoldRequest, directory: Path
) -> None:
    with pytest.raises(ApprovalUnavailable, match="16385 characters are over the 16384"):
        await approvals.submit(replace(request_of_ada, statement="x" * 16385), NOW)
    assert not list(directory.glob("*.yaml"))
    assert await approvals.submit(replace(request_of_ada, statement="x" * 16384), NOW)


async def test_open_requests_of_one_person_are_limited(
    approvals: LocalApprovals, files: ApprovalFiles, request_of_ada: HoldRequest
) -> None:
    names = [await approvals.submit(request_of_ada, NOW + n * 30) for n in range(MAX_OPEN_PER_REQUESTER)]
    assert len(set(names)) == MAX_OPEN_PER_REQUESTER
    later = NOW + 1500
    with pytest.raises(TooManyApprovals, match="has 50 open approval requests"):
        await approvals.submit(request_of_ada, later)
    assert await approvals.submit(replace(request_of_ada, requester_key="https://idp.example#u-other"), later)
    await approvals.withdraw(names[0], "", later)
    assert await approvals.submit(request_of_ada, later)


async def test_asking_and_withdrawing_without_end_is_refused(
    approvals: LocalApprovals, make: Callable[[], LocalApprovals], request_of_ada: HoldRequest
) -> None:
    """Whatever else it says of itself, before and after a restart, in each process that shares the directory."""
    for number in range(30):
        asked = replace(request_of_ada, requester=f"ADA-{number}", agent=f"agent-{number}", fingerprint=f"{number:032}")
        await approvals.withdraw(await approvals.submit(asked, NOW + number), "cancelled by the client", NOW + number)
    for each in (approvals, make()):
        with pytest.raises(TooManyApprovals, match="asked for 30 approvals on `shop-db` in the last 600 s, of 30") as caught:
            await each.submit(request_of_ada, NOW + 100)
        assert caught.value.way_forward.startswith("wait 500 s;")
    assert await approvals.submit(replace(request_of_ada, requester_key="https://idp.example#u-other"), NOW + 100)
    assert await approvals.submit(replace(request_of_ada, target="other-db"), NOW + 100)
    name = await approvals.submit(request_of_ada, NOW + 600)
    with pytest.raises(TooManyApprovals):
        await approvals.submit(request_of_ada, NOW + 600)
    assert await approvals.find_pending(request_of_ada, NOW + 600) == name  # what is asked for already is joined, not refused


async def test_an_index_of_an_older_version_is_read(
    approvals: LocalApprovals, files: ApprovalFiles, directory: Path, request_of_ada: HoldRequest
) -> None:
    name = await approvals.submit(request_of_ada, NOW)
    index = json.loads((directory / ".index.json").read_text())
    del index[name]["target"], index[name]["requested_at"]
    (directory / ".index.json").write_text(json.dumps(index))
    assert await approvals.find_pending(request_of_ada, NOW) == name
    assert await approvals.submit(request_of_ada, NOW)


def ended(who: str, at: float) -> IndexEntry:
    return IndexEntry("digest", "fingerprint", who, at + 3600, "Withdrawn", "shop/shop-db", at)


def test_of_what_ended_who_has_most_loses_first() -> None:
    """Nothing that is open, or that counts for how often one may ask; and nobody loses any for another's."""
    index = {f"ar-1-{n}": ended("ada", NOW - 2000 + n) for n in range(6)}
    index |= {f"ar-0-{n}": ended("bob", NOW - 3000 + n) for n in range(2)}
    assert going(index, NOW, 5) == ["ar-1-0", "ar-1-1", "ar-1-2"]
    index["ar-1-0"].ended = ""
    assert going(index, NOW, 5) == ["ar-1-1", "ar-1-2"]
    recent = {f"ar-2-{n}": ended("ada", NOW - n) for n in range(9)}
    assert going(recent | {"ar-0": ended("bob", NOW - 3000)}, NOW, 3) == []


async def test_what_ended_long_ago_is_forgotten(
    approvals: LocalApprovals, files: ApprovalFiles, directory: Path, request_of_ada: HoldRequest
) -> None:
    old = await approvals.submit(request_of_ada, NOW)
    later = NOW + 3600 + KEPT_S + 1
    new = await approvals.submit(replace(request_of_ada, requested_at=later, hold_until=later), later)
    assert files.names() == [new]
    assert old not in files.load_index()


@pytest.mark.parametrize(
    ("outcome", "result", "rows", "sqlstate"),
    [
        ("DELETE 5", "Succeeded", 5, None),
        ("INSERT 0 7", "Succeeded", 7, None),
        ("CREATE TABLE", "Succeeded", None, None),
        ("BEGIN", "Succeeded", None, None),
        ("42501", "Failed", None, "42501"),
        ("XX000", "Failed", None, "XX000"),
    ],
)
async def test_outcomes_are_kept_as_the_resource_has_them(
    approvals: LocalApprovals,
    files: ApprovalFiles,
    clock: Clock,
    request_of_ada: HoldRequest,
    outcome: str,
    result: str,
    rows: int | None,
    sqlstate: str | None,
) -> None:
    name = await approvals.submit(request_of_ada, NOW)
    _decide(files, name, BOB, Choice.APPROVED)
    clock.now = NOW + 6
    await approvals.wait(name)
    await approvals.executed(name, outcome, NOW + 7)
    found = files.load(name).status.outcome
    assert found is not None
    assert (found.result, found.rows, found.sqlstate) == (result, rows, sqlstate)


async def test_what_was_not_used_has_no_outcome(approvals: LocalApprovals, request_of_ada: HoldRequest) -> None:
    name = await approvals.submit(request_of_ada, NOW)
    with pytest.raises(ApprovalUnavailable, match="is Pending, not used"):
        await approvals.executed(name, "DELETE 1", NOW)


async def test_the_impact_shown_keeps_the_largest_tables(
    approvals: LocalApprovals, files: ApprovalFiles, request_of_ada: HoldRequest
) -> None:
    impact = Impact(1, tuple(TableImpact(f"s.t{n}", n, 0, 0) for n in range(100)))
    name = await approvals.submit(replace(request_of_ada, impact=impact), NOW)
    found = files.load(name).spec.impact
    assert found is not None
    assert [table.inserted for table in found.tables] == list(range(99, 35, -1))


async def test_two_approvers_are_both_needed_and_both_named(
    approvals: LocalApprovals, files: ApprovalFiles, clock: Clock, request_of_ada: HoldRequest
) -> None:
    terms = ApprovalTerms(frozenset({"dba"}), frozenset({"carol@example.com"}), 2, 3600.0)
    name = await approvals.submit(replace(request_of_ada, terms=terms), NOW)
    assert _decide(files, name, BOB, Choice.APPROVED).phase is Phase.PENDING
    assert _decide(files, name, CAROL, Choice.APPROVED).phase is Phase.APPROVED
    clock.now = NOW + 6
    assert (await approvals.wait(name)).approvers == ("bob@example.com", "carol@example.com")
