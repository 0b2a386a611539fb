"""Manifests to resources: what is read, and every kind of problem with its line, field and fix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sidegate.api.access_policy import AccessPolicy, StatementKind
from sidegate.api.manifests import ManifestError, Manifests, parse_manifests
from sidegate.api.protected_target import ProtectedTarget
from sidegate.policy.compile import Placement, compile_target
from tests.unit.api.crd_rules import merged

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
POLICY = """\
apiVersion: sidegate.dev/v1alpha1
kind: AccessPolicy
metadata: {name: policy}
spec:
  targets: {names: [shop-db]}
  subjects:
  - groups: [developers]
  grants:
  - postgres: {databases: [shop], role: readonly, allow: [Read]}
  rules:
  - name: one
    action: Deny
    match: {statements: {kinds: [DDL]}}
"""


def problems_of(text: str) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        parse_manifests([("x.yaml", text)])
    assert str(caught.value) == "\n".join(map(str, caught.value.problems))
    return [str(problem) for problem in caught.value.problems]


def read(text: str) -> Manifests:
    return parse_manifests([("x.yaml", text)])


def test_reads_a_policy_with_the_place_of_each_field() -> None:
    (manifest,) = read("# a comment\n" + POLICY).policies
    assert manifest.resource.metadata.name == "policy"
    assert manifest.resource.metadata.namespace == "default"
    assert manifest.resource.spec.rules[0].match.statements is not None
    assert manifest.origin.file == "x.yaml"
    assert manifest.origin.line == 2
    assert manifest.origin.line_of("spec.rules[0].action") == 13
    assert manifest.origin.line_of("spec.rules[0].approval.required") == 12  # not written: the nearest around it
    assert manifest.origin.line_of("") == 2
    assert str(manifest.origin.problem("spec.rules[0].match", "it is unreachable", "leave it out")) == (
        "x.yaml:14: spec.rules[0].match: it is unreachable; fix: leave it out"
    )


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("action: Deny", "action: Denny", "x.yaml:12: spec.rules[0].action: `Denny` isn't one of the values; fix: write Deny; the values are Deny, RequireApproval, Mask"),
        ("action: Deny", "action: deny", "x.yaml:12: spec.rules[0].action: `deny` isn't one of the values; fix: write Deny; the values are Deny, RequireApproval, Mask"),
        ("    action: Deny\n", "", "x.yaml:11: spec.rules[0].action: action is missing; fix: add it: what happens to it"),
        ("action: Deny", "acton: Deny\n    action: Deny", "x.yaml:12: spec.rules[0].acton: there is no field `acton` here; fix: write action; the fields are name, match, action, mask, approval, message"),
        ("role: readonly", "role: 5", "x.yaml:9: spec.grants[0].postgres.role: `5` is read as a number, and text is wanted; fix: put it in quotes"),
        ("role: readonly", "role: true", "x.yaml:9: spec.grants[0].postgres.role: `true` is read as a truth value, and text is wanted; fix: put it in quotes"),
        ("allow: [Read]", "allow: Read", "x.yaml:9: spec.grants[0].postgres.allow: a list is wanted here; fix: start each entry with `- `"),
        ("allow: [Read]", "allow: []", "x.yaml:9: spec.grants[0].postgres.allow: it has 0 entries, and 1 is the least; fix: add entries, or leave the field out"),
        ("allow: [Read]", "allow: [Read, Transaction]", "x.yaml:9: spec.grants[0].postgres.allow[1]: `Transaction` isn't one of the values; fix: "),
        ("allow: [Read]", "allow: [Read, Read]", "x.yaml:9: spec.grants[0].postgres.allow[1]: `Read` stands twice in allow; fix: leave one out, or rename it"),
        ("targets: {names: [shop-db]}", "targets: shop-db", "x.yaml:5: spec.targets: a mapping is wanted here; fix: write its fields, one a line"),
        ("kinds: [DDL]", "kinds: [DDL], tables: ['a%']", "x.yaml:13: spec.rules[0].match.statements.tables[0]: `a%` is not the name of a table or a pattern; fix: write `table`"),
        ("kinds: [DDL]", "kinds: [DDL], rows_affected: {moreThan: 1}", "x.yaml:13: spec.rules[0].match.statements.rows_affected: there is no field `rows_affected` here; fix: write rowsAffected"),
        ("kinds: [DDL]", "kinds: [Delete], rowsAffected: {moreThan: '1'}", "x.yaml:13: spec.rules[0].match.statements.rowsAffected.moreThan: a whole number is wanted here; fix: write digits without quotes"),
        ("kinds: [DDL]", "kinds: [Delete], rowsAffected: {moreThan: -1}", "x.yaml:13: spec.rules[0].match.statements.rowsAffected.moreThan: it is less than 0; fix: write 0 or more"),
        ("name: one", "name: One", "x.yaml:11: spec.rules[0].name: `One` is not a short name; fix: use lower case letters, digits and `-`, as in `big-deletes`"),
        ("kinds: [DDL]}}", "kinds: [DDL]}}\n  - {name: one, action: Deny, match: {statements: {kinds: [Do]}}}", "x.yaml:14: spec.rules[1].name: `one` stands twice in rules; fix: leave one out, or rename it"),
        ("  targets: {", "  validity: {windows: [{days: [Mon-Fri], from: 8:00, to: 18:00, timeZone: UTC}]}\n  targets: {", "x.yaml:5: spec.validity.windows[0].from: `8:00` is not a time of day; fix: write two digits"),
        ("  targets: {", "  validity: {windows: [{days: [Mon], from: 08:00, to: 18:00, timeZone: Mars/Olympus}]}\n  targets: {", "x.yaml:5: spec.validity.windows[0].timeZone: `Mars/Olympus` is not a time zone that this machine knows; fix: "),
        ("{name: policy}", "{name: policy, annotatons: {}}", "x.yaml:3: metadata.annotatons: there is no field `annotatons` here; fix: write annotations"),
        ("metadata: {name: policy}\n", "", "x.yaml:1: metadata: metadata is missing; fix: add it: "),
        ("groups: [developers]", "expression: ''", "x.yaml:7: spec.subjects[0].expression: it is shorter than 1 characters; fix: write a longer value"),
        ("groups: [developers]", "groups: [' dba']", "x.yaml:7: spec.subjects[0].groups[0]: ` dba` is not a name without blanks around it"),
        ("groups: [developers]", "{}", "x.yaml:7: spec.subjects[0].groups: an empty subject would be everyone; fix: give groups, users, agents or an expression"),
        ("names: [shop-db]", "selector: {matchLabels: {-bad: x}}", "x.yaml:5: spec.targets.selector.matchLabels.-bad: `-bad` is not the key of a label; fix: "),
    ],
)  # fmt: skip
def test_names_file_line_field_and_fix(old: str, new: str, problem: str) -> None:
    assert old in POLICY
    (found,) = problems_of(POLICY.replace(old, new, 1))
    assert found.startswith(problem)
    assert "; fix: " in found


@pytest.mark.parametrize("name", ["not_before", "from_", "rows_affected", "time_zone", "api_version"])
def test_python_names_are_not_names_on_the_wire(name: str) -> None:
    text = POLICY.replace("  targets: {", f"  validity: {{{name}: x}}\n  targets: {{")
    assert any(f"there is no field `{name}` here" in problem for problem in problems_of(text))


def test_every_problem_of_every_file_is_told_and_nothing_is_read() -> None:
    broken = (
        POLICY.replace("action: Deny", "action: Nope")
        .replace("allow: [Read]", "allow: [Reed, Explane]")
        .replace("policy}", "Policy}")
    )
    with pytest.raises(ManifestError) as caught:
        parse_manifests([("a.yaml", POLICY), ("b.yaml", broken), ("c.yaml", "a: [")])
    found = [(problem.file, problem.line, problem.field_path) for problem in caught.value.problems]
    assert found == [
        ("b.yaml", 3, "metadata.name"),
        ("b.yaml", 9, "spec.grants[0].postgres.allow[0]"),
        ("b.yaml", 9, "spec.grants[0].postgres.allow[1]"),
        ("b.yaml", 12, "spec.rules[0].action"),
        ("c.yaml", 1, ""),
    ]
    assert caught.value.way_forward == caught.value.problems[0].way_forward


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("kind: AccessPolicy", "x.yaml:1: apiVersion is missing"),
        ("apiVersion: sidegate.dev/v1alpha1", "x.yaml:1: kind is missing"),
        ("- a", "x.yaml:1: a manifest is a mapping with apiVersion and kind"),
        ("apiVersion: sidegate.dev/v1alpha1\nkind: AccesPolicy", "x.yaml:2: kind: there is no kind `AccesPolicy`; fix: write AccessPolicy"),
        ("apiVersion: sidegate.dev/v1\nkind: AccessPolicy", "x.yaml:1: apiVersion: there is no version `sidegate.dev/v1`; fix: write apiVersion: sidegate.dev/v1alpha1"),
        ("apiVersion: sidegate.dev\nkind: AccessPolicy", "x.yaml:1: apiVersion: there is no version `sidegate.dev`"),
        ("apiVersion: sidegate.io/v1alpha1\nkind: AccessPolicy", "x.yaml:1: apiVersion: `sidegate.io/v1alpha1` is not sidegate.dev/v1alpha1"),
        ("apiVersion: sidgate.dev/v1alpha1\nkind: Acces", "x.yaml:1: apiVersion: `sidgate.dev/v1alpha1` is not"),
        ("apiVersion: SIDEGATE.dev/v1alpha1\nkind: Rule", "x.yaml:1: apiVersion: `SIDEGATE.dev/v1alpha1` is not"),
        ("apiVersion: v1\nkind: AccessPolicy", "x.yaml:1: apiVersion: `v1` is not sidegate.dev/v1alpha1"),
        ("apiVersion: v1\nkind: List", "x.yaml:1: items: a list needs its items"),
        ("apiVersion: v1\nkind: List\nitems:\n- kind: Pod", "x.yaml:4: apiVersion is missing"),
    ],
)  # fmt: skip
def test_what_looks_like_ours_and_is_not_is_a_problem(text: str, problem: str) -> None:
    assert problems_of(text)[0].startswith(problem)


def test_other_groups_are_left_alone_with_a_note() -> None:
    manifests = read("apiVersion: apps/v1\nkind: StatefulSet\nspec: {replicas: 3}\n---\n" + POLICY)
    assert len(manifests.policies) == 1
    assert manifests.notes == ("x.yaml:1: left alone: `StatefulSet` of `apps/v1` is not Sidegate's",)


@pytest.mark.parametrize(("api_version", "kind"), [("v1", "List"), ("sidegate.dev/v1alpha1", "AccessPolicyList")])
def test_a_list_is_its_items_with_lines_and_paths_of_their_own(api_version: str, kind: str) -> None:
    indented = POLICY.replace("\n", "\n  ").rstrip()
    text = f"apiVersion: {api_version}\nkind: {kind}\nitems:\n- {indented}\n- {indented.replace('policy}', 'other}')}\n"
    first, second = read(text).policies
    assert [each.resource.metadata.name for each in (first, second)] == ["policy", "other"]
    assert (first.origin.line, second.origin.line) == (4, 17)
    assert second.origin.line_of("spec.rules[0].action") == 28
    (problem,) = problems_of(text.replace("action: Deny", "action: Nope", 1))
    assert problem.startswith("x.yaml:15: spec.rules[0].action: ")


def test_the_same_resource_twice_is_a_problem_whatever_the_file() -> None:
    with pytest.raises(ManifestError, match=r"b\.yaml:3: metadata\.name: AccessPolicy `policy` stands twice, first in a\.yaml:1"):
        parse_manifests([("a.yaml", POLICY), ("b.yaml", POLICY)])
    other = POLICY.replace("{name: policy}", "{name: policy, namespace: other}")
    assert len(parse_manifests([("a.yaml", POLICY), ("b.yaml", other)]).policies) == 2


def test_null_metadata_of_generators_is_taken() -> None:
    (manifest,) = read(POLICY.replace("{name: policy}", "{name: policy, creationTimestamp: null}")).policies
    assert manifest.resource.metadata.creation_timestamp is None


def files(directory: str) -> list[tuple[str, str]]:
    return [(str(path), path.read_text("utf-8")) for path in sorted((EXAMPLES / directory).glob("*.yaml"))]


@pytest.mark.parametrize(("directory", "targets", "policies"), [("demo", 1, 2), ("manifests", 1, 5)])
def test_the_examples_are_read(directory: str, targets: int, policies: int) -> None:
    manifests = parse_manifests(files(directory))
    assert (len(manifests.targets), len(manifests.policies), manifests.notes) == (targets, policies, ())


EXAMPLE_DOCUMENTS = [each for directory in ("demo", "manifests") for each in files(directory)]


@pytest.mark.parametrize("text", [text for _, text in EXAMPLE_DOCUMENTS], ids=[Path(file).stem for file, _ in EXAMPLE_DOCUMENTS])
def test_a_resource_survives_the_way_through_yaml(text: str) -> None:
    manifests = read(text)
    for each in (*manifests.targets, *manifests.policies):
        again = read(yaml.safe_dump(each.resource.to_wire(), sort_keys=False))
        assert [*again.targets, *again.policies][0].resource == each.resource


def test_kinds_roles_and_rules_of_the_demo_are_those_the_tour_needs() -> None:
    manifests = parse_manifests(files("demo"))
    assistants = next(each.resource for each in manifests.policies if each.resource.metadata.name == "ai-assistants")
    roles = {str(grant.postgres.role) for grant in assistants.spec.grants}
    assert roles == {str(each.role) for each in manifests.targets[0].resource.spec.credentials}
    rules = {str(rule.name): rule for rule in assistants.spec.rules}
    big = rules["big-deletes"].match.statements
    assert big is not None
    assert big.kinds == (StatementKind.DELETE,)
    assert big.rows_affected is not None
    assert big.rows_affected.more_than == 100


@given(st.data())
def test_a_policy_with_any_part_taken_out_or_put_elsewhere_is_read_or_refused_with_a_place(data: st.DataObject) -> None:
    """No manifest, however mangled, raises anything but ManifestError."""
    document: Any = yaml.safe_load(POLICY)
    path = data.draw(
        st.sampled_from(
            [("spec",), ("spec", "targets"), ("spec", "rules"), ("spec", "grants"), ("metadata",), ("spec", "subjects")]
        )
    )
    junk = data.draw(
        st.sampled_from(
            [
                {},
                [],
                [[]],
                [{}],
                "x",
                5,
                True,
                {"a": {"b": [1]}},
                [{"name": {}}],
                [{"postgres": []}],
                [{"match": {"columns": [{}]}}],
            ]
        )
    )
    patch: Any = junk
    for step in reversed(path):
        patch = {step: patch}
    document = merged(document, patch)
    try:
        read(yaml.safe_dump(document))
        problems = None
    except ManifestError as error:
        problems = error.problems
    if problems is not None:
        assert problems
        for problem in problems:
            assert problem.line >= 1
            assert problem.problem
            assert problem.way_forward


@pytest.mark.parametrize(("directory", "noted"), [("demo", set()), ("manifests", {"spec.mode"})])
def test_the_examples_compile_into_a_gate_config_without_surprises(directory: str, noted: set[str]) -> None:
    """The trial policy alone is remarked on: that is what it is for."""
    manifests = parse_manifests(files(directory))
    for target in manifests.targets:
        compiled = compile_target(target.resource, [each.resource for each in manifests.policies], Placement("/secrets"))
        assert compiled.config is not None
        assert {finding.field_path for finding in compiled.findings} == noted


def test_models_are_what_the_lists_say() -> None:
    manifests = parse_manifests(files("demo"))
    assert all(isinstance(each.resource, ProtectedTarget) for each in manifests.targets)
    assert all(isinstance(each.resource, AccessPolicy) for each in manifests.policies)
