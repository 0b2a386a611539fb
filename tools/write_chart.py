"""Write the chart's templates that follow from code: `python -m tools.write_chart`, or `--check` to only say whether they are current.

    templates/crd-*.yaml     from crds/, which the API types make
    templates/rbac.yaml      from `sidegate_operator.roles`, each rule with its reason

The CRDs are templates and not in Helm's own folder `crds/`, which `helm upgrade` never reads again. What `helm uninstall` would take away
with them is everybody's policies, so they carry `helm.sh/resource-policy: keep`. Left out: admission (`write_admission`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from sidegate_operator.permissions import Permission
from sidegate_operator.roles import ROLES, Role, Scope
from tools.made_files import ROOT, stale, write_or_check

TEMPLATES: Final = ROOT / "charts" / "sidegate" / "templates"
MADE_BY: Final = "# Made by `make chart`. Change it in `{source}`.\n"
_GROUP: Final = "rbac.authorization.k8s.io"
_NAMESPACE: Final = "{{ .Release.Namespace }}"
_LABELS: Final = '  labels:\n    {{- include "sidegate.labels" . | nindent 4 }}\n'
_KEPT: Final = "  annotations:\n    helm.sh/resource-policy: keep\n"


def definition(text: str, name: str) -> str:
    """The template of one CRD, from its file.

    Raises:
        ValueError: its file isn't as `write_crds` writes it, or has what Helm would take for an expression.
    """
    head = f"metadata:\n  name: {name}\n"
    if text.count(head) != 1 or "{{" in text:
        raise ValueError(f"crds of {name}: not what tools/write_crds.py writes")
    _, _, body = text.partition("\n")  # its first line says who made it
    made_by = MADE_BY.format(source="sidecar/sidegate/api")
    return f"{made_by}{{{{- if .Values.crds.install }}}}\n{body.replace(head, head + _KEPT)}{{{{- end }}}}\n"


def roles() -> str:
    return MADE_BY.format(source="operator/sidegate_operator/roles.py") + "---\n".join(_documents())


def _documents() -> Iterator[str]:
    for role in ROLES:
        if role.scope is Scope.WHERE_BOUND:
            yield "{{- if .Values.roles.create }}\n" + _role(role) + "{{- end }}\n"
        else:
            yield _role(role)
            yield _binding(role)


def _metadata(role: Role, labels: str = "") -> str:
    namespace = f"  namespace: {_NAMESPACE}\n" if role.scope is Scope.OWN_NAMESPACE else ""
    return f"metadata:\n  name: {role.name}\n{namespace}{_LABELS}{labels}"


def _kind(role: Role) -> str:
    return "Role" if role.scope is Scope.OWN_NAMESPACE else "ClusterRole"


def _role(role: Role) -> str:
    labels = ""
    if role.aggregate_to is not None:
        switch = f".Values.roles.aggregate{role.name.removeprefix('sidegate-').capitalize()}"
        labels = f'    {{{{- if {switch} }}}}\n    {_GROUP}/aggregate-to-{role.aggregate_to}: "true"\n    {{{{- end }}}}\n'
    rules = "".join(_rule(each) for each in role.permissions)
    return f"apiVersion: {_GROUP}/v1\nkind: {_kind(role)}\n{_metadata(role, labels)}rules:\n{rules}"


def _rule(permission: Permission) -> str:
    written = yaml.safe_dump(permission.rule(), sort_keys=False, default_flow_style=None, width=10_000)
    lines = written.splitlines()
    return f"# {permission.reason}\n- {lines[0]}\n" + "".join(f"  {line}\n" for line in lines[1:])


def _binding(role: Role) -> str:
    kind = _kind(role)
    document: dict[str, Any] = {
        "roleRef": {"apiGroup": _GROUP, "kind": kind, "name": role.name},
        "subjects": [{"kind": "ServiceAccount", "name": role.account, "namespace": _NAMESPACE}],
    }
    text = yaml.safe_dump(document, sort_keys=False, width=10_000).replace(f"'{_NAMESPACE}'", _NAMESPACE)
    return f"apiVersion: {_GROUP}/v1\nkind: {kind}Binding\n{_metadata(role)}{text}"


def wanted_files() -> dict[Path, str]:
    """Every template that follows from code, with its text."""
    files = {TEMPLATES / "rbac.yaml": roles()}
    for file in sorted((ROOT / "crds").glob("*.yaml")):
        text = file.read_text("utf-8")
        name = yaml.safe_load(text)["metadata"]["name"]
        files[TEMPLATES / f"crd-{name.partition('.')[0]}.yaml"] = definition(text, name)
    return files


def stale_files() -> list[Path]:
    """Those that aren't as they should be, and definitions of kinds that are no more."""
    return stale(wanted_files(), TEMPLATES.glob("crd-*.yaml"))


def main(arguments: list[str]) -> int:
    return write_or_check(wanted_files(), arguments, TEMPLATES.glob("crd-*.yaml"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
