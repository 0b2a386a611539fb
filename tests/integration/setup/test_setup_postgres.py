"""`sidegate setup postgres` on a real server: made, made again, taken back, checked; and what it makes holds when it is tried."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from click.testing import CliRunner, Result

from sidegate.cli.main import main
from sidegate.probe.answer import DoorState
from sidegate.probe.postgres import probe_postgres
from sidegate.setup.host_rules import HostRule
from sidegate.setup.server import Server
from tests.support.debian_postgres import DebianPostgres, required_debian_installation
from tests.support.host_rules import ADMIN, STRANGER_ADDRESS, host_rules
from tests.support.postgres_server import SUPERUSER, PostgresServer

ROLES = ("gate_reader", "gate_writer")


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer() as running:
        yield running


@pytest.fixture(scope="module")
def old_server() -> Iterator[DebianPostgres]:
    with DebianPostgres(required_debian_installation()) as running:
        yield running


class Setting:
    """A target's manifest, its passwords, and a server to set up. Everything is gone afterwards."""

    def __init__(self, server: PostgresServer, directory: Path) -> None:
        self.server = server
        self.directory = directory
        self.hba = server.data / "pg_hba.conf"
        self.secrets = directory / "secrets"
        for role in ROLES:
            self.password_file(role).parent.mkdir(parents=True)
            self.password_file(role).write_text(f"{role}'s own pässword\n")
        self.manifest = directory / "target.yaml"
        self.write_manifest()

    def password_file(self, role: str) -> Path:
        return self.secrets / role.replace("_", "-") / "password"

    def write_manifest(self, **spec: Any) -> None:
        wanted = {
            "protocol": "Postgres",
            "environment": "production",
            "selector": {"matchLabels": {"app": "shop"}},
            "port": 5432,
            "tls": {"client": {"plainText": "LoopbackOnly"}},
            "identity": {"issuers": [{"url": "https://id.example", "audiences": ["sidegate"]}]},
            "credentials": [{"role": role, "secretRef": {"name": role.replace("_", "-"), "key": "password"}} for role in ROLES],
            **spec,
        }
        if "endpoint" in spec:
            del wanted["selector"]
        metadata = {"name": "shop-db", "namespace": "shop"}
        document = {"apiVersion": "sidegate.dev/v1alpha1", "kind": "ProtectedTarget", "metadata": metadata, "spec": wanted}
        self.manifest.write_text(yaml.safe_dump(document))

    @property
    def url(self) -> str:
        return f"host={self.server.directory} port={self.server.port} user={SUPERUSER} dbname=postgres"

    def run(self, *arguments: str, input: str | None = None, manifests: str | None = None) -> Result:
        command = ["setup", "postgres", "--manifests", manifests or str(self.manifest), "--secrets", str(self.secrets)]
        return CliRunner().invoke(main, [*command, *arguments], input=input)

    def apply(self, *arguments: str) -> Result:
        return self.run("--url", self.url, "--hba-file", str(self.hba), "--apply", *arguments)

    def check(self, *arguments: str) -> Result:
        return self.run("--url", self.url, "--check", *arguments)

    def execute(self, text: str) -> None:
        with self.server.admin() as admin:
            admin.execute(text)

    def verifiers(self) -> list[Any]:
        with self.server.admin() as admin:
            return admin.execute("SELECT rolname, rolpassword FROM pg_authid WHERE rolname LIKE 'gate%' ORDER BY 1").fetchall()

    async def states(self, role: str = ROLES[0], local_address: str = STRANGER_ADDRESS) -> set[DoorState]:
        doors = await probe_postgres("127.0.0.1", self.server.port, [role], local_address=local_address)
        return {each.state for each in doors if each.role == role and not each.over_tls}


def cleaned(server: PostgresServer, directory: Path) -> Iterator[Setting]:
    with host_rules(server, ["host all all all scram-sha-256", "host replication all all scram-sha-256"]):
        yield Setting(server, directory)
    with server.admin() as admin:
        for role in ROLES:
            admin.execute(f"DROP ROLE IF EXISTS {role}")


@pytest.fixture
def setting(server: PostgresServer, tmp_path: Path) -> Iterator[Setting]:
    """Everybody comes in from everywhere with a password, as so often."""
    yield from cleaned(server, tmp_path)


