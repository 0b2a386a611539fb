"""`sidegate setup postgres`: the target's own roles and host rules, so that nobody gets past its gate; shown, made or checked.

Rules it keeps: without --apply nothing is changed, anywhere; host rules come first and roles after, so that no role is ever there
without its rules; passwords are read from the credentials' files and stay on this machine. What is made and found is `sidegate.setup`'s.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from sidegate.cli.recordings import CommandFailure

if TYPE_CHECKING:
    from sidegate.api.protected_target import Credential, ProtectedTarget
    from sidegate.setup.host_rules import GateRules
    from sidegate.setup.review import ServerFacts, Wanted
    from sidegate.setup.roles import Statement
    from sidegate.setup.server import Server

_FORMS: Final = ("file", "cloud-native-pg", "zalando", "config-map")
_POSTGRES_HELP: Final = """Let a PostgreSQL server be reached through its gate alone.

For each credential of a ProtectedTarget: a role without power over the server, whose password is kept as a SCRAM verifier; and host rules
(pg_hba) that let these roles in from the gate's place only and reject them from everywhere else, before every other rule.

Without --apply nothing is changed: what would be is shown. Give --url, or PGHOST and its kin, to see it against what is there.

The gate's place is loopback and the Unix socket, as beside the target in its pod. A target with an endpoint elsewhere needs
--gate-network.

\b
EXAMPLES
  What would be made, and where the host rules go in a CloudNativePG cluster:
    sidegate setup postgres --manifests shop-db.yaml --form cloud-native-pg
  On the server's machine, all of it:
    sidegate setup postgres --manifests shop-db.yaml --secrets ./secrets \\
        --url 'postgresql://postgres@/postgres?host=/run/postgresql' \\
        --hba-file /etc/postgresql/18/main/pg_hba.conf --apply
  Whether it holds:
    sidegate setup postgres --manifests shop-db.yaml --check

\b
PASSWORDS
  Of the credentials: SECRETS/NAME/KEY, as the gate reads them. With
  --generate-passwords, missing ones are made and written there, mode 0600.
  Of the superuser: --password-file, or as for psql: PGPASSWORD, PGPASSFILE;
  --ask-password asks for it.

\b
EXIT STATUS
  0  shown; or made; or checked, and no door is open
  1  a door is open, each is named; with --strict a warning is enough; or it
     can't be made
  2  the command was used wrongly
