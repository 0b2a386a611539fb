"""`sidegate why`: why a pod has its gate, or has none. It changes nothing: the trial that it makes is a dry run."""

from __future__ import annotations

import copy
import sys
from typing import Any, Final

import click

from sidegate.cli.place import ClusterChoice, cluster_options
from sidegate.cli.recordings import CommandFailure
from sidegate.mask.plain import plain
from sidegate_cluster.commands.failures import failure, print_json
from sidegate_cluster.commands.status import broken_line
from sidegate_cluster.commands.workload_reader import failed_creation, maker_of, owner_of, owner_of_itself
from sidegate_cluster.connection import Cluster, connected
from sidegate_cluster.pages.pod_story import PodFacts, PodStory, Trial, is_selected, not_made, pod_story
from sidegate_cluster.pages.refusals import CallError, told
from sidegate_cluster.pages.workloads import WorkloadKind, named
from sidegate_operator.plan.gate_container import GATE_CONTAINER
from sidegate_operator.plan.pods import KUBE_SYSTEM
from sidegate_operator.plan.sidecar import is_of_a_job, named_target
from sidegate_operator.resources import MUTATING_WEBHOOKS, PODS, PROTECTED_TARGETS, Object

EXIT_NO_GATE: Final = 3
_TOKEN_VOLUME: Final = "kube-api-access-"  # noqa: S105 - what the API server adds to each pod, and would add again
_NAMESPACE_LABEL: Final = "kubernetes.io/metadata.name"

_HELP: Final = """Say why a pod has its gate, or has none, and what to do about it.

POD is a pod's name, or KIND/NAME of what makes pods (statefulset, deployment, daemonset), for pods that aren't made: a pod that is refused
doesn't exist. The pod's annotation and labels, its target, its owner's template, the webhook and the times at which each of them was made
are looked at; then the same pod is made once more as a dry run, which tells what admission says now. For that you need the right to
create pods; without it this part is left out.

\b
EXAMPLES
  sidegate why shop-db-0 -n shop
  sidegate why statefulset/shop-db -n shop
  Every pod of a target that has no gate:
    sidegate status shop-db -n shop -o json | jq -r '.status.podsWithoutGate[]?' |
        xargs -n 1 sidegate why -n shop

\b
EXIT STATUS
  0  it has its gate, or needs none
  1  that can't be told; standard error says why
  2  the command was used wrongly
  3  it has none and should, or is refused
"""


@click.command("why", help=_HELP, short_help="Say why a pod has its gate, or has none.")
@click.argument("pod")
@cluster_options(all_namespaces=False)
@click.option(
    "--output", "-o", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Form of the answer."
)
@click.option("--no-trial", is_flag=True, help="Don't make the pod as a dry run.")
def why(pod: str, cluster: ClusterChoice, output: str, no_trial: bool) -> None:
    word, slash, name = pod.rpartition("/")
    kind = named(word) if slash and word not in {"pod", "pods", "po"} else None
    if slash and kind is None and word not in {"pod", "pods", "po"}:
        raise click.UsageError(f"`{word}` is no kind that makes pods: statefulset, deployment, daemonset, cluster or postgresql")
    with connected(cluster) as live:
        try:
            story = _of_workload(live, kind, name, not no_trial) if kind is not None else _of_pod(live, name, not no_trial)
        except CallError as error:
            raise failure(error) from error
    if output == "json":
        print_json(
            {
                "namespace": live.namespace,
                "name": pod,
                "hasGate": story.has_gate,
                "isFine": story.is_fine,
                "reason": str(story.reason),
                "problem": story.problem,
                "wayForward": story.way_forward,
            }
        )
    else:
        state = "has its gate" if story.has_gate else "needs no gate" if story.is_fine else "no gate"
        click.echo(plain(f"{live.namespace}/{pod}  {state}: {story.reason}"))
        click.echo(broken_line(f"  {'why':<10} {plain(story.problem)}"))
        if story.way_forward:
            click.echo(broken_line(f"  {'fix':<10} {plain(story.way_forward)}"))
    if not story.is_fine:
        sys.exit(EXIT_NO_GATE)


