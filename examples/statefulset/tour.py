"""The tour on a cluster: Sidegate by its chart, a StatefulSet with an annotation, psql through the Service, approvals by kubectl.

    python -m examples.statefulset.tour          # make cluster-demo: tour, then all of it is taken down; exit 0 when all went as told
    python -m examples.statefulset.tour --keep   # make cluster-demo KEEP=1: stays up until Ctrl-C

The cluster is KUBECONFIG's, or one that is brought up for it, as root on Debian. Images are made from this source tree. The manifests are
those beside this file; what is laid over them differs here: images, the issuer and its keys, and a volume where no storage class is.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.cluster_people import Person, kubeconfig_for
from examples.screen import DIM, PLAIN, TourError, expect, heading, held, show
from tests.support.chart import NAMESPACE as SIDEGATE
from tests.support.cluster_node import Cluster, ClusterError, ClusterImage, made_images, running_cluster
from tests.support.helm_release import HelmError, HelmRelease

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent

WAIT_S = 120.0
SHOP, ASSISTANTS = "shop", "assistants"
Patch = tuple[str, str, list[dict[str, Any]]]  # kind and name of what is changed, and how (RFC 6902)


@dataclass(slots=True)
class Stage:
    """What is up: the cluster, and who asks it."""

    cluster: Cluster
    state: Path
    issuer_url: str
    people: dict[str, Path]

    def kubectl(self, *arguments: str, who: str = "admin", stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = [*self.kubectl_command(who), *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=WAIT_S + 30, check=False)

    def kubectl_command(self, who: str = "admin") -> list[str]:
        return [str(self.cluster.kubectl_program), "--kubeconfig", str(self.people.get(who, self.cluster.kubeconfig))]

    def token(self, user: str) -> str:
        form = {"grant_type": "client_credentials", "client_id": "cursor", "client_secret": "demo", "user": user}
        data = urllib.parse.urlencode(form).encode()
        with urllib.request.urlopen(f"{self.issuer_url}/token", data, timeout=10) as reply:
            return str(json.load(reply)["access_token"])

    def psql_command(self, *settings: str) -> list[str]:
        """psql in its pod. The first line of its input is the password: among a command's arguments everybody could read it."""
        script = 'IFS= read -r PGPASSWORD; export PGPASSWORD; exec env "$@"'
        inside = ["sh", "-c", script, "sh", "PGCONNECT_TIMEOUT=10", *settings, "psql", "--no-psqlrc", "--file=-"]
        return [*self.kubectl_command(), "--namespace", ASSISTANTS, "exec", "--stdin", "psql", "--", *inside]


# What is run


def run(stage: Stage, *arguments: str, who: str = "admin", fails: bool = False) -> str:
    """kubectl, shown as one would type it."""
    done = stage.kubectl(*arguments, who=who)
    output = done.stdout + done.stderr
    show(f"kubectl {' '.join(each if ' ' not in each else repr(each) for each in arguments)}{comment_on(who)}", output)
    if (done.returncode != 0) is not fails:
        raise TourError(f"kubectl {arguments[0]} ended with {done.returncode}:\n{output}")
    return output


def comment_on(who: str) -> str:
    return "" if who == "admin" else f"   # as {who}"