def test_shows_and_changes_nothing_without_apply(setting: Setting) -> None:
    before = setting.hba.read_bytes()
    done = setting.run("--url", setting.url)
    assert done.exit_code == 0, done.output
    assert 'CREATE ROLE "gate_reader" LOGIN NOSUPERUSER' in done.output
    assert '"gate_reader","gate_writer" 127.0.0.1/32 scram-sha-256' in done.output
    assert str(setting.hba) in done.output
    assert "own pässword" not in done.output
    assert setting.hba.read_bytes() == before
    assert setting.verifiers() == []


def test_shows_without_a_server_and_from_standard_input(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGHOST", "PGHOSTADDR", "PGSERVICE"):
        monkeypatch.delenv(name, raising=False)
    done = setting.run(input=setting.manifest.read_text(), manifests="-")
    assert done.exit_code == 0, done.output
    assert "CREATE ROLE" in done.output


@pytest.mark.parametrize(
    ("form", "path"), [("cloud-native-pg", ("postgresql", "pg_hba")), ("zalando", ("patroni", "pg_hba")), ("config-map", ())]
)
def test_shows_the_rules_as_an_operators_resource_takes_them(setting: Setting, form: str, path: tuple[str, ...]) -> None:
    done = setting.run("--form", form)
    assert done.exit_code == 0, done.output
    shown = yaml.safe_load(done.output[done.output.index("\n\n") :])
    if path:
        lines = shown["spec"][path[0]][path[1]]
        assert lines[-1].startswith("host    replication")
        assert lines[-1].endswith("all reject")
    else:
        assert shown["data"]["pg_hba.conf"].startswith("# BEGIN sidegate shop/shop-db")


async def test_makes_what_closes_every_door_but_the_gates(setting: Setting) -> None:
    assert await setting.states() == {DoorState.ASKS}
    done = setting.apply()
    assert done.exit_code == 0, done.output
    for role in ROLES:
        assert await setting.states(role) == {DoorState.REJECTED}
        password = setting.password_file(role).read_text().rstrip("\n")
        for host in ("127.0.0.1", str(setting.server.directory)):
            with psycopg.connect(
                host=host, port=setting.server.port, user=role, password=password, dbname="postgres", require_auth="scram-sha-256"
            ) as client:
                assert client.execute("SELECT current_user").fetchone() == (role,)
    assert await setting.states(local_address="127.0.0.1") == {DoorState.ASKS}
    assert setting.check().exit_code == 0


async def test_making_it_again_changes_nothing(setting: Setting) -> None:
    assert setting.apply().exit_code == 0
    kept = setting.hba.read_bytes(), setting.hba.stat(), setting.verifiers()
    done = setting.apply()
    assert done.exit_code == 0, done.output
    assert "host rules: unchanged" in done.output
    assert "roles: 0 changed" in done.output
    assert (setting.hba.read_bytes(), setting.hba.stat(), setting.verifiers()) == kept


def test_the_file_keeps_its_owner_and_mode_and_everything_else_in_it(setting: Setting) -> None:
    setting.hba.chmod(0o640)
    before, others = setting.hba.stat(), setting.hba.read_text()
    assert setting.apply().exit_code == 0
    after = setting.hba.stat()
    assert (after.st_uid, after.st_gid, stat.S_IMODE(after.st_mode)) == (before.st_uid, before.st_gid, 0o640)
    assert setting.hba.read_text().endswith(others)
    assert [each.name for each in setting.hba.parent.iterdir() if each.name.startswith(".pg_hba")] == []


def test_the_password_is_in_no_log(setting: Setting) -> None:
    setting.execute("ALTER SYSTEM SET log_statement = 'all'")
    setting.execute("SELECT pg_reload_conf()")
    try:
        assert setting.apply().exit_code == 0
    finally:
        setting.execute("ALTER SYSTEM RESET log_statement")
        setting.execute("SELECT pg_reload_conf()")
    log = setting.server.read_log()
    assert "own p" not in log
    assert "SCRAM-SHA-256$" not in log
    assert all(secret.startswith("SCRAM-SHA-256$4096:") for _, secret in setting.verifiers())


def test_rules_that_the_server_cant_read_are_taken_back(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    before = setting.hba.read_bytes()
    from sidegate.setup import hba_file

    real = hba_file.with_block
    monkeypatch.setattr(
        hba_file, "with_block", lambda text, name, lines: real(text, name, [*lines, "host all all nonsense/99 scram-sha-256"])
    )
    done = setting.apply()
    assert done.exit_code == 1
    assert "the old ones are back" in done.output
    assert setting.hba.read_bytes() == before
    assert setting.verifiers() == []  # no role without its rules
    assert all(each.error is None for each in Server(setting.url, None).rules())


def test_a_file_that_is_broken_already_is_left_alone(setting: Setting) -> None:
    setting.hba.write_text(setting.hba.read_text() + "host all all nonsense/99 trust\n")
    before = setting.hba.read_bytes()
    done = setting.apply()
    assert done.exit_code == 1
    assert "can't be read already" in done.output
    assert setting.hba.read_bytes() == before


def test_another_servers_file_is_left_alone(setting: Setting) -> None:
    other = setting.directory / "pg_hba.conf"
    other.write_text("host all all all trust\n")
    done = setting.run("--url", setting.url, "--hba-file", str(other), "--apply")
    assert done.exit_code == 1
    assert "isn't what the server reads" in done.output
    assert other.read_text() == "host all all all trust\n"


def test_a_link_stays_a_link(setting: Setting) -> None:
    link = setting.directory / "link.conf"
    link.symlink_to(setting.hba)
    done = setting.run("--url", setting.url, "--hba-file", str(link), "--apply")
    assert done.exit_code == 0, done.output
    assert link.is_symlink()
    assert setting.hba.read_text().startswith("# BEGIN sidegate")


def test_no_role_is_made_before_its_rules_are_in_force(setting: Setting) -> None:
    done = setting.run("--url", setting.url, "--apply")
    assert done.exit_code == 1
    assert "# BEGIN sidegate shop/shop-db" in done.output
    assert "the roles weren't made" in done.output
    assert setting.verifiers() == []


async def test_rules_that_an_admin_put_there_are_enough(setting: Setting) -> None:
    shown = setting.run("--url", setting.url)
    lines = shown.output[shown.output.index("# BEGIN") :]
    setting.hba.write_text(lines + setting.hba.read_text())
    setting.execute("SELECT pg_reload_conf()")
    done = setting.run("--url", setting.url, "--apply")
    assert done.exit_code == 0, done.output
    assert await setting.states() == {DoorState.REJECTED}


@pytest.mark.parametrize(
    ("statement", "word"),
    [
        ("ALTER ROLE gate_reader BYPASSRLS", "row security"),
        ("ALTER ROLE gate_reader REPLICATION", "replication protocol"),
        ("ALTER ROLE gate_reader CREATEROLE", "make roles"),
        ("ALTER ROLE gate_reader SUPERUSER", "do everything"),
        ("ALTER ROLE gate_reader PASSWORD NULL", "no password"),
        ("SET password_encryption = md5; ALTER ROLE gate_reader PASSWORD 'x'", "isn't kept by scram"),
        ("GRANT pg_execute_server_program TO gate_reader", "runs programs"),
        ("CREATE ROLE between ROLE gate_reader; GRANT pg_write_server_files TO between", "writes files"),
        (f"GRANT {SUPERUSER} TO gate_reader", f"member of `{SUPERUSER}`"),
        ("DROP ROLE gate_reader", "isn't there"),
    ],
)
def test_finds_each_role_that_was_opened_on_purpose(setting: Setting, statement: str, word: str) -> None:
    assert setting.apply().exit_code == 0
    try:
        for each in statement.split(";"):
            if each.startswith("SET"):
                continue
            if "password_encryption" in statement:
                with setting.server.admin() as admin:
                    admin.execute("SET password_encryption = md5")
                    admin.execute(each)
            else:
                setting.execute(each)
        done = setting.check()
        assert done.exit_code == 1
        assert any(line.startswith("open door: ") and word in line for line in done.output.splitlines()), done.output
    finally:
        setting.execute("DROP ROLE IF EXISTS between")


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("host all all all trust", "from outside without any password"),
        ("host all all all md5", "from outside by md5"),
        ("host all +gate_reader all scram-sha-256", "from outside by scram-sha-256"),
        ("hostssl all all all scram-sha-256", "from outside by scram-sha-256"),
        ("host samerole all all password", "from outside by password"),
        ("host replication all all md5", "from outside by md5"),
        ("host all all 127.0.0.1/32 trust", "gate's own place by trust"),
        ("local all all md5", "over the socket by md5"),
        ("include others.conf", "others.conf"),
        ('include_if_exists "others.conf"', "others.conf"),
    ],
)
def test_finds_each_rule_that_somebody_put_before_the_gates(setting: Setting, line: str, word: str) -> None:
    assert setting.apply().exit_code == 0
    made = setting.hba.read_text()
    with host_rules(setting.server, [line, made], {"others.conf": "host all all all scram-sha-256\n"}):
        done = setting.check()
        assert done.exit_code == 1, done.output
        assert any(each.startswith("open door: ") and word in each for each in done.output.splitlines()), done.output
        if "include" not in line:
            again = setting.apply()  # puts its lines first again; what others are let in by stays their owner's
            assert "written and loaded" in again.output
            assert "open door: the gate's role" not in again.output


