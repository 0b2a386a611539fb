"""`sidegate policy`: what the policies say, without a gate and without a cluster.

`explain` walks one statement through them, `lint` reviews them, `compile` writes what a gate reads. Everything is read from manifests;
nothing is asked of a target. Standard output has the answer and nothing else; problems go to standard error with their way forward.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from sidegate.cli.from_manifests import (
    DEFAULT_SECRETS_DIR,
    Failure,
    compiled_target,
    config_of,
    moment_of,
    read_manifests,
    target_named,
)
from sidegate.cli.regression import test

if TYPE_CHECKING:  # imported when needed, so that `--help` comes fast
    from sidegate.api.protected_target import ProtectedTarget
    from sidegate.policy.config import GateConfig
    from sidegate.policy.principal import Json
    from sidegate.policy.statement import SqlStatement

_GROUP_HELP: Final = """Explain, check and compile policies, from manifests alone.

\b
EXAMPLES
  sidegate policy lint --manifests manifests
  sidegate policy explain --manifests manifests --target shop-db \\
      --user ada@example.com --group ai-assistants 'select * from users'
  sidegate policy compile --manifests manifests --target shop-db
"""

_EXPLAIN_HELP: Final = """Show what the policies say to one SQL text, step by step.

Prints who asks, each step of the decision with the policy part it comes from, and the answer: allowed, denied, held for approval, or to
be measured first. It is the same engine that a gate runs. Give the SQL in quotes, or `-` to read it from standard input; without
SQL the question is whether a session may be opened, and as which role.

What the target alone knows stays out: which columns a view has, and how many rows would change (say it with --rows).

\b
EXAMPLES
  May an assistant read this table, and what is masked?
    sidegate policy explain --manifests manifests --target shop-db \\
        --user ada@example.com --group ai-assistants \\
        'select email from users where id = 7'
  What if it deletes 5000 rows on a Saturday night?
    sidegate policy explain --manifests manifests --target shop-db \\
        --user ada@example.com --group ai-assistants --rows 5000 \\
        --at 2026-11-28T22:30:00Z 'delete from orders'
  From the office network, with a claim, as a program reads it:
    sidegate policy explain --manifests manifests --target shop-db \\
        --user ada@example.com --environment office \\
        --claim department=data --output json 'drop table orders'
  Check cases against the engine:
    sidegate policy explain --check tests/conformance/engine

\b
CLAIMS
  --claim NAME=VALUE gives the token's claims that subject expressions read. A
  value that is JSON is taken as such (true, 3, ["a"], {"unit": "x"}), anything
  else as text. Groups, user, agent and environment have options of their own.

\b
EXIT STATUS
  0  the question was answered, whatever the answer; all cases as expected
  1  a case isn't as expected
  2  the question, the manifests or the cases can't be used
"""

_LINT_HELP: Final = """Review policies: what can't work, and what may not mean what its author thinks.

Prints one finding a line with its file and line, the worst first: Errors keep a target from getting a config, Warnings are probably
mistakes, Notes are worth knowing.

\b
EXAMPLES
  sidegate policy lint --manifests manifests
  sidegate policy lint --manifests manifests --strict     in a pipeline

\b
EXIT STATUS
  0  no Errors; with --strict no Warnings either
  1  there are some
  2  the manifests can't be read
"""

_COMPILE_HELP: Final = """Write the gate config that the manifests make: all that one gate must know, as JSON.

The same manifests give the same bytes and the same revision, here and in a cluster. Secrets are never in it: it names the
files that hold them, SECRETS/NAME/KEY.

\b
EXAMPLES
  sidegate policy compile --manifests manifests --target shop-db \\
      --output gate.json
  sidegate policy compile --manifests manifests --target shop-db \\
      --secrets ./secrets --address /var/run/postgresql:5432

\b
EXIT STATUS
  0  the config is written
  1  findings of severity Error: there is no config
  2  the manifests can't be read, or the target isn't among them