"""


@click.group("setup", short_help="Prepare a target so that only its gate gets in.")
def setup() -> None:
    """Prepare a target so that only its gate gets in."""


@setup.command("postgres", help=_POSTGRES_HELP, short_help="roles and host rules of a PostgreSQL server")
@click.option(
    "--manifests",
    required=True,
    type=click.Path(path_type=Path, allow_dash=True),
    metavar="PATH",
    help="Directory or file with the ProtectedTarget; `-`: standard input.",
)
@click.option("--target", metavar="NAME", help="The ProtectedTarget, as NAME or NAMESPACE/NAME; needed when there are several.")
@click.option(
    "--role", "roles", multiple=True, metavar="NAME", help="Make only this credential's role; repeatable. Rules are for all."
)
@click.option(
    "--secrets",
    "secrets_dir",
    type=click.Path(path_type=Path),
    default=Path("secrets"),
    show_default=True,
    metavar="DIR",
    help="Where the credentials' passwords are, as NAME/KEY.",
)
@click.option("--generate-passwords", is_flag=True, help="With --apply: make passwords that aren't there.")
@click.option(
    "--url", default="", metavar="URL", help="The server, as its superuser: postgresql://postgres@HOST/postgres, no password."
)
@click.option(
    "--password-file", type=click.Path(path_type=Path, allow_dash=True), metavar="FILE", help="The superuser's password."
)
@click.option("--ask-password", is_flag=True, help="Ask for the superuser's password.")
@click.option(
    "--gate-network", "networks", multiple=True, metavar="CIDR", help="Where the gate comes from; repeatable. Default: loopback."
)
@click.option(
    "--hba-file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="With --apply: put the rules into this file, which is the server's own on this machine.",
)
@click.option("--form", type=click.Choice(_FORMS), default="file", show_default=True, help="Form in which the rules are shown.")
@click.option("--apply", "does_apply", is_flag=True, help="Make it.")
@click.option("--check", "does_check", is_flag=True, help="Only look what stands open.")
@click.option("--strict", is_flag=True, help="With --check or --apply: warnings fail, too.")
def postgres(
    *,
    manifests: Path,
    target: str | None,
    roles: tuple[str, ...],
    secrets_dir: Path,
    generate_passwords: bool,
    url: str,
    password_file: Path | None,
    ask_password: bool,
    networks: tuple[str, ...],
    hba_file: Path | None,
    form: str,
    does_apply: bool,
    does_check: bool,
    strict: bool,
) -> None:
    if does_apply and does_check:
        raise click.UsageError("give --apply or --check, not both")
    if hba_file is not None and not does_apply:
        raise click.UsageError("--hba-file goes with --apply")
    found = _target(manifests, target)
    wanted = wanted_of(found, networks)
    name = f"{found.metadata.namespace}/{found.metadata.name}"
    chosen = _chosen(found, roles)
    server = superuser(url, password_file, ask_password) if _is_reachable(url) or does_apply or does_check else None
    facts = _facts(server) if server is not None else None
    if does_check:
        assert facts is not None
        sys.exit(_report(facts, wanted, strict))
    if not does_apply:
        _show(_statements(chosen, secrets_dir, facts, None), wanted.gate, name, form, facts)
        return
    assert server is not None
    assert facts is not None
    sys.exit(
        _apply(server, facts, wanted, name, _statements(chosen, secrets_dir, facts, generate_passwords), hba_file, form, strict)
    )


# What is wanted


def _target(manifests: Path, name: str | None) -> ProtectedTarget:
    from sidegate.api.manifests import ManifestError, parse_manifests
    from sidegate.api.protected_target import Protocol
    from sidegate.runtime.manifest_files import read_manifests

    try:
        read = parse_manifests([("standard input", sys.stdin.read())]) if str(manifests) == "-" else read_manifests(manifests)
    except ManifestError as error:
        for problem in error.problems:
            click.echo(str(problem), err=True)
        raise CommandFailure(f"the manifests in `{manifests}` can't be used", "mend what is listed above") from None
    targets = [each.resource for each in read.targets if each.resource.spec.protocol is Protocol.POSTGRES]
    namespace, _, short = (name or "").rpartition("/")
    found = [
        each for each in targets if name is None or (each.metadata.name == short and namespace in ("", each.metadata.namespace))
    ]
    if len(found) != 1:
        known = ", ".join(sorted(f"`{each.metadata.namespace}/{each.metadata.name}`" for each in targets)) or "none"
        raise CommandFailure(f"{len(found)} PostgreSQL targets are meant, not one", f"choose with --target among {known}")
    return found[0]


def wanted_of(target: ProtectedTarget, networks: Sequence[str]) -> Wanted:
    """What the server must be like. Raises CommandFailure: the target and the networks don't say it."""
    from sidegate.api.protected_target import TargetTlsMode
    from sidegate.setup.host_rules import LOOPBACK, GateRules
    from sidegate.setup.review import Wanted

    spec = target.spec
    is_beside = spec.endpoint is None or spec.endpoint.host.is_local
    if not is_beside and not networks:
        assert spec.endpoint is not None
        raise CommandFailure(
            f"the gate reaches the target at `{spec.endpoint.host}`, from outside",
            "say from where with --gate-network, as in 10.1.0.0/16",
        )
    try:
        given = tuple(ipaddress.ip_network(each) for each in networks) or LOOPBACK
    except ValueError as error:
        raise CommandFailure(f"--gate-network can't be read: {error}", "write it as in 10.1.0.0/16") from None
    if any(each.prefixlen == 0 for each in given):
        raise CommandFailure("--gate-network names everywhere", "name the network that the gate's pods are in")
    names = tuple(dict.fromkeys(_username(each) for each in spec.credentials))
    tls = spec.tls is not None and spec.tls.target.mode is not TargetTlsMode.LOOPBACK
    gate = GateRules(names, given, tls)
    try:
        gate.lines()
    except ValueError as error:
        raise CommandFailure(str(error), "give the role another name, and write it in spec.credentials[].username") from None
    return Wanted(gate, frozenset(str(role) for each in spec.passthrough for role in each.roles))


def _username(credential: Credential) -> str:
    return str(credential.username or credential.role)


def _chosen(target: ProtectedTarget, roles: Sequence[str]) -> list[Credential]:
    known = {str(each.role): each for each in target.spec.credentials}
    unknown = [each for each in roles if each not in known]
    if unknown:
        named = ", ".join(f"`{each}`" for each in known)
        raise CommandFailure(f"the target has no credential for role `{unknown[0]}`", f"choose among {named}")
    return [known[each] for each in dict.fromkeys(roles)] if roles else list(known.values())


def _statements(
    credentials: Sequence[Credential], secrets_dir: Path, facts: ServerFacts | None, generates: bool | None
) -> list[Statement]:
    """What makes the roles. `generates` None: only shown, so that missing passwords are no fault and none is made."""
    from sidegate.postgres.scram import ScramError
    from sidegate.setup.roles import MIN_ITERATIONS, SALT_BYTES, UnusableRole, role_statements

    statements: list[Statement] = []
    for name, credential in {_username(each): each for each in credentials}.items():
        known = facts.roles.get(name) if facts is not None else None
        password = _password(credential, secrets_dir, generates)
        iterations = facts.scram_iterations if facts is not None else MIN_ITERATIONS
        try:
            statements += role_statements(name, password, known, secrets.token_bytes(SALT_BYTES), iterations)
        except (UnusableRole, ScramError) as error:
            raise CommandFailure(str(error), error.way_forward) from None
    return statements


