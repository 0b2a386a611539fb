"""The gate's image as a native sidecar beside a PostgreSQL, under Pod Security `restricted`, used by a real psql from another pod."""

from __future__ import annotations

import json
import re
import time
from datetime import datetime
from pathlib import Path

import pytest

from tests.e2e.shop import (
    DEFAULT_TOKEN,
    GATE,
    GATE_USER,
    MASK_RULE,
    POD,
    REVISION,
    STATE,
    Shop,
    conditions_of_start,
    policy,
)
from tests.support.cluster_client import ApiError
from tests.support.processes import wait_until


def figure(metrics: str, name: str) -> float:
    found = re.search(rf"^{name} (\S+)$", metrics, flags=re.MULTILINE)
    assert found is not None, f"{name} isn't among the metrics"
    return float(found[1])


# The pod


def test_pod_security_refuses_a_pod_that_is_not_confined(shop: Shop) -> None:
    """So that the pods of the other tests prove something."""
    pod = shop.database_pod("loose")
    pod["spec"]["initContainers"][0]["securityContext"]["runAsNonRoot"] = False
    with pytest.raises(ApiError, match="violates PodSecurity"):
        shop.cluster.client.create(pod)


def test_starts_beside_the_database_and_neither_was_restarted(shop: Shop, figures: dict[str, float]) -> None:
    (pod,) = shop.wait_until_ready(POD)
    containers = conditions_of_start(pod)
    assert {name: (each["ready"], each["restartCount"]) for name, each in containers.items()} == {
        GATE: (True, 0),
        "postgres": (True, 0),
    }
    began = {name: datetime.fromisoformat(each["state"]["running"]["startedAt"]) for name, each in containers.items()}
    assert began[GATE] <= began["postgres"]
    metrics = shop.page("/metrics")
    log = shop.cluster.kubectl("logs", "--namespace", shop.namespace, POD, "--container", GATE).stdout
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    ready = next(line for line in lines if line.get("message", "").startswith("ready, listening"))
    ready_at = datetime.fromisoformat(ready["time"]).timestamp()
    figures["gate_start_s"] = round(ready_at - figure(metrics, "process_start_time_seconds"), 2)
    figures["gate_idle_mib"] = round(figure(metrics, "process_resident_memory_bytes") / 2**20, 1)


def test_runs_as_its_own_user_without_capabilities_or_a_way_to_get_any(shop: Shop) -> None:
    status = dict(line.split(":", 1) for line in shop.in_gate("cat", "/proc/1/status").stdout.splitlines())
    assert {*status["Uid"].split(), *status["Gid"].split()} == {str(GATE_USER)}
    assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapInh")} == {0}
    assert status["NoNewPrivs"].strip() == "1"
    assert shop.in_gate("find", "/", "-xdev", "-type", "f", "-perm", "/6000").stdout == ""


def test_can_write_to_its_state_and_to_nothing_else(shop: Shop) -> None:
    script = (
        f"for folder in / /tmp /var/tmp /run /home /usr/local/lib /run/sidegate/config /run/sidegate/secrets {DEFAULT_TOKEN} {STATE}; do"
        + (' if touch "$folder/probe" 2>/dev/null; then rm "$folder/probe"; echo "$folder"; fi; done')
    )
    assert shop.in_gate("sh", "-c", script).stdout.split() == [STATE]
    mounts = [line.split() for line in shop.in_gate("cat", "/proc/mounts").stdout.splitlines()]
    disks = {place for _, place, kind, options, *_ in mounts if "rw" in options.split(",") and kind not in OF_THE_KERNEL}
    assert disks - OF_THE_KUBELET == {STATE}


