"""What `doctor` tells people to type finds what the chart installs."""

from __future__ import annotations

import shlex

import pytest

from sidegate_cluster.checks.check import logs_of, pods_of
from sidegate_operator.roles import LEASE, ROLES
from sidegate_operator.run_command import run
from tests.support.chart import container, named, of_kind, rendered


@pytest.mark.parametrize("component", ["operator", "webhook"])
@pytest.mark.parametrize("hint", [pods_of, logs_of])
def test_labels_in_a_hint_are_those_that_the_chart_gives_the_pods(hint: object, component: str) -> None:
    assert callable(hint)
    words = shlex.split(hint("sidegate-system", component))
    wanted = dict(each.split("=") for each in words[words.index("-l") + 1].split(","))
    labels = {
        each["metadata"]["name"]: each["spec"]["template"]["metadata"]["labels"] for each in of_kind(rendered(), "Deployment")
    }
    assert [name for name, has in labels.items() if wanted.items() <= has.items()] == [f"sidegate-{component}"]


def test_names_that_are_looked_for_are_those_that_the_chart_makes() -> None:
    objects = rendered()
    for account in {each.account for each in ROLES if each.account is not None}:
        named(objects, "ServiceAccount", account)
    assert not any(each.startswith("--lease=") for each in container(objects, "operator")["args"])
    assert next(each.default for each in run.params if each.name == "lease") == LEASE
