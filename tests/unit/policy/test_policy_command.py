"""`sidegate policy`, run as a person or a pipeline runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from sidegate.cli.policy import policy
from sidegate.policy.config import decode_config
from tests.unit.policy.resources import TARGET

ROOT = Path(__file__).parents[3]
POLICY = {
    "apiVersion": "sidegate.dev/v1alpha1",
    "kind": "AccessPolicy",
    "metadata": {"name": "readers", "namespace": "shop"},
    "spec": {
        "targets": {"names": ["shop-db"]},
        "subjects": [{"groups": ["ai"], "expression": "claims.level >= 3"}],
        "validity": {"windows": [{"days": ["Mon-Fri"], "from": "08:00", "to": "18:00", "timeZone": "Europe/Berlin"}]},
        "grants": [{"postgres": {"databases": ["shop"], "role": "readonly", "allow": ["Read", "Delete"]}}],
        "rules": [
            {
                "name": "big",
                "action": "RequireApproval",
                "match": {"statements": {"kinds": ["Delete"], "rowsAffected": {"moreThan": 100}}},
                "approval": {"approvers": {"groups": ["dba"]}},
            },
            {"name": "pii", "action": "Mask", "match": {"columns": ["ssn"]}},
        ],
    },
}
WHO = ["--user", "ada@example.com", "--group", "ai", "--claim", "level=3", "--at", "2026-11-25T10:00Z"]


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all([TARGET, POLICY], sort_keys=False))
    return tmp_path


def run(*arguments: str | Path, stdin: str | None = None) -> Result:
    return CliRunner().invoke(policy, [str(argument) for argument in arguments], input=stdin)


def explain(manifests: Path, *arguments: str, stdin: str | None = None) -> Result:
    return run("explain", "--manifests", manifests, *WHO, *arguments, stdin=stdin)


def test_explain_prints_the_steps_and_the_answer(manifests: Path) -> None:
    result = explain(manifests, "select ssn from app.users")
    assert result.exit_code == 0
    assert "subjects of shop/readers: name the principal" in result.stdout
    assert "validity of shop/readers: valid" in result.stdout
    assert "Allow (Granted) by shop/readers#grants[0]" in result.stdout
    assert "masks columns ssn (Redact) by shop/readers#pii" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "decision", "reason"),
    [
        (["delete from app.t"], "Measure", None),
        (["--rows", "100", "delete from app.t"], "Allow", "Granted"),
        (["--rows", "101", "delete from app.t"], "RequireApproval", "ApprovalRequired"),
        (["--rows", "101", "--approved-rows", "101", "delete from app.t"], "Allow", "Granted"),
        (["--rows", "102", "--approved-rows", "101", "delete from app.t"], "Deny", "ImpactExceedsApproval"),
        (["--at", "2026-11-28T10:00Z", "select 1"], "Deny", "OutsideValidity"),
        (["--claim", "level=2", "select 1"], "Deny", "NoPolicy"),
        (["--claim", "level=high", "select 1"], "Deny", "NoGrant"),  # not a number: an error, so its rules stand
        (["--database", "stock", "--role", "readonly", "select 1"], "Deny", "NoGrant"),
        (["selekt 1"], "Deny", "StatementUnparsable"),
        ([], "Session", None),
    ],
)
def test_explain_answers_a_program_in_json(manifests: Path, arguments: list[str], decision: str, reason: str | None) -> None:
    result = explain(manifests, "--output", "json", *arguments)
    assert result.exit_code == 0
    answer = json.loads(result.stdout)
    assert (answer["decision"], answer.get("reason")) == (decision, reason)
    assert answer["steps"]


def test_explain_reads_sql_from_standard_input(manifests: Path) -> None:
    result = explain(manifests, "-", stdin="delete from app.t;\ndrop table app.t")
    assert "Deny (NoGrant)" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--target", "nope", "select 1"], "target `nope` isn't in the manifests"),
        (["--claim", "level", "select 1"], "`level` is not NAME=VALUE"),
        (["--at", "yesterday", "select 1"], "`yesterday` is not a moment"),
        (["--at", "2026-11-25T10:00", "select 1"], "has no offset from UTC"),
    ],
)
def test_a_question_that_cannot_be_asked_is_refused_with_the_way_forward(
    manifests: Path, arguments: list[str], words: str
) -> None:
    result = explain(manifests, *arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert result.stdout == ""


def test_manifests_with_errors_explain_nothing(manifests: Path) -> None:
    (manifests / "more.yaml").write_text(
        yaml.safe_dump({**POLICY, "metadata": {"name": "b", "namespace": "shop"}}).replace("claims.level >= 3", "nope")
    )
    result = explain(manifests, "select 1")
    assert result.exit_code == 2
    assert "undeclared reference to 'nope'" in result.stderr


def test_check_asks_the_projects_own_cases() -> None:
    result = run("explain", "--check", ROOT / "tests" / "conformance" / "engine")
    assert (result.exit_code, result.stdout) == (0, "")
    assert ", 0 not" in result.stderr


def test_check_fails_on_a_difference_and_names_it(tmp_path: Path) -> None:
    document = yaml.safe_load((ROOT / "tests" / "conformance" / "engine" / "time.yaml").read_text())
    document["cases"][0]["expect"] = {"decision": "Deny"}
    (tmp_path / "cases.yaml").write_text(yaml.safe_dump(document))
    result = run("explain", "--check", tmp_path)
    assert result.exit_code == 1
    assert f"{document['cases'][0]['name']}: decision should be `Deny` and is `Allow`" in result.stdout


@pytest.mark.parametrize("text", [None, "", "cases: [", "- 1", "resources: []\ncases: []\n"])
def test_check_never_passes_on_nothing(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "cases.yaml").write_text(text)
    assert run("explain", "--check", tmp_path).exit_code == 2


def test_lint_names_file_and_line(manifests: Path) -> None:
    text = (manifests / "all.yaml").read_text().replace("role: readonly\n      allow", "role: owner\n      allow")
    (manifests / "all.yaml").write_text(text)
    line = next(number for number, each in enumerate(text.splitlines(), 1) if "role: owner" in each)
    result = run("lint", "--manifests", manifests)
    assert result.exit_code == 1
    assert result.stdout.startswith(
        f"{manifests / 'all.yaml'}:{line}: Error: AccessPolicy/shop/readers: spec.grants[0].postgres.role: "
    )


def test_lint_passes_warnings_unless_strict(manifests: Path) -> None:
    (manifests / "all.yaml").write_text(yaml.safe_dump_all([TARGET, {**POLICY, "spec": {**POLICY["spec"], "mode": "Observe"}}]))
    assert run("lint", "--manifests", manifests).exit_code == 0
    assert run("lint", "--manifests", manifests, "--strict").exit_code == 1


def test_lint_reviews_policies_about_no_target_and_expired_ones(manifests: Path) -> None:
    lost = {**POLICY, "metadata": {"name": "lost", "namespace": "shop"}, "spec": {**POLICY["spec"], "targets": {"names": ["x"]}}}
    old = {**POLICY, "metadata": {"name": "old", "namespace": "shop"}}
    old["spec"] = {**POLICY["spec"], "validity": {"notAfter": "2026-01-01T00:00:00Z"}}
    (manifests / "more.yaml").write_text(yaml.safe_dump_all([lost, old]))
    result = run("lint", "--manifests", manifests, "--at", "2026-11-25T10:00Z")
    assert "AccessPolicy/shop/lost: spec.targets: the policy is about no target" in result.stdout
    assert (
        "AccessPolicy/shop/old: spec.validity.notAfter: the policy grants nothing any more, and its rules still hold"
        in result.stdout
    )


def test_a_manifest_that_cannot_be_read_is_named_with_its_line(manifests: Path) -> None:
    (manifests / "bad.yaml").write_text("apiVersion: sidegate.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {name: x}\nspec: 1\n")
    for command in ("lint", "compile"):
        result = run(command, "--manifests", manifests)
        assert result.exit_code == 2
        assert "bad.yaml:4" in result.stderr


def test_compile_writes_what_a_gate_reads(manifests: Path) -> None:
    output = manifests / "gate.json"
    arguments = ["compile", "--manifests", manifests, "--target", "shop/shop-db", "--address", "/run/pg:5432", "--secrets", "/s"]
    result = run(*arguments, "--output", output)
    assert result.exit_code == 0, result.stderr
    config = decode_config(output.read_bytes())
    assert (config.target.address.host, config.target.address.port) == ("/run/pg", 5432)
    assert config.target.credentials[0].password_file == "/s/readonly/password"
    assert run(*arguments).stdout_bytes == output.read_bytes()


def test_compile_fails_without_a_config(manifests: Path) -> None:
    (manifests / "all.yaml").write_text(yaml.safe_dump_all([TARGET, POLICY]).replace("role: readonly\n    ", "role: owner\n    "))
    text = (manifests / "all.yaml").read_text()
    (manifests / "all.yaml").write_text(text.replace("claims.level >= 3", "nope"))
    result = run("compile", "--manifests", manifests, "--output", manifests / "gate.json")
    assert result.exit_code == 1
    assert not (manifests / "gate.json").exists()


@pytest.mark.parametrize("command", [[], ["explain"], ["lint"], ["compile"]])
def test_help_has_examples(command: list[str]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert "EXAMPLES" in result.stdout