def _of_pod(live: Cluster, name: str, tries: bool) -> PodStory:
    pod = live.find(PODS, name, live.namespace)
    if pod is not None:
        return pod_story(_facts(live, pod, owner_of(live, pod), tries=tries, is_template=False))
    workload = maker_of(live, name, live.namespace)
    if workload is None:
        return not_made(name, None, None, None)
    event = failed_creation(live, workload[1], live.namespace)
    return not_made(name, workload, event, _of_template(live, *workload, tries))


def _of_workload(live: Cluster, kind: WorkloadKind, name: str, tries: bool) -> PodStory:
    found = live.find(kind.resource, name, live.namespace)
    if found is None:
        raise CommandFailure(
            f"there is no {kind.kind} `{name}` in namespace `{live.namespace}` of {live.where}", "give another --namespace"
        )
    story = _of_template(live, *owner_of_itself(live, kind, found), tries)
    if story is None:
        raise CommandFailure(
            f"what pods {kind.kind} `{name}` makes can't be told from it", "ask about one of its pods: sidegate why POD"
        )
    return story


def _of_template(live: Cluster, kind: WorkloadKind, workload: Object, tries: bool) -> PodStory | None:
    pod = kind.template_pod(workload)
    if pod is None:
        return None
    return pod_story(_facts(live, pod, (kind, workload), tries=tries, is_template=True))


def _facts(live: Cluster, pod: Object, owner: tuple[WorkloadKind, Object] | None, *, tries: bool, is_template: bool) -> PodFacts:
    try:
        webhook, is_known = live.find(MUTATING_WEBHOOKS, "sidegate"), True
    except CallError as error:
        if error.code != 403:
            raise
        webhook, is_known = None, False
    targets = live.list(PROTECTED_TARGETS, live.namespace)
    is_tried = tries and not is_of_a_job(pod) and (named_target(pod) is not None or is_selected(pod, targets))
    return PodFacts(
        pod=pod,
        targets=targets,
        owner=owner,
        webhook=webhook,
        is_webhook_known=is_known,
        is_namespace_excluded=live.namespace in _excluded(webhook),
        trial=_trial(live, pod) if is_tried else None,
        is_template=is_template,
    )


def _excluded(webhook: Object | None) -> set[str]:
    """The namespaces that the webhook's own configuration leaves out."""
    found = {KUBE_SYSTEM}
    for each in (webhook or {}).get("webhooks") or ():
        for wanted in (each.get("namespaceSelector") or {}).get("matchExpressions") or ():
            if (wanted.get("key"), wanted.get("operator")) == (_NAMESPACE_LABEL, "NotIn"):
                found |= set(wanted.get("values") or ())
    return found


def _trial(live: Cluster, pod: Object) -> Trial | None:
    """The pod as it was before admission, made as a dry run. None: one may not."""
    try:
        made = live.create(PODS, _as_asked_for(pod), live.namespace, dryRun="All")
    except CallError as error:
        if error.code == 403 and "cannot create resource" in error.message:
            return None
        return Trial(refused=told(error), is_webhook_down='failed calling webhook "inject.sidegate.dev"' in error.message)
    return Trial(has_gate=any(each["name"] == GATE_CONTAINER for each in made["spec"].get("initContainers") or ()))


def _as_asked_for(pod: Object) -> dict[str, Any]:
    metadata, spec = pod["metadata"], copy.deepcopy(pod["spec"])
    spec.pop("nodeName", None)
    spec["volumes"] = [each for each in spec.get("volumes") or () if not each["name"].startswith(_TOKEN_VOLUME)]
    for each in [*(spec.get("initContainers") or ()), *spec["containers"]]:
        each["volumeMounts"] = [mount for mount in each.get("volumeMounts") or () if not mount["name"].startswith(_TOKEN_VOLUME)]
    spec.pop("ephemeralContainers", None)
    kept = {name: metadata[name] for name in ("labels", "annotations") if metadata.get(name)}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "sidegate-why-", **kept}, "spec": spec}