"""


@click.group("policy", help=_GROUP_HELP, short_help="explain, check and compile policies")
def policy() -> None:
    pass


_manifests_option = click.option(
    "--manifests",
    type=click.Path(path_type=Path, exists=True),
    metavar="DIR",
    help="directory (or file) of ProtectedTargets and AccessPolicies",
)


@policy.command("explain", help=_EXPLAIN_HELP, short_help="show what the policies say to one SQL text, step by step")
@_manifests_option
@click.option("--target", metavar="NAME", help="the ProtectedTarget, as NAME or NAMESPACE/NAME; needed when there are several")
@click.option("--user", metavar="NAME", help="who asks: the username, as the username claim has it")
@click.option("--group", "groups", multiple=True, metavar="NAME", help="a group they are in; repeatable")
@click.option("--agent", metavar="NAME", help="the agent that acts for them")
@click.option("--claim", "claims", multiple=True, metavar="NAME=VALUE", help="a claim of their token; repeatable; see CLAIMS")
@click.option("--environment", metavar="NAME", help="the environment they call from; default: none")
@click.option("--database", metavar="NAME", help="the database; default: the only one that grants name")
@click.option("--role", metavar="NAME", help="the role of the session; default: the one that a session would get")
@click.option(
    "--search-path", metavar="SCHEMA,...", help="the session's search_path; default: unknown, so names could be anywhere"
)
@click.option("--at", metavar="TIME", help="the moment, as in 2026-11-25T10:00Z; default: now")
@click.option("--rows", type=click.IntRange(min=0), metavar="N", help="suppose that the statement changes so many rows")
@click.option("--approved", is_flag=True, help="suppose that an approver has approved it, for --approved-rows if given")
@click.option("--approved-rows", type=click.IntRange(min=0), metavar="N", help="how many rows were approved")
@click.option(
    "--spent-statements", type=click.IntRange(min=0), default=0, metavar="N", help="suppose that so many ran in the session"
)
@click.option(
    "--spent-rows", type=click.IntRange(min=0), default=0, metavar="N", help="suppose that so many rows were returned in it"
)
@click.option(
    "--spent-masked-values", type=click.IntRange(min=0), default=0, metavar="N", help="suppose that so many masked values were"
)
@click.option("--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="form of the answer")
@click.option(
    "--check", type=click.Path(path_type=Path, exists=True), metavar="DIR", help="ask the cases of these YAML files instead"
)
@click.argument("sql", required=False)
def explain(
    *,
    manifests: Path | None,
    target: str | None,
    user: str | None,
    groups: tuple[str, ...],
    agent: str | None,
    claims: tuple[str, ...],
    environment: str | None,
    database: str | None,
    role: str | None,
    search_path: str | None,
    at: str | None,
    rows: int | None,
    approved: bool,
    approved_rows: int | None,
    spent_statements: int,
    spent_rows: int,
    spent_masked_values: int,
    output: str,
    check: Path | None,
    sql: str | None,
) -> None:
    if check is not None:
        _check(check)
        return
    if manifests is None or user is None:
        raise click.UsageError("give --manifests and --user, or --check")
    from sidegate.policy.explain import Question, as_json, as_text
    from sidegate.policy.explain import explain as explain_question
    from sidegate.policy.principal import Principal
    from sidegate.policy.statement import Impact, Spent

    config = _config_named(manifests, target)
    text = sys.stdin.read() if sql == "-" else sql
    path = tuple(name.strip() for name in search_path.split(",")) if search_path else None
    statements = _classify(text, path) if text is not None else None
    question = Question(
        principal=Principal(
            issuer="https://issuer.invalid",
            subject=user,
            username=user,
            groups=frozenset(groups),
            agent=agent,
            environment=environment,
            claims=_claims(claims),
        ),
        database=database or _only_database(config),
        now=moment_of(at),
        role=role,
        statements=None if isinstance(statements, str) else statements,
        unparsable=statements if isinstance(statements, str) else None,
        impact=Impact(rows) if rows is not None else None,
        approved_fingerprint="approved" if approved or approved_rows is not None else None,
        approved_rows=approved_rows,
        spent=Spent(spent_statements, spent_rows, spent_masked_values),
    )
    explanation = explain_question(config, question)
    click.echo(json.dumps(as_json(explanation), indent=2) if output == "json" else as_text(explanation), nl=output == "json")


@policy.command("lint", help=_LINT_HELP, short_help="review policies for mistakes")
@_manifests_option
@click.option("--strict", is_flag=True, help="fail on Warnings too")
@click.option("--at", metavar="TIME", help="the moment for which validity is reviewed; default: now")
def lint(*, manifests: Path | None, strict: bool, at: str | None) -> None:
    if manifests is None:
        raise click.UsageError("give --manifests")
    from sidegate.api.access_policy import FindingSeverity
    from sidegate.policy.finding import name_of, worst_first
    from sidegate.policy.review import review_time, review_unbound

    read = read_manifests(manifests)
    targets = [each.resource for each in read.targets]
    policies = [each.resource for each in read.policies]
    findings = [finding for target in targets for finding in compiled_target(target, read).findings]
    findings += review_unbound(targets, [each for each in policies if not _is_bound(each, targets)])
    now = moment_of(at)
    findings += [finding for each in policies for finding in review_time(each, now)]
    places = {name_of(each.resource): each.origin for each in read.targets}
    places |= {name_of(each.resource): each.origin for each in read.policies}
    ordered = worst_first(findings)
    for finding in ordered:
        origin = places.get(finding.resource)
        where = f"{origin.file}:{origin.line_of(finding.field_path)}: " if origin is not None else ""
        click.echo(f"{where}{finding}")
    counts = {severity: sum(1 for finding in ordered if finding.severity is severity) for severity in FindingSeverity}
    summary = ", ".join(f"{count} {severity.value}{'' if count == 1 else 's'}" for severity, count in counts.items())
    click.echo(f"{len(targets)} targets, {len(policies)} policies: {summary}", err=True)
    if counts[FindingSeverity.ERROR] or (strict and counts[FindingSeverity.WARNING]):
        raise SystemExit(1)


@policy.command("compile", help=_COMPILE_HELP, short_help="write the gate config that manifests make")
@_manifests_option
@click.option("--target", metavar="NAME", help="the ProtectedTarget, as NAME or NAMESPACE/NAME; needed when there are several")
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="write it there; default: standard output"
)
@click.option("--secrets", default=DEFAULT_SECRETS_DIR, show_default=True, metavar="DIR", help="where the gate finds Secrets")
@click.option("--address", metavar="HOST:PORT", help="where the target really listens; HOST may be a socket's directory")
def compile_(*, manifests: Path | None, target: str | None, output: Path | None, secrets: str, address: str | None) -> None:
    if manifests is None:
        raise click.UsageError("give --manifests")
    from sidegate.policy.config import encode_config

    read = read_manifests(manifests)
    compiled = compiled_target(target_named(read, target), read, secrets, address)
    for finding in compiled.findings:
        click.echo(str(finding), err=True)
    if compiled.config is None:
        raise SystemExit(1)
    data = encode_config(compiled.config) + b"\n"
    if output is None:
        sys.stdout.buffer.write(data)
        return
    try:
        output.write_bytes(data)
    except OSError as error:
        raise Failure(
            f"`{output}` can't be written: {error.strerror}", "name a file in a directory that you may write"
        ) from error


def _config_named(manifests: Path, target: str | None) -> GateConfig:
    read = read_manifests(manifests)
    return config_of(target_named(read, target), read)


def _is_bound(policy: Any, targets: Sequence[ProtectedTarget]) -> bool:
    from sidegate.policy.compile import binds

    return any(binds(policy, target) for target in targets)


def _classify(text: str, search_path: tuple[str, ...] | None) -> Sequence[SqlStatement] | str:
    from sidegate.sql import Analysis, analyse

    analysis = analyse(text, search_path)
    return analysis.statements if isinstance(analysis, Analysis) else analysis.message


def _claims(options: Sequence[str]) -> dict[str, Json]:
    claims: dict[str, Json] = {}
    for option in options:
        name, separator, value = option.partition("=")
        if not name or not separator:
            raise click.BadParameter(f"`{option}` is not NAME=VALUE", param_hint="--claim")
        try:
            claims[name] = json.loads(value)
        except ValueError:
            claims[name] = value
    return claims


def _only_database(config: GateConfig) -> str:
    named = {name for each in config.policies for grant in each.grants for name in grant.databases}
    plain = {name for name in named if "*" not in name}
    if len(plain) == 1:
        return next(iter(plain))
    raise click.UsageError(f"give --database: grants name {', '.join(sorted(named)) or 'none'}")


def _check(place: Path) -> None:
    """Ask every case of a directory (or file); differences on standard output, and exit status 1 when there are any."""
    import yaml

    from sidegate.policy.cases import CaseError, read_cases, run_cases

    files = sorted(place.glob("*.yaml")) if place.is_dir() else [place]
    asked = failed = 0
    for file in files:
        try:
            outcomes = run_cases(read_cases(yaml.safe_load(file.read_text("utf-8"))), _classify)
        except (CaseError, OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise Failure(f"{file}: {error}", getattr(error, "way_forward", "make it a readable YAML file of cases")) from error
        for outcome in outcomes:
            asked += 1
            failed += bool(outcome.differences)
            for difference in outcome.differences:
                click.echo(f"{file}: {outcome.case.name}: {difference}")
    if not asked:
        raise Failure(f"`{place}` has no cases", "name a directory with *.yaml files of cases")
    click.echo(f"{asked} cases, {asked - failed} as expected, {failed} not", err=True)
    if failed:
        raise SystemExit(1)


policy.add_command(test)
