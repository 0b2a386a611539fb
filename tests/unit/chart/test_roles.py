"""Every RBAC rule that the chart installs stands in docs/rbac.md with its reason, and nothing goes beyond what is needed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from sidegate_operator.roles import ROLES, Scope
from tests.support.chart import EVERYTHING, NAMESPACE, ROOT, named, of_kind, rendered

ROLE_KINDS = ("ClusterRole", "Role")
Rule = tuple[str, bool, str, tuple[str, ...], tuple[str, ...], tuple[str, ...]]


def installed_rules(objects: list[dict[str, Any]]) -> Iterator[Rule]:
    for role in of_kind(objects, *ROLE_KINDS):
        for rule in role["rules"]:
            for group in rule["apiGroups"]:
                yield (
                    role["metadata"]["name"],
                    role["kind"] == "Role",
                    group,
                    tuple(rule["resources"]),
                    tuple(rule["verbs"]),
                    tuple(rule.get("resourceNames", ())),
                )


def documented_rules() -> dict[Rule, str]:
    """Each row of docs/rbac.md, with its reason."""
    found: dict[Rule, str] = {}
    for line in (ROOT / "docs" / "rbac.md").read_text().splitlines():
        if line.startswith("| `"):
            role, holds, group, resources, verbs, names, reason = (cell.strip() for cell in line.strip("|").split("|"))
            lists = [tuple(each.strip(" `") for each in cell.split(",")) if cell else () for cell in (resources, verbs, names)]
            key = (role.strip("`"), holds == "its own namespace", "" if group == "core" else group.strip("`"), *lists)
            found[key] = reason
    return found


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["least", "everything"])
def test_every_rule_of_the_chart_is_documented_and_the_other_way_round(values: dict[str, Any]) -> None:
    assert set(installed_rules(rendered(values))) == set(documented_rules())


def test_every_rule_has_a_reason_of_its_own() -> None:
    reasons = list(documented_rules().values())
    assert [each for each in reasons if len(each.split()) < 3] == []
    assert len(set(reasons)) == len(reasons)


def test_no_rule_has_a_star_or_a_way_to_more_rights() -> None:
    for _, _, group, resources, verbs, _ in installed_rules(rendered(EVERYTHING)):
        assert "*" not in {group, *resources, *verbs}
        assert not {"bind", "escalate", "impersonate", "deletecollection"} & set(verbs)
        assert not group.startswith("rbac.")
        assert not {"nodes", "serviceaccounts", "serviceaccounts/token", "pods/exec", "pods/ephemeralcontainers"} & set(resources)


def test_secrets_are_read_by_name_in_ones_own_namespace() -> None:
    for _, is_own, _, resources, verbs, names in installed_rules(rendered(EVERYTHING)):
        if "secrets" in resources:
            assert is_own
            assert names or set(verbs) == {"create"}
            assert not {"list", "watch", "delete"} & set(verbs)


def test_who_is_bound_is_the_two_accounts_alone() -> None:
    bound = {
        (each["kind"], each["roleRef"]["name"], *(f"{who['kind']}/{who['namespace']}/{who['name']}" for who in each["subjects"]))
        for each in of_kind(rendered(EVERYTHING), "ClusterRoleBinding", "RoleBinding")
    }
    assert bound == {
        (kind, f"sidegate-{who}", f"ServiceAccount/{NAMESPACE}/sidegate-{who}")
        for who in ("operator", "webhook")
        for kind in ("ClusterRoleBinding", "RoleBinding")
    }


def test_only_the_viewer_goes_along_with_kubernetes_roles_unless_asked() -> None:
    def aggregated(values: dict[str, Any]) -> dict[str, list[str]]:
        found = {}
        for role in of_kind(rendered(values), "ClusterRole"):
            labels = [each for each in role["metadata"]["labels"] if "aggregate-to" in each]
            if labels:
                found[role["metadata"]["name"]] = labels
        return found

    prefix = "rbac.authorization.k8s.io/aggregate-to"
    assert aggregated({}) == {"sidegate-viewer": [f"{prefix}-view"]}
    assert aggregated({"roles": {"aggregateViewer": False}}) == {}
    assert aggregated(EVERYTHING) == {"sidegate-viewer": [f"{prefix}-view"], "sidegate-editor": [f"{prefix}-admin"]}


def test_roles_for_people_can_be_left_out() -> None:
    names = {each["metadata"]["name"] for each in of_kind(rendered({"roles": {"create": False}}), "ClusterRole")}
    assert names == {"sidegate-operator", "sidegate-webhook"}


def test_an_approver_reads_and_decides_requests_and_nothing_else() -> None:
    (rule,) = named(rendered(), "ClusterRole", "sidegate-approver")["rules"]
    assert rule == {
        "apiGroups": ["sidegate.dev"],
        "resources": ["approvalrequests"],
        "verbs": ["get", "list", "watch", "patch"],
    }


def test_every_role_that_holds_somewhere_by_itself_has_an_account() -> None:
    assert {role.name for role in ROLES if role.scope is not Scope.WHERE_BOUND and role.account is None} == set()
