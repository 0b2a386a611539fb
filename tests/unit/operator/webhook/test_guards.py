"""The admission objects as they are delivered, and the comparison with what is live."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest
import yaml

from sidegate.api.approval_request import ApprovalRequestSpec
from sidegate.gateway.people import is_same_person
from sidegate_operator.webhook.guards import NAMESPACE_VARIABLE, admission_objects, guard_keys, guards_in_place, object_files
from tools.write_admission import stale_files, wanted_files

NAMESPACE = "sidegate-system"
POLICIES = [each for each in admission_objects(NAMESPACE) if each["kind"] == "ValidatingAdmissionPolicy"]
BINDINGS = [each for each in admission_objects(NAMESPACE) if each["kind"] == "ValidatingAdmissionPolicyBinding"]
WEBHOOKS = [hook for each in admission_objects(NAMESPACE) for hook in each.get("webhooks", ())]


def test_the_charts_templates_are_current() -> None:
    assert stale_files() == []


def test_the_namespace_is_all_there_is_to_render() -> None:
    for path, text in wanted_files().items():
        assert re.findall(r"\{\{.*?\}\}", text) == [NAMESPACE_VARIABLE] * text.count("{{"), path
        assert list(yaml.safe_load_all(text.replace(NAMESPACE_VARIABLE, "ns")))
    assert NAMESPACE_VARIABLE not in str(admission_objects(NAMESPACE))


def test_nothing_fails_open() -> None:
    assert {each["spec"]["failurePolicy"] for each in POLICIES} == {"Fail"}
    assert {tuple(each["spec"]["validationActions"]) for each in BINDINGS} == {("Deny",)}
    assert {each["failurePolicy"] for each in WEBHOOKS} == {"Fail"}
    assert {each["sideEffects"] for each in WEBHOOKS} == {"None"}
    assert {each["timeoutSeconds"] for each in WEBHOOKS} == {5}


def test_every_policy_is_bound() -> None:
    names = {each["metadata"]["name"] for each in POLICIES}
    assert names == {each["spec"]["policyName"] for each in BINDINGS}


def test_every_rule_says_the_fix() -> None:
    for each in POLICIES:
        for rule in each["spec"]["validations"]:
            assert "; fix: " in rule["message"], rule
            assert "\n" not in rule["message"]
            assert "; fix: " in rule.get("messageExpression", rule["message"])


def test_only_pods_that_ask_are_sent_to_injection() -> None:
    """An outage of ours must not stop another pod."""
    (inject,) = (each for each in WEBHOOKS if each["name"] == "inject.sidegate.dev")
    assert [each["resources"] for each in inject["rules"]] == [["pods"]]
    assert inject["matchConditions"][0]["expression"].count("'sidegate.dev/target' in") == 2
    assert inject["namespaceSelector"]["matchExpressions"][0]["values"] == ["kube-system", NAMESPACE]


def live() -> list[dict[str, Any]]:
    made = admission_objects(NAMESPACE)
    for each in made:
        each["metadata"] |= {"uid": "1", "resourceVersion": "2", "managedFields": []}
        for hook in each.get("webhooks", ()):
            hook["clientConfig"]["caBundle"] = "Y2E="
    return made


def test_what_was_applied_stands() -> None:
    assert guards_in_place(live(), NAMESPACE) == ()


def test_guards_of_another_namespace_do_not_count() -> None:
    assert guards_in_place(live(), "elsewhere") != ()


def test_nothing_live_is_everything_missing() -> None:
    found = guards_in_place([None, {}, {"kind": "Pod", "metadata": {"name": "sidegate"}}], NAMESPACE)
    assert [each.problem for each in found] == ["it is missing"] * len(guard_keys(NAMESPACE))
    assert all("fix: " in str(each) for each in found)


def test_a_guard_that_is_being_deleted_is_missing() -> None:
    documents = live()
    documents[0]["metadata"]["deletionTimestamp"] = "2026-11-25T00:00:00Z"
    assert [each.problem for each in guards_in_place(documents, NAMESPACE)] == ["it is being deleted"]


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict) and value:
        return [leaf for key, below in value.items() for leaf in leaves(below, (*path, key))]
    if isinstance(value, list) and value:
        return [leaf for index, below in enumerate(value) for leaf in leaves(below, (*path, index))]
    return [path]


def holder(document: Any, path: tuple[Any, ...]) -> Any:
    for step in path[:-1]:
        document = document[step]
    return document


@pytest.mark.parametrize(
    "index", range(len(live())), ids=lambda index: f"{live()[index]['kind']}-{live()[index]['metadata']['name']}"
)
def test_every_single_field_of_a_guard_counts(index: int) -> None:
    part = "webhooks" if "webhooks" in live()[index] else "spec"
    for path in leaves(live()[index][part], (part,)):
        if path[-1] == "caBundle":
            continue
        changed, removed, extended = (copy.deepcopy(live()) for _ in range(3))
        holder(changed[index], path)[path[-1]] = "changed"
        del holder(removed[index], path)[path[-1]]
        beside = holder(extended[index], path)
        beside.append("added") if isinstance(beside, list) else beside.update(added="added")
        for documents in (changed, removed, extended):
            assert [each.problem for each in guards_in_place(documents, NAMESPACE)] == ["it was changed"], path


def test_files_are_named_for_the_chart() -> None:
    assert all(name.startswith("admission-") for name in object_files())


def test_the_guard_of_decisions_freezes_every_field_but_a_persons_own() -> None:
    (policy,) = (each for each in POLICIES if each["metadata"]["name"] == "sidegate-decisions")
    rules = " ".join(each["expression"] for each in policy["spec"]["validations"])
    for name, info in ApprovalRequestSpec.model_fields.items():
        wire = info.alias or name
        is_frozen = re.search(rf"object\.spec\.\?{wire} == oldObject\.spec\.\?{wire}\b", rules) is not None
        assert is_frozen == (wire not in {"decision", "comment", "decisions"}), wire


def test_the_guard_knows_the_same_signs_behind_a_prefix_as_the_webhook() -> None:
    (policy,) = (each for each in POLICIES if each["metadata"]["name"] == "sidegate-decisions")
    (between,) = (each["expression"] for each in policy["spec"]["variables"] if each["name"] == "between")
    assert all(is_same_person(f"x{sign}ann", "ann") for sign in json.loads(between))
    assert len(json.loads(between)) == 5