def test_finds_rules_that_were_written_and_not_loaded(setting: Setting) -> None:
    assert setting.apply().exit_code == 0
    later = setting.hba.stat().st_mtime + 5
    os.utime(setting.hba, (later, later))
    done = setting.check()
    assert done.exit_code == 1
    assert "changed after they were loaded" in done.output


def test_warns_of_what_is_the_owners_to_judge(setting: Setting) -> None:
    setting.execute("ALTER SYSTEM SET password_encryption = 'md5'")
    setting.execute("SELECT pg_reload_conf()")
    try:
        assert setting.apply().exit_code == 0
        done = setting.check()
        assert done.exit_code == 0
        for word in (
            "password_encryption is `md5`",
            "in from outside, past the gate",
            "every role may connect to database `postgres`",
        ):
            assert word in done.output
        assert setting.check("--strict").exit_code == 1
    finally:
        setting.execute("ALTER SYSTEM RESET password_encryption")
        setting.execute("SELECT pg_reload_conf()")


def test_makes_passwords_that_nobody_else_can_read(setting: Setting) -> None:
    path = setting.password_file(ROLES[0])
    path.unlink()
    done = setting.apply()
    assert done.exit_code == 1
    assert "--generate-passwords" in done.output
    done = setting.apply("--generate-passwords")
    assert done.exit_code == 0, done.output
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(path.read_text()) >= 40
    assert path.read_text() not in done.output