# Kinds of mounts that are of no disk, and files that the kubelet mounts into each container, which are root's.
OF_THE_KERNEL = {"proc", "devpts", "mqueue", "sysfs", "cgroup", "cgroup2", "tmpfs"}
OF_THE_KUBELET = {"/dev/termination-log", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"}


def test_does_not_see_the_pods_own_token(shop: Shop) -> None:
    inside_database = shop.cluster.exec(shop.namespace, POD, ["ls", DEFAULT_TOKEN], container="postgres").stdout.split()
    assert "token" in inside_database  # the pod has one
    seen = shop.in_gate("ls", "-A", DEFAULT_TOKEN)
    assert (seen.returncode, seen.stdout) == (0, "")


def test_the_database_container_does_not_see_the_gates_credentials(shop: Shop) -> None:
    assert shop.in_gate("ls", "/run/sidegate/secrets/shop-db-readonly/password").returncode == 0
    assert shop.cluster.exec(shop.namespace, POD, ["ls", "/run/sidegate"], container="postgres").returncode != 0


# Statements


def test_a_query_passes_and_a_masked_column_is_masked(shop: Shop) -> None:
    done = shop.psql("SELECT id, name, ssn FROM customers ORDER BY id")
    assert done.stderr == ""
    rows = [line.split("|") for line in done.stdout.splitlines()]
    assert [(row[0], row[1]) for row in rows] == [("1", "Ada"), ("2", "Ben")]
    assert not {row[2] for row in rows} & {"078-05-1120", "219-09-9999"}
    assert "078-05-1120" not in done.stdout


def test_a_denied_statement_is_refused_with_its_rule_and_the_session_goes_on(shop: Shop) -> None:
    done = shop.psql("DELETE FROM customers", "SELECT count(*) FROM customers")
    assert "no-deletes" in done.stderr
    assert done.stdout.split() == ["2"]


def test_a_statement_that_no_grant_has_is_refused(shop: Shop) -> None:
    done = shop.psql("CREATE TABLE mine (id integer)", "SELECT 1")
    assert "ERROR" in done.stderr
    assert done.stdout.split() == ["1"]


@pytest.mark.parametrize(
    ("what", "claims"),
    [
        ("an expired token", {"exp": 1_700_000_000}),
        ("a token for another audience", {"aud": "elsewhere"}),
        ("a token of another group", {"groups": ["interns"]}),
    ],
)
def test_whoever_is_not_meant_does_not_get_in(shop: Shop, what: str, claims: dict[str, object]) -> None:
    done = shop.psql("SELECT 1", token=shop.token(**claims))
    assert done.returncode == 2, what
    assert done.stdout == ""
    assert "FATAL" in done.stderr


def test_a_client_without_tls_does_not_get_in(shop: Shop) -> None:
    done = shop.psql("SELECT 1", settings={"PGSSLMODE": "disable"})
    assert (done.returncode, done.stdout) == (2, "")


def test_each_session_is_recorded_in_the_gates_state(shop: Shop) -> None:
    shop.psql("SELECT 'recorded here', ssn FROM customers WHERE id = 2")
    newest = f"find {STATE}/recordings/{shop.namespace}/{POD} -name '*.sgrec' -printf '%T@ %p\\n' | sort -n | tail -1"
    recording = shop.in_gate("sh", "-c", newest).stdout.split()[1]
    # the session is closed a moment after its client is gone
    wait_until(lambda: shop.in_gate("sidegate", "recordings", "verify", recording).returncode == 0, "a whole recording", 20, 0.2)
    replay = shop.in_gate("sidegate", "replay", recording).stdout
    assert "recorded here" in replay
    assert "219-09-9999" not in replay


# Policies


def test_a_changed_policy_reaches_the_gate_within_seconds(shop: Shop, tmp_path: Path, figures: dict[str, float]) -> None:
    """By itself the kubelet takes more than a minute; it looks at once when an annotation of the pod changes."""
    seconds = []
    for number, rules in enumerate([(), (MASK_RULE,)] * 2):
        config = shop.render(tmp_path / str(number), policy(*rules))
        revision = config["metadata"]["annotations"][REVISION]
        assert revision not in shop.page("/metrics")
        began = time.monotonic()
        shop.cluster.client.apply(config)
        shop.cluster.client.merge_patch(
            "v1", "Pod", POD, {"metadata": {"annotations": {REVISION: revision}}}, namespace=shop.namespace
        )
        wait_until(lambda wanted=revision: wanted in shop.page("/metrics"), f"revision {revision}", timeout_s=30, interval_s=0.02)  # type: ignore[misc]
        seconds.append(time.monotonic() - began)
        shown = shop.psql("SELECT ssn FROM customers WHERE id = 1").stdout.strip()
        assert (shown == "078-05-1120") is (not rules)
    figures["policy_reached_gate_median_s"] = round(sorted(seconds)[len(seconds) // 2], 2)
    figures["policy_reached_gate_most_s"] = round(max(seconds), 2)
    (pod,) = shop.wait_until_ready(POD)
    assert {each["restartCount"] for each in conditions_of_start(pod).values()} == {0}


def test_a_gate_without_a_config_refuses_everyone_and_the_database_starts_all_the_same(shop: Shop) -> None:
    shop.cluster.client.create(shop.database_pod("bare-db", config_map="not-there"))
    (pod,) = shop.wait_until_ready("bare-db")
    done = shop.psql("SELECT 1", host=pod["status"]["podIP"], settings={"PGSSLMODE": "prefer"})
    assert (done.returncode, done.stdout) == (2, "")
    assert "config" in done.stderr
    with pytest.raises(ApiError, match="not ready"):
        shop.page("/ready", "bare-db")
    shop.cluster.client.delete("v1", "Pod", "bare-db", namespace=shop.namespace, grace_s=1)


# The end


def test_a_pod_that_is_deleted_ends_in_order_with_a_session_open(shop: Shop) -> None:
    """The database first, the gate after it, which says good-bye to its client; nobody is killed for taking too long."""
    client, name = shop.cluster.client, "ending-db"
    client.create(shop.database_pod(name))
    (pod,) = shop.wait_until_ready(name)
    with shop.open_psql(pod["status"]["podIP"], {"PGSSLMODE": "require"}) as psql:
        assert psql.stdin is not None
        assert psql.stdout is not None
        psql.stdin.write("SELECT count(*) FROM customers;\n")
        assert psql.stdout.readline() == "2\n"
        before = client.list("v1", "Pod", namespace=shop.namespace)["metadata"]["resourceVersion"]
        chosen = {"namespace": shop.namespace, "resource_version": before, "fieldSelector": f"metadata.name={name}"}
        with client.watch("v1", "Pod", timeout_s=60, **chosen) as events:
            client.delete("v1", "Pod", name, namespace=shop.namespace)
            last = pod
            for event in events:
                last = event["object"]
                if event["type"] == "DELETED":
                    break
        psql.stdin.write("SELECT 1;\n")
        psql.stdin.close()
        assert "FATAL:" in psql.stdout.read()
    ended = {each: state["state"]["terminated"] for each, state in conditions_of_start(last).items()}
    assert {each: state["exitCode"] for each, state in ended.items()} == {GATE: 0, "postgres": 0}
    assert datetime.fromisoformat(ended["postgres"]["finishedAt"]) <= datetime.fromisoformat(ended[GATE]["finishedAt"])
