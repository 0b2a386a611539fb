"""What a review says of host rules is what PostgreSQL does: each set of rules is judged, then tried."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence

import pytest

from sidegate.probe.answer import DoorState
from sidegate.probe.postgres import probe_postgres
from sidegate.setup.host_rules import Knock, Login, Transport, admitting
from sidegate.setup.server import Server
from tests.support.host_rules import STRANGER_ADDRESS, host_rules
from tests.support.postgres_server import SUPERUSER, PostgresServer

ROLE = "readonly"


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer() as running:
        with running.admin() as admin:
            admin.execute(f"CREATE ROLE readers ROLE {ROLE}")
            admin.execute("CREATE ROLE everyone ROLE readers")
        yield running


RULES: Sequence[Sequence[str]] = (
    ("host all all all trust",),
    ("host all all all reject", "host all all all trust"),
    ("host all all 127.0.0.1/32 trust", "host all all 127.0.0.0/8 scram-sha-256"),
    ("host all all 127.0.0.2 255.255.255.255 md5",),
    ("host all all 127.0.0.0/31 reject", "host all all 127.0.0.2/31 password"),
    ("host all +everyone all scram-sha-256",),
    ("host all +readers,other all trust",),
    ("host all +nobody all trust",),
    (f"host sameuser {ROLE} all trust", f"host {ROLE} {ROLE} all reject"),
    ("host samerole all all trust",),
    ("host readers,everyone all all trust",),
    ("host replication all all trust",),
    ("host all,replication all all reject",),
    ('host "shop" "readonly" all scram-sha-256',),
    ("hostnossl shop all all md5", "host all all all reject"),
    ("hostgssenc all all all trust",),
    ("hostssl all all all trust", "hostnossl all all 127.0.0.2/32 reject", "host all all all trust"),
    ("include beside.conf", "host all all all reject"),
    ('include_if_exists "missing.conf"', "host all all all scram-sha-256"),
    ("host all @names all trust",),
    ("host all \\", "  all all \\", "  reject # the end", "host all all all trust"),
)


@pytest.mark.parametrize("lines", RULES, ids=range(len(RULES)))
async def test_the_judgement_is_what_the_server_does(server: PostgresServer, lines: Sequence[str]) -> None:
    files = {"beside.conf": "host all all 127.0.0.2/32 md5\n", "names": "readers\n+readers\n"}
    with host_rules(server, lines, files):
        asked = Server(f"host={server.directory} port={server.port} user={SUPERUSER} dbname=postgres", None)
        rules, groups = asked.rules(), asked.facts().roles[ROLE].groups
        assert groups == {ROLE, "readers", "everyone"}
        for address in (STRANGER_ADDRESS, "127.0.0.1"):
            databases = ("shop", ROLE, "readers", "everyone")
            doors = await probe_postgres("127.0.0.1", server.port, [ROLE], databases=databases, local_address=address)
            for door in doors:
                if door.over_tls or door.role is None:
                    continue
                knock = Knock(Login(ROLE, groups), Transport.PLAIN, ipaddress.ip_address(address), door.database)
                rule = admitting(rules, knock)
                wanted = DoorState.REJECTED if rule is None else DoorState.WIDE_OPEN if rule.method == "trust" else DoorState.ASKS
                assert door.state is wanted, (door, rule)