@pytest.mark.parametrize(
    ("spec", "word"),
    [
        ({"credentials": [{"role": "readonly"}]}, "names no Secret"),
        (
            {
                "endpoint": {"host": "db.example", "port": 5432},
                "tls": {"client": {"plainText": "LoopbackOnly"}, "target": {"mode": "Require"}},
            },
            "--gate-network",
        ),
        ({"credentials": [{"role": SUPERUSER, "secretRef": {"name": "gate-reader", "key": "password"}}]}, "is a superuser"),
        ({"credentials": [{"role": "r", "username": "+all", "secretRef": {"name": "x", "key": "y"}}]}, "read as something else"),
    ],
)
def test_refuses_targets_that_rules_of_the_database_cant_close(setting: Setting, spec: dict[str, Any], word: str) -> None:
    before = setting.hba.read_bytes()
    setting.write_manifest(**spec)
    done = setting.apply()
    assert done.exit_code == 1
    assert word in done.output
    assert setting.hba.read_bytes() == before


@pytest.mark.debian
def test_an_older_server_with_tls_is_set_up_too(old_server: DebianPostgres, tmp_path: Path) -> None:
    for setting in cleaned(old_server, tmp_path):
        assert setting.apply().exit_code == 0
        assert "host rules: unchanged" in setting.apply().output
        assert setting.check().exit_code == 0


def test_the_server_reads_the_lines_as_they_are_meant(setting: Setting) -> None:
    from sidegate.setup.host_rules import GateRules

    assert setting.apply().exit_code == 0

    def meaning(rule: HostRule) -> tuple[Any, ...]:
        return rule.type, rule.databases, rule.roles, rule.address, rule.netmask, rule.method, rule.error

    wanted = GateRules(ROLES).rules()
    assert [meaning(each) for each in Server(setting.url, None).rules()][: len(wanted)] == [meaning(each) for each in wanted]
    assert setting.hba.read_text().count(ADMIN) == 1