def _password(credential: Credential, secrets_dir: Path, generates: bool | None) -> str:
    if credential.secret_ref is None:
        raise CommandFailure(
            f"credential `{credential.role}` names no Secret, so its role would have no password",
            "give it a secretRef: from loopback, only the password tells the gate from others in the pod",
        )
    path = secrets_dir / str(credential.secret_ref.name) / str(credential.secret_ref.key)
    try:
        return path.read_text(encoding="utf-8").rstrip("\r\n")
    except FileNotFoundError:
        pass
    except (OSError, UnicodeDecodeError) as error:
        raise CommandFailure(f"password of credential `{credential.role}` can't be read: {error}", f"check `{path}`") from None
    made = secrets.token_urlsafe(32)
    if generates is None:
        return made  # stands in for what isn't shown
    if not generates:
        raise CommandFailure(
            f"credential `{credential.role}` has no password: `{path}` isn't there", "write it, or --generate-passwords"
        )
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(made)
    except OSError as error:
        raise CommandFailure(f"`{path}` can't be written: {error.strerror}", "name another directory with --secrets") from error
    click.echo(f"made a password: {path}", err=True)
    return made


# The server


def _is_reachable(url: str) -> bool:
    """Whether the caller has said which server: without that, nothing is asked of whatever listens here."""
    return bool(url) or any(os.environ.get(each) for each in ("PGHOST", "PGHOSTADDR", "PGSERVICE"))


def superuser(url: str, password_file: Path | None, asks: bool) -> Server:
    """The server, not yet asked. Raises CommandFailure: the URL or the password can't be used, or a package is missing."""
    try:
        from sidegate.setup.server import Server, ServerProblem
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("sidegate"):
            raise
        raise CommandFailure(f"this needs the package `{error.name}`", "install sidegate[setup]") from error
    password = None
    if password_file is not None:
        try:
            text = sys.stdin.read() if str(password_file) == "-" else password_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CommandFailure(f"`{password_file}` can't be read: {error}", "name a file with the password alone") from None
        password = text.rstrip("\r\n")
    elif asks:
        password = click.prompt("Password of the superuser", hide_input=True, err=True)
    try:
        return Server(url, password)
    except ServerProblem as error:
        raise CommandFailure(str(error), error.way_forward) from None


def _facts(server: Server) -> ServerFacts:
    from sidegate.setup.server import ServerProblem

    try:
        return server.facts()
    except ServerProblem as error:
        raise CommandFailure(str(error), error.way_forward) from error


def _apply(
    server: Server,
    facts: ServerFacts,
    wanted: Wanted,
    name: str,
    statements: Sequence[Statement],
    hba_file: Path | None,
    form: str,
    strict: bool,
) -> int:
    from sidegate.setup.hba_file import bring_up_to_date
    from sidegate.setup.server import ServerProblem

    try:
        if hba_file is not None:
            is_new = bring_up_to_date(server, hba_file, name, wanted.gate.lines())
            click.echo(f"host rules: {'written and loaded' if is_new else 'unchanged'}")
        elif any(each.is_door for each in _ways(server.facts(), wanted)):
            # A role that is let in from everywhere must not come into being, nor get a password that works.
            _show([], wanted.gate, name, form, facts)
            raise CommandFailure(
                "the host rules aren't in force yet, so the roles weren't made",
                "put the lines above where they go, then run this again",
            )
        server.run(statements)
    except ServerProblem as error:
        raise CommandFailure(str(error), error.way_forward) from error
    for each in statements:
        click.echo(each.shown)
    click.echo(f"roles: {len(statements)} changed")
    return _report(_facts(server), wanted, strict)


def _ways(facts: ServerFacts, wanted: Wanted) -> list[Any]:
    from sidegate.setup.review import ways_of_gate_roles

    return list(ways_of_gate_roles(facts, wanted))


def _report(facts: ServerFacts, wanted: Wanted, strict: bool) -> int:
    from sidegate.mask.plain import plain
    from sidegate.setup.review import review

    found = review(facts, wanted)
    for each in found:
        click.echo(plain(str(each)))
    doors = sum(each.is_door for each in found)
    click.echo(f"{doors} open doors, {len(found) - doors} warnings", err=True)
    return 1 if doors or (strict and found) else 0


def _show(statements: Sequence[Statement], gate: GateRules, name: str, form: str, facts: ServerFacts | None) -> None:
    from sidegate.setup.snippets import Form, snippet

    if statements:
        click.echo("-- roles" + ("" if facts is not None else ", as on a server that has none of them"))
        for each in statements:
            click.echo(each.shown)
        click.echo()
    click.echo(snippet(Form(form), name, gate.lines(), facts.hba_file if facts is not None else ""), nl=False)
