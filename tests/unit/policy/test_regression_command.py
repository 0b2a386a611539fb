"""`sidegate policy test`, run as a person or a pipeline runs it, over recordings of the real core and recorder."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from sidegate.api.access_policy import AccessPolicy
from sidegate.api.protected_target import ProtectedTarget
from sidegate.audit.events import PrincipalFields, SessionFields
from sidegate.cli.changes_view import MAX_ENTRIES, MAX_UNTOLD, Tally
from sidegate.cli.main import main
from sidegate.policy.compared import Answer, Comparison, Fate, Group
from sidegate.policy.compile import Placement, compile_target
from sidegate.policy.config import PolicyConfig
from sidegate.policy.principal import Principal
from sidegate.postgres.redecide import Redecided, Untold
from sidegate.record.asked import AskedStatement
from tests.support.recorded import RecordedBench
from tests.support.session import ADA, EVERY_KIND, NOW

TARGET: dict[str, Any] = {
    "apiVersion": "sidegate.dev/v1alpha1",
    "kind": "ProtectedTarget",
    "metadata": {"name": "db", "namespace": "shop"},
    "spec": {
        "protocol": "Postgres",
        "environment": "production",
        "endpoint": {"host": "127.0.0.1", "port": 5433},
        "port": 5432,
        "tls": {"client": {"plainText": "LoopbackOnly"}, "target": {"mode": "Loopback"}},
        "identity": {"issuers": [{"url": "https://issuer.example", "audiences": ["db"]}]},
        "credentials": [{"role": "rw", "secretRef": {"name": "rw", "key": "password"}}],
    },
}
KINDS = [kind for kind in EVERY_KIND if kind not in ("Transaction", "Session", "Cursor")]  # those need no grant
DENY = {"name": "no-deletes", "action": "Deny", "match": {"statements": {"kinds": ["Delete"]}}}
HOLD = {**DENY, "name": "ask", "action": "RequireApproval", "approval": {"approvers": {"groups": ["dba"]}}}
MASK = {"name": "ssn", "action": "Mask", "match": {"columns": ["ssn"]}}


def policy(*rules: Mapping[str, Any], **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "sidegate.dev/v1alpha1",
        "kind": "AccessPolicy",
        "metadata": {"name": "p", "namespace": "shop"},
        "spec": {
            "targets": {"names": ["db"]},
            "subjects": [{"groups": ["ai"]}],
            "grants": [{"postgres": {"databases": ["shop"], "role": "rw", "allow": KINDS}}],
            **({"rules": list(rules)} if rules else {}),
            **spec,
        },
    }


def compiled(document: dict[str, Any]) -> PolicyConfig:
    found = compile_target(ProtectedTarget.from_wire(TARGET), [AccessPolicy.from_wire(document)], Placement("/secrets"))
    assert found.config is not None, found.findings
    return found.config.policies[0]


def record(directory: Path, texts: Sequence[str], *rules: Mapping[str, Any], **more: Any) -> Path:
    with RecordedBench(directory / "recordings", compiled(policy(*rules)), **more) as bench:
        for text in texts:
            bench.ask(text, tag="DELETE 1" if text.startswith("delete") else "SELECT 1")
    return bench.path


def run(directory: Path, proposed: Mapping[str, Any], *arguments: str | Path, recordings: Path | None = None) -> Result:
    manifests = directory / "manifests"
    manifests.mkdir(exist_ok=True)
    (manifests / "all.yaml").write_text(yaml.safe_dump_all([TARGET, proposed], sort_keys=False))
    place = recordings or directory / "recordings"
    common = ["policy", "test", "--recordings", str(place), "--manifests", str(manifests)]
    return CliRunner().invoke(main, [*common, *(str(each) for each in arguments)])


def test_nothing_that_changes_is_0(tmp_path: Path) -> None:
    record(tmp_path, ["select 1", "delete from orders"], DENY)
    found = run(tmp_path, policy(DENY))
    assert (found.exit_code, found.stderr) == (0, "")
    assert found.stdout == "2 statements in 1 recording: 2 unchanged\n"


def test_alike_statements_are_told_once_with_their_first_place_and_how_to_look_closer(tmp_path: Path) -> None:
    record(tmp_path, ["delete from orders where id = 7", "delete from orders where id = 8"], session="s-1")
    other = in_the_group("bob@example.com")
    record(tmp_path, ["select 1", "delete from orders where id = 9"], session="s-2", principal=other)
    found = run(tmp_path, policy(DENY))
    assert found.exit_code == 1
    assert found.stdout.splitlines()[:8] == [
        "NEWLY DENIED (3 statements)",
        "  3x  delete from orders where id = $1",
        "        who    ada@example.com in ai, as rw, on shop/db, database shop",
        "        was    Allow (Granted) by shop/p#grants[0]",
        "        now    Deny (DeniedByRule) by shop/p#no-deletes: the statement is `Delete`",
        "        first  2026-09-21T14:13:20.000000Z, session s-1, statement 1",
        f"        see    sidegate replay s-1 --directory {tmp_path}/recordings --statement 1",
        f"        see    sidegate policy explain --manifests {tmp_path}/manifests --target shop/db --user ada@example.com --group ai"
        " --database shop --role rw --at 2026-09-21T14:13:20.000000Z --search-path public -- 'delete from orders where id = $1'",
    ]
    assert found.stdout.splitlines()[-1] == "4 statements in 2 recordings: 3 newly denied, 1 unchanged"


def test_the_commands_that_it_prints_say_the_same(tmp_path: Path) -> None:
    record(tmp_path, ["delete from orders where id = 7"])
    lines = run(tmp_path, policy(DENY)).stdout.splitlines()
    replay, explain = (shlex.split(line.partition("see")[2])[1:] for line in lines if line.lstrip().startswith("see "))
    shown = CliRunner().invoke(main, replay)
    assert (shown.exit_code, "delete from orders where id = 7" in shown.stdout) == (0, True)
    explained = CliRunner().invoke(main, explain)
    assert explained.exit_code == 0, explained.stderr
    assert "Deny (DeniedByRule) by shop/p#no-deletes" in explained.stdout


@pytest.mark.parametrize(
    ("before", "after", "heading", "failing", "passing"),
    [
        ([DENY], [], "NEWLY ALLOWED", "allowed", "denied,held,masked,unmasked"),
        ([HOLD], [], "NEWLY ALLOWED", "allowed", "denied,held,masked,unmasked"),
        ([], [DENY], "NEWLY DENIED", "denied", "allowed,held,masked,unmasked"),
        ([], [HOLD], "NEWLY HELD", "held", "allowed,denied,masked,unmasked"),
        ([MASK], [], "MASKED LESS", "unmasked", "allowed,denied,held,masked"),
        ([], [MASK], "MASKED MORE", "masked", "allowed,denied,held,unmasked"),
    ],
)
def test_fail_on_names_what_a_pipeline_fails_for(
    tmp_path: Path, before: list[Any], after: list[Any], heading: str, failing: str, passing: str
) -> None:
    record(tmp_path, ["select ssn from users", "delete from orders"], *before)
    assert run(tmp_path, policy(*after)).exit_code == 1
    assert run(tmp_path, policy(*after), "--fail-on", "any").exit_code == 1
    assert run(tmp_path, policy(*after), "--fail-on", failing).exit_code == 1
    found = run(tmp_path, policy(*after), "--fail-on", passing)
    assert found.exit_code == 0
    assert found.stdout.startswith(heading)


def test_what_opens_up_stands_first(tmp_path: Path) -> None:
    record(tmp_path, ["select ssn from users", "delete from orders", "insert into orders values (1)"], DENY, MASK)
    inserts = {"name": "no-inserts", "action": "Deny", "match": {"statements": {"kinds": ["Insert"]}}}
    out = run(tmp_path, policy(inserts)).stdout
    headings = [line.partition(" (")[0].partition(":")[0] for line in out.splitlines() if re.match("[A-Z]{4}", line)]
    assert headings == ["NEWLY ALLOWED", "MASKED LESS", "NEWLY DENIED"]


def test_another_rule_is_listed_with_v_and_fails_only_when_asked(tmp_path: Path) -> None:
    record(tmp_path, ["delete from orders"], DENY)
    other = policy({**DENY, "name": "other"})
    quiet = run(tmp_path, other)
    assert (quiet.exit_code, quiet.stdout) == (0, "1 statement in 1 recording: 1 other rule, 1 unchanged\n")
    assert "DECIDED BY ANOTHER RULE" in run(tmp_path, other, "-v").stdout
    assert run(tmp_path, other, "--fail-on", "rule").exit_code == 1


def test_what_cannot_be_told_says_why_and_is_no_change(tmp_path: Path) -> None:
    record(tmp_path, ["select 1", "select 2"])
    claims = policy(subjects=[{"groups": ["ai"], "expression": "claims.level >= 3"}])
    found = run(tmp_path, claims)
    assert found.exit_code == 0
    assert "CAN'T BE TOLD (2 statements)" in found.stdout
    assert "the subjects of `shop/p` are named by claims" in found.stdout
    assert run(tmp_path, claims, "--fail-on", "untold").exit_code == 1


def test_json_has_the_documented_form(tmp_path: Path) -> None:
    path = record(tmp_path, ["select ssn from users", "delete from orders where id = 7"], DENY, MASK)
    found = run(tmp_path, policy(), "-o", "json")
    assert found.exit_code == 1
    document = json.loads(found.stdout)
    assert (document["schema"], document["statements"], document["unchanged"]) == ("sidegate.dev/policy-test/v1", 2, 0)
    assert document["counts"] == {
        "allowed": 1, "unmasked": 1, "denied": 0, "held": 0, "masked": 0, "rule": 0, "untold": 0,
    }  # fmt: skip
    assert document["failed"] == ["allowed", "unmasked"]
    assert set(document["revisions"]) == {"shop/db"}
    first, second = document["changes"]
    assert {name: first[name] for name in ("group", "count", "statement", "target", "database", "role", "who")} == {
        "group": "allowed",
        "count": 1,
        "statement": "delete from orders where id = $1",
        "target": "shop/db",
        "database": "shop",
        "role": "rw",
        "who": {"username": "ada@example.com", "groups": ["ai"], "agent": None, "environment": None},
    }
    assert first["was"] == {
        "decision": "Deny", "reason": "DeniedByRule", "source": "shop/p#no-deletes", "detail": "the statement is `Delete`",
    }  # fmt: skip
    assert first["first"] == {
        "time": "2026-09-21T14:13:20.000000Z", "session": "s-1", "recording": str(path), "statement": 2,
    }  # fmt: skip
    assert second["masks"] == {"less": ["users.ssn (Redact -> shown)"], "more": []}


def test_the_example_of_the_documentation_is_what_it_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["select id from users", "delete from orders where id = 7", "select ssn from users where id = 1"]
    record(tmp_path, [*texts, "select ssn from users where id = 2"], HOLD, MASK, answers_holds=True)
    (tmp_path / "manifests").mkdir()
    (tmp_path / "proposed").mkdir()
    (tmp_path / "proposed" / "all.yaml").write_text(yaml.safe_dump_all([TARGET, policy()], sort_keys=False))
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[3] / "docs/policy.md").read_text().partition("## Trying policies on recorded sessions")[2]
    command, expected = re.findall(r"```(?:sh|text)\n(.*?)```", page, re.DOTALL)[:2]
    found = CliRunner().invoke(main, shlex.split(command)[1:])
    assert found.stdout == expected
    assert found.exit_code == 1


def test_json_has_no_field_that_the_documentation_lacks(tmp_path: Path) -> None:
    record(tmp_path, ["delete from orders"], DENY)
    page = (Path(__file__).parents[3] / "docs/policy.md").read_text()
    names = set(re.findall('"([a-zA-Z]+)":', run(tmp_path, policy(), "-o", "json").stdout))
    assert [name for name in sorted(names) if f"`{name}`" not in page] == []


def test_target_user_and_time_choose(tmp_path: Path) -> None:
    record(tmp_path, ["delete from orders"], session="s-1")
    record(tmp_path, ["delete from orders"], session="s-2", principal=in_the_group("bob@example.com"))

    def counted(*arguments: str) -> str:
        return run(tmp_path, policy(DENY), *arguments).stdout.splitlines()[-1]

    assert counted() == "2 statements in 2 recordings: 2 newly denied, 0 unchanged"
    assert counted("--user", "bob@example.com").startswith("1 statement in 1 recording: 1 newly denied")
    assert counted("--target", "shop/db").startswith("2 statements")
    assert counted("--since", "2026-09-21T14:13:20Z").startswith("2 statements")
    assert counted("--since", "2026-09-21T14:13:21Z").startswith("0 statements")
    assert counted("--until", "2026-09-21T14:13:20Z").startswith("0 statements")
    assert NOW == 1_790_000_000.0


def test_a_target_that_is_not_among_the_manifests_is_told(tmp_path: Path) -> None:
    record(tmp_path, ["select 1"])
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    other = {**TARGET, "metadata": {"name": "other", "namespace": "shop"}}
    (elsewhere / "all.yaml").write_text(yaml.safe_dump_all([other]))
    arguments = ["policy", "test", "--recordings", str(tmp_path / "recordings"), "--manifests", str(elsewhere)]
    found = CliRunner().invoke(main, arguments)
    assert found.exit_code == 0
    assert "target `shop/db` isn't among the manifests" in found.stdout


class TestRefused:
    def test_a_damaged_recording_is_2_unless_told_otherwise(self, tmp_path: Path) -> None:
        path = record(tmp_path, ["delete from orders", "select 2"])
        data = bytearray(path.read_bytes())
        data[data.index(b"select 2") + 7] = ord("3")
        path.write_bytes(data)
        found = run(tmp_path, policy(DENY))
        assert (found.exit_code, found.stdout) == (2, "")
        assert "is damaged" in found.stderr
        assert "its content isn't what its link was made from" in found.stderr
        assert "--allow-damaged" in found.stderr
        partly = run(tmp_path, policy(DENY), "--allow-damaged")
        assert partly.exit_code == 1
        assert "DAMAGED" in partly.stdout
        assert "1 newly denied" in partly.stdout

    def test_a_recording_that_was_cut_off_inside_a_frame_is_2(self, tmp_path: Path) -> None:
        path = record(tmp_path, ["select 1"])
        path.write_bytes(path.read_bytes()[:-20])
        assert run(tmp_path, policy()).exit_code == 2

    def test_manifests_that_are_wrong_are_2(self, tmp_path: Path) -> None:
        record(tmp_path, ["select 1"])
        found = run(tmp_path, {**policy(), "spec": {"subjects": []}})
        assert (found.exit_code, found.stdout) == (2, "")

    def test_a_target_without_a_config_is_2(self, tmp_path: Path) -> None:
        record(tmp_path, ["select 1"])
        found = run(tmp_path, policy(grants=[{"postgres": {"databases": ["shop"], "role": "missing", "allow": ["Read"]}}]))
        assert (found.exit_code, found.stdout) == (2, "")
        assert "has no config" in found.stderr

    def test_an_empty_file_and_one_of_something_else_are_2(self, tmp_path: Path) -> None:
        path = tmp_path / "recordings" / "20260921T141320.000000Z-s.sgrec"
        path.parent.mkdir()
        for data in (b"", b"\x89SGR", b"nothing of the kind, but long enough"):
            path.write_bytes(data)
            found = run(tmp_path, policy())
            assert (found.exit_code, found.stdout) == (2, "")

    def test_a_directory_without_recordings_is_2(self, tmp_path: Path) -> None:
        empty = tmp_path / "empty"
        empty.mkdir()
        assert run(tmp_path, policy(), recordings=empty).exit_code == 2

    @pytest.mark.parametrize(
        "arguments", [("--fail-on", "nonsense"), ("--fail-on", ""), ("--since", "yesterday"), ("--target", "no/such")]
    )
    def test_wrong_use_is_2(self, tmp_path: Path, arguments: tuple[str, str]) -> None:
        record(tmp_path, ["select 1"])
        found = run(tmp_path, policy(), *arguments)
        assert (found.exit_code, found.stdout) == (2, "")


class TestUntrusted:
    """Who writes a statement, a token's claims or a manifest doesn't get to write to the terminal of who reads the report."""

    HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202e"

    def test_what_clients_typed_reaches_no_terminal_raw(self, tmp_path: Path) -> None:
        principal = in_the_group(f"eve{self.HOSTILE}\nNEWLY ALLOWED (0 statements)")
        record(tmp_path, [f'delete from "orders{self.HOSTILE}\nDAMAGED"'], principal=principal)
        for output in ("text", "json"):
            out = run(tmp_path, policy(DENY), "-o", output).stdout
            assert not {character for character in out if not (" " <= character <= "~" or character == "\n")}
            assert not [line for line in out.splitlines() if line.startswith(("NEWLY ALLOWED", "DAMAGED"))]

    def test_what_manifests_say_reaches_no_terminal_raw(self, tmp_path: Path) -> None:
        record(tmp_path, ["select 1"])
        found = run(tmp_path, {**policy(), "spec": {f"subjects{self.HOSTILE}": [self.HOSTILE]}})
        assert found.exit_code == 2
        assert "subjects" in found.stderr
        assert not {character for character in found.stderr if not (character.isprintable() or character == "\n")}

    def test_printed_commands_are_quoted_for_a_shell(self, tmp_path: Path) -> None:
        user = "eve'; touch owned; '$(touch owned)"
        record(tmp_path, ['delete from "a$(touch owned)`touch owned`"'], principal=in_the_group(user))
        lines = [line for line in run(tmp_path, policy(DENY)).stdout.splitlines() if "policy explain" in line]
        words = shlex.split(lines[0].partition("see")[2])
        assert words[words.index("--user") + 1] == user
        assert words[-1] == 'delete from "a$(touch owned)`touch owned`"'

    def test_huge_statements_are_shortened(self, tmp_path: Path) -> None:
        record(tmp_path, [f"delete from orders where id in ({', '.join(f'c{n}' for n in range(20_000))})"])
        text = run(tmp_path, policy(DENY)).stdout
        assert max(map(len, text.splitlines())) < 400
        assert len(run(tmp_path, policy(DENY), "-o", "json").stdout) < 6000

    def test_constants_of_statements_are_not_in_the_report(self, tmp_path: Path) -> None:
        record(tmp_path, ["delete from users where password = 'hunter2'"])
        for output in ("text", "json"):
            assert "hunter2" not in run(tmp_path, policy(DENY), "-o", output).stdout


def in_the_group(username: str) -> Principal:
    return Principal(issuer=ADA.issuer, subject=username, username=username, groups=ADA.groups)


def test_what_is_kept_of_changes_is_bounded_and_all_is_counted() -> None:
    who = PrincipalFields(username="ada@example.com", subject="u", issuer="https://issuer.example")
    session = SessionFields(id="s", target="shop/db", source_address="unix", database="shop", role="rw", principal=who)
    asked = AskedStatement(1, NOW, "delete from t", "simple", (), (), None, has_search_path=True, masks=None)
    was, now = Answer(Fate.ALLOW, "Granted", "a"), Answer(Fate.DENY, "DeniedByRule", "b")
    tally = Tally()
    for number in range(MAX_ENTRIES + 7):
        found = Redecided(was, now, Comparison(frozenset({Group.DENIED})), f"delete from t{number}", str(number))
        tally.add(session, "r", asked, found)
    for number in range(MAX_UNTOLD + 5):
        tally.add(session, "r", asked, Untold(f"why {number}"))
    assert (len(tally.entries), tally.counts[Group.DENIED], tally.not_listed[Group.DENIED]) == (MAX_ENTRIES, MAX_ENTRIES + 7, 7)
    assert (len(tally.untold), tally.untold["other reasons"].count, tally.untold_count) == (MAX_UNTOLD + 1, 5, MAX_UNTOLD + 5)
    assert "  and 7 statements more, of changes too many to list" in list(tally.lines("r", "m", verbose=False))