def psql(stage: Stage, sql: str, *settings: str, password: str | None = None) -> str:
    done = subprocess.run(
        stage.psql_command(*settings),
        input=f"{password or stage.token('ada')}\n{sql}",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,  # in the order in which psql said it
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    output = done.stdout
    host = next((each.partition("=")[2] for each in settings if each.startswith("PGHOST=")), f"shop-db-gate.{SHOP}.svc")
    show(f"psql -h {host} -d shop   # as ada, through the assistant\n  shop=> " + "\n  shop=> ".join(sql.splitlines()), output)
    return output


# The tour


def tour_objects(stage: Stage) -> None:
    heading("One annotation in the StatefulSet's template: the gate is in the pod, and the target says so")
    output = run(stage, "--namespace", SHOP, "get", "protectedtargets,pods,services,configmaps")
    expect(output, "shop-db-0", "2/2", "shop-db-gate")


def tour_masking(stage: Stage) -> None:
    heading("A masked SELECT through the Service: secrets by column, card numbers by their content")
    output = psql(stage, "SELECT name, password, ssn, note FROM customers ORDER BY id;")
    expect(output, "Ines Berg", "[masked]", "prefers mornings", absent=("correct horse", "219-09-9999", "4111 1111 1111 1111"))


def tour_refusal(stage: Stage) -> None:
    heading("A refused DROP, and the same session goes on")
    output = psql(stage, "DROP TABLE orders;\nSELECT count(*) FROM orders;")
    expect(output, "refused by sidegate", "HINT", "5000")


def tour_approval(stage: Stage) -> None:
    heading("A DELETE of 5,000 rows is held; who asks can't approve it, a database administrator can")
    sql = "DELETE FROM orders;"
    with held(stage.psql_command(), f"{stage.token('ada')}\n{sql}\n", sql, WAIT_S) as (name, finish):
        request = ("--namespace", SHOP, "patch", "approvalrequest", name, "--type=merge")
        decided = '{"spec":{"decision":"Approved"}}'
        run(stage, "--namespace", SHOP, "get", "approvalrequests", who="dana")
        refused = run(stage, *request, f"--patch={decided}", who="ada", fails=True)
        run(stage, *request, f"--patch={decided}", who="dana")
        output = finish()
        shown = run(
            stage, "--namespace", SHOP, "get", "approvalrequest", name, "--output=jsonpath={.spec.decisions}{.status.phase}"
        )
    expect(refused, "can't decide")
    expect(output, "held by sidegate", name, "DELETE 5000")
    expect(shown, "dana@example.com", "Executed")


def tour_policy(stage: Stage) -> None:
    heading("A rule is added by kubectl: every gate enforces it, and the target says when")
    rule = {"name": "frozen", "match": {"statements": {"kinds": ["Insert"]}}, "action": "Deny", "message": "the shop is closed"}
    patch = json.dumps([{"op": "add", "path": "/spec/rules/-", "value": rule}])
    before, began = enforced_revision(stage), time.monotonic()
    run(stage, "--namespace", SHOP, "patch", "accesspolicy", "ai-assistants", "--type=json", f"--patch={patch}")
    wait_for_another(stage, before)
    print(f"{DIM}enforced by every gate {time.monotonic() - began:.1f} s after it was applied{PLAIN}")
    expect(psql(stage, "INSERT INTO orders (customer_id, total) VALUES (1, 5);"), "refused by sidegate", "the shop is closed")


def tour_doors(stage: Stage) -> None:
    heading(
        "The other ways in: the database's own port with the gate's own password, and exec by an administrator of the namespace"
    )
    secret = stage.kubectl("--namespace", SHOP, "get", "secret", "shop-db-readwrite", "--output=jsonpath={.data.password}").stdout
    output = psql(
        stage,
        "SELECT 1;",
        f"PGHOST=shop-db.{SHOP}.svc",
        "PGUSER=sg_readwrite",
        "PGSSLMODE=disable",
        password=base64.b64decode(secret).decode(),
    )
    expect(output, "error", absent=("(1 row)",))
    output = run(stage, "--namespace", SHOP, "exec", "shop-db-0", "--", "psql", "-U", "postgres", who="sam", fails=True)
    expect(output, "past the gate")


def tour_recording(stage: Stage) -> None:
    heading("Every session was recorded, and the recordings hold together")
    inside = ("--namespace", SHOP, "exec", "shop-db-0", "--container=sidegate-gate", "--")
    run(stage, *inside, "env", "SIDEGATE_STATE=/var/lib/sidegate", "sidegate", "recordings", "list")
    output = run(stage, *inside, "env", "SIDEGATE_STATE=/var/lib/sidegate", "sidegate", "recordings", "verify")
    expect(output, "ok")


TOUR: tuple[Callable[[Stage], None], ...] = (
    tour_objects,
    tour_masking,
    tour_refusal,
    tour_approval,
    tour_policy,
    tour_doors,
    tour_recording,
)


def enforced_revision(stage: Stage) -> str | None:
    """The revision that every gate enforces, None while some don't."""
    found = stage.cluster.client.get("sidegate.dev/v1alpha1", "ProtectedTarget", "shop-db", namespace=SHOP).get("status", {})
    gates = found.get("gates") or {}
    is_synced = gates.get("total", 0) > 0 and gates.get("synced") == gates["total"]
    return found.get("revision") if is_synced else None


def wait_for_another(stage: Stage, revision: str | None) -> None:
    deadline = time.monotonic() + WAIT_S
    while enforced_revision(stage) in (None, revision):
        if time.monotonic() > deadline:
            raise TourError("the gates don't enforce the new rule")
        time.sleep(0.02)


# What is brought up


def bring_up(stack: ExitStack, state: Path, patches: Sequence[Patch] = ()) -> Stage:
    """`patches` are laid over the manifests beside this file, after what differs here."""
    say("a cluster")
    cluster = stack.enter_context(running_cluster())
    say("images of this source tree")
    images = made_images()
    for image in images.values():
        cluster.load(image)
    issuer_url = start_issuer(stack, state)
    stage = Stage(cluster, state, issuer_url, {})
    say("Sidegate, by its chart")
    install(stack, stage, images)
    for person in (
        Person("ada@example.com", ("dba",)),
        Person("dana@example.com", ("dba",)),
        Person("sam@example.com", ("admins",)),
    ):
        stage.people[person.username.partition("@")[0]] = kubeconfig_for(person, cluster.kubeconfig, cluster.client, state)
    say("the shop")
    stack.callback(remove_shop, stage)
    apply_shop(stage, images, patches)
    return stage


def say(what: str) -> None:
    print(f"{DIM}bringing up {what}{PLAIN}", flush=True)


def install(stack: ExitStack, stage: Stage, images: Mapping[str, ClusterImage]) -> None:
    made = json.loads((ROOT / "build" / "images" / "images.json").read_text())
    gate = f"{made['gate']['image'].rpartition(':')[0]}@{made['gate']['digest']}"
    metadata = {"name": SIDEGATE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}
    stage.cluster.client.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    release = HelmRelease(stage.cluster.kubeconfig, stage.state)
    release.install({"operator": {"image": images["operator"].name}, "gate": {"image": gate}})
    stack.callback(release.uninstall)
    for name in ("sidegate-operator", "sidegate-webhook"):
        checked(stage, "--namespace", SIDEGATE, "rollout", "status", f"deployment/{name}", f"--timeout={WAIT_S:.0f}s")


def apply_shop(stage: Stage, images: Mapping[str, ClusterImage], patches: Sequence[Patch] = ()) -> None:
    folder = overlay(stage, images["postgres"].name, patches)
    environment = {**os.environ, "KUBECONFIG": str(stage.cluster.kubeconfig)}
    environment["PATH"] = f"{stage.cluster.kubectl_program.parent}{os.pathsep}{environment['PATH']}"
    made = subprocess.run(
        [str(HERE / "secrets.sh"), SHOP], env=environment, capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    if made.returncode != 0:
        raise TourError(f"secrets.sh ended with {made.returncode}:\n{made.stderr}")
    deadline = time.monotonic() + WAIT_S
    while "failed calling webhook" in stage.kubectl("apply", "--kustomize", str(folder)).stderr and time.monotonic() < deadline:
        time.sleep(0.5)  # ready pods are behind their Service a moment later
    checked(stage, "apply", "--kustomize", str(folder))
    checked(stage, "create", "rolebinding", "admins", "--namespace", SHOP, "--clusterrole=admin", "--group=admins")
    authority = stage.cluster.client.get("v1", "ConfigMap", "shop-db-gate-ca", namespace=SHOP)
    client = (HERE / "client.yaml").read_text().replace("docker.io/library/postgres:17", images["postgres"].name)
    checked(stage, "apply", "--filename=-", stdin=client)
    metadata = {"name": "shop-db-gate-ca", "namespace": ASSISTANTS}
    stage.cluster.client.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": authority["data"]})
    checked(stage, "--namespace", ASSISTANTS, "wait", "--for=condition=Ready", "pod/psql", f"--timeout={WAIT_S:.0f}s")
    checked(stage, "--namespace", SHOP, "rollout", "status", "statefulset/shop-db", f"--timeout={WAIT_S:.0f}s")
    synced = ("wait", "--for=condition=Synced", "protectedtarget/shop-db", f"--timeout={WAIT_S:.0f}s")
    checked(stage, "--namespace", SHOP, *synced)


def overlay(stage: Stage, image: str, more: Sequence[Patch] = ()) -> Path:
    """A kustomization over this folder's."""
    with urllib.request.urlopen(f"{stage.issuer_url}/jwks", timeout=10) as reply:
        keys = reply.read().decode()
    issuer = {
        "url": stage.issuer_url,
        "audiences": ["sidegate-demo"],
        "claims": {"username": "email", "groups": "groups", "agent": "azp"},
        "algorithms": ["RS256", "ES256"],
        "jwks": keys,  # no pod reaches this machine's loopback, where the issuer is
    }
    name, _, tag = image.rpartition(":")
    volume = {"name": "data", "emptyDir": {}}
    patches: list[Patch] = [
        ("ProtectedTarget", "shop-db", [{"op": "replace", "path": "/spec/identity/issuers", "value": [issuer]}]),
        (
            "StatefulSet",
            "shop-db",
            [
                {"op": "remove", "path": "/spec/volumeClaimTemplates"},
                {"op": "add", "path": "/spec/template/spec/volumes/-", "value": volume},
            ],
        ),
        *more,
    ]
    document = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": ["shop"],
        "images": [{"name": "docker.io/library/postgres", "newName": name, "newTag": tag}],
        "patches": [{"target": {"kind": kind, "name": of}, "patch": json.dumps(operations)} for kind, of, operations in patches],
    }
    folder = stage.state / "overlay"
    shutil.copytree(HERE, folder / "shop", ignore=shutil.ignore_patterns("*.py", "*.md", "__pycache__"))
    (folder / "kustomization.yaml").write_text(json.dumps(document))
    return folder


def checked(stage: Stage, *arguments: str, stdin: str = "") -> None:
    done = stage.kubectl(*arguments, stdin=stdin)
    if done.returncode != 0:
        raise TourError(f"kubectl {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}{done.stderr}\n{seen(stage)}")


def seen(stage: Stage) -> str:
    """What to look at when something didn't come up."""
    asked = (
        ("get", "pods", "--all-namespaces", "--output=wide"),
        ("--namespace", SHOP, "get", "protectedtargets", "--output=yaml"),
        ("--namespace", SHOP, "get", "events"),
        ("--namespace", SIDEGATE, "logs", "--selector=app.kubernetes.io/part-of=sidegate", "--tail=40", "--prefix"),
    )
    return "\n".join(f"--- kubectl {' '.join(each)}\n{stage.kubectl(*each).stdout}" for each in asked)


def remove_shop(stage: Stage) -> None:
    stage.kubectl("delete", "namespace", SHOP, ASSISTANTS, "--ignore-not-found", "--wait=true", f"--timeout={WAIT_S:.0f}s")


def start_issuer(stack: ExitStack, state: Path) -> str:
    program = ROOT / "examples" / "demo" / "issuer.py"
    process = subprocess.Popen(
        [sys.executable, str(program), "--port", "0", "--state", str(state / "issuer")], stdout=subprocess.PIPE, text=True
    )

    def stop() -> None:
        process.terminate()
        process.wait(10)

    stack.callback(stop)
    assert process.stdout is not None
    found = re.match(r"issuer (\S+) is ready", process.stdout.readline())
    if found is None:
        raise TourError("the issuer didn't start")
    return found[1]


def keep_up(stage: Stage) -> None:
    heading("It stays up until Ctrl-C. Paste into another terminal:")
    print(f"export KUBECONFIG={stage.cluster.kubeconfig}")
    print(f"{stage.cluster.kubectl_program} --namespace {SHOP} get protectedtargets,accesspolicies,approvalrequests", flush=True)
    try:
        signal.pause()
    except KeyboardInterrupt:
        print()


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Install Sidegate on a cluster, protect a database, and tour it with psql and kubectl."
    )
    parser.add_argument("--keep", action="store_true", help="stay up after the tour")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    state = Path(tempfile.mkdtemp(prefix="sidegate-demo-"))
    try:
        with ExitStack() as stack:
            stage = bring_up(stack, state)
            began = time.monotonic()
            for step in TOUR:
                try:
                    step(stage)
                except TourError as error:
                    raise TourError(f"{error}\n{seen(stage)}") from error
            heading(f"The tour is over: every step brought what it must, in {time.monotonic() - began:.0f} s")
            if options.keep:
                keep_up(stage)
    except (TourError, ClusterError, HelmError, subprocess.TimeoutExpired, urllib.error.URLError) as error:
        print(f"\nthe tour failed: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(state, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
