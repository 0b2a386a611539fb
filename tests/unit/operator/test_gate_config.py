"""The ConfigMap of a gate: repeatable, owned by its target, and none at all when something is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from sidegate.api.access_policy import AccessPolicy, FindingSeverity
from sidegate.api.protected_target import ProtectedTarget
from sidegate.policy.config import decode_config
from sidegate_operator.main import main
from sidegate_operator.plan.gate_config import MAX_CONFIG_BYTES, plan_gate_config

TARGET = {
    "apiVersion": "sidegate.dev/v1alpha1",
    "kind": "ProtectedTarget",
    "metadata": {"name": "shop-db", "namespace": "shop", "uid": "0f0e"},
    "spec": {
        "protocol": "Postgres",
        "environment": "production",
        "selector": {"matchLabels": {"app": "shop-db"}},
        "port": 5432,
        "tls": {"client": {"secretRef": {"name": "shop-db-gate-tls"}}},
        "identity": {"issuers": [{"url": "https://issuer.example", "audiences": ["shop-db"]}]},
        "credentials": [{"role": "readonly", "secretRef": {"name": "shop-db-readonly", "key": "password"}}],
    },
}


def policy(name: str, role: str = "readonly", **spec: object) -> dict[str, object]:
    return {
        "apiVersion": "sidegate.dev/v1alpha1",
        "kind": "AccessPolicy",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {
            "targets": {"names": ["shop-db"]},
            "subjects": [{"groups": ["ai-assistants"]}],
            "grants": [{"postgres": {"databases": ["shop"], "role": role, "allow": ["Read"]}}],
            **spec,
        },
    }


def read(*documents: dict[str, object]) -> list[AccessPolicy]:
    return [AccessPolicy.from_wire(each) for each in documents]


def test_the_config_map_holds_a_config_that_a_gate_can_read() -> None:
    planned = plan_gate_config(ProtectedTarget.from_wire(TARGET), read(policy("readers")))
    assert planned.config_map is not None
    config = decode_config(planned.config_map["data"]["gate.json"].encode())  # type: ignore[index]
    assert config.revision == planned.revision
    assert config.target.credentials[0].password_file == "/run/sidegate/secrets/shop-db-readonly/password"
    assert config.target.client_tls.cert_file == "/run/sidegate/secrets/shop-db-gate-tls/tls.crt"
    metadata = planned.config_map["metadata"]
    assert metadata["annotations"] == {"sidegate.dev/revision": config.revision}  # type: ignore[index]
    assert metadata["ownerReferences"][0]["uid"] == "0f0e"  # type: ignore[index]


def test_the_order_of_policies_changes_nothing() -> None:
    target = ProtectedTarget.from_wire(TARGET)
    first, second = read(policy("a"), policy("b"))
    assert plan_gate_config(target, [first, second]) == plan_gate_config(target, [second, first])


def test_a_policy_with_an_error_leaves_the_last_good_config_in_force() -> None:
    planned = plan_gate_config(ProtectedTarget.from_wire(TARGET), read(policy("readers", role="nobody")))
    assert planned.config_map is None
    assert planned.revision is None
    assert [finding.severity for finding in planned.findings] == [FindingSeverity.ERROR]


def test_a_config_too_large_for_a_config_map_is_refused() -> None:
    rules = [
        {
            "name": f"r{rule}",
            "action": "Mask",
            "match": {"columns": [f"column_{rule}_{number}_{'x' * 40}" for number in range(256)]},
        }
        for rule in range(64)
    ]
    planned = plan_gate_config(ProtectedTarget.from_wire(TARGET), read(policy("a", rules=rules), policy("b", rules=rules)))
    assert planned.config_map is None
    assert f"a ConfigMap holds {MAX_CONFIG_BYTES}" in planned.findings[0].problem


@pytest.mark.parametrize(("role", "exit_code", "kinds"), [("readonly", 0, ["ConfigMap"]), ("nobody", 1, [])])
def test_render_prints_the_objects_and_fails_on_errors(tmp_path: Path, role: str, exit_code: int, kinds: list[str]) -> None:
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all([TARGET, policy("readers", role=role)]))
    result = CliRunner().invoke(main, ["render", "--manifests", str(tmp_path)])
    assert result.exit_code == exit_code
    assert [each["kind"] for each in yaml.safe_load_all(result.stdout) if each] == kinds


def test_render_names_what_is_wrong_with_a_manifest(tmp_path: Path) -> None:
    (tmp_path / "all.yaml").write_text(
        "apiVersion: sidegate.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {name: x}\nspec: {mode: Off}\n"
    )
    result = CliRunner().invoke(main, ["render", "--manifests", str(tmp_path)])
    assert result.exit_code == 2
    assert "all.yaml:4: spec.mode" in result.stderr
