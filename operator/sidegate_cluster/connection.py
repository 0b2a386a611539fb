"""A connection to a cluster as a person has it: by kubeconfig, with the official client. The one importer of `kubernetes`.

    with connected(choice) as cluster:
        found = cluster.get(PROTECTED_TARGETS, "shop-db", "shop")

Rules it keeps:
- Objects are plain dicts, and what the API server answers instead of them is a `CallError` with its own words.
- One call is one request: nothing is retried, discovered or cached on disk. A name is quoted before it becomes part of a path.
- A kubeconfig that impersonates is refused: the client would leave that out, and act with more rights than the file says.

Left out: what an error means for a person (`pages.refusals`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import kubernetes.client
import kubernetes.config
import urllib3.exceptions
import yaml

from sidegate.api.meta import GROUP
from sidegate.cli.place import ClusterChoice
from sidegate.cli.recordings import CommandFailure
from sidegate_cluster.pages.refusals import CallError
from sidegate_operator.resources import Object, Resource

MERGE_PATCH: Final = "application/merge-patch+json"
STRATEGIC_MERGE_PATCH: Final = "application/strategic-merge-patch+json"
_TIMEOUT_S: Final = 30.0
_POD_NAMESPACE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_PAGE: Final = 500
_SELF: Final = Resource("authentication.k8s.io", "v1", "selfsubjectreviews", "SelfSubjectReview", is_namespaced=False)


class Cluster:
    """`namespace` is the one that is asked for, or the context's; `where` says in words which cluster it is."""

    def __init__(self, client: Any, namespace: str, where: str) -> None:
        self._client = client
        self.namespace = namespace
        self.where = where

    def get(self, kind: Resource, name: str, namespace: str | None = None) -> Object:
        """One object.

        Raises:
            CallError: the API server refused, or couldn't be reached.
        """
        return self.call("GET", kind.path(namespace, name))

    def find(self, kind: Resource, name: str, namespace: str | None = None) -> Object | None:
        """One object; None: there is none of that name. That the cluster has no resources of Sidegate's at all is an error."""
        try:
            return self.get(kind, name, namespace)
        except CallError as error:
            if error.code == 404 and not (error.is_kind_unknown and kind.group == GROUP):
                return None
            raise

    def list(self, kind: Resource, namespace: str | None = None, **query: str) -> list[Object]:
        """All of a kind, page by page."""
        found: list[Object] = []
        more: dict[str, str] = {}
        while True:
            page = self.call("GET", kind.path(namespace), query={**query, "limit": str(_PAGE), **more})
            found += [{"apiVersion": kind.api_version, "kind": kind.kind, **each} for each in page["items"]]
            token = page["metadata"].get("continue")
            if not token:
                return found
            more = {"continue": token}

    def create(self, kind: Resource, wanted: Mapping[str, Any], namespace: str | None = None, **query: str) -> Object:
        return self.call("POST", kind.path(namespace), wanted, query=query)

    def patch(self, kind: Resource, name: str, patch: Mapping[str, Any], namespace: str | None = None, **query: str) -> Object:
        """A JSON Merge Patch (RFC 7396)."""
        return self.call("PATCH", kind.path(namespace, name), patch, query=query, content_type=MERGE_PATCH)

    def who(self) -> tuple[str, tuple[str, ...]] | None:
        """Who one is to the API server, with groups. None: it doesn't say."""
        asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        try:
            user = self.create(_SELF, asked)["status"]["userInfo"]
        except (CallError, KeyError):
            return None
        return user.get("username", ""), tuple(user.get("groups") or ())

    def text(self, path: str) -> str:
        """What is no object, `/version` for one."""
        return self._answer("GET", path, None, {}, "application/json").decode("utf-8", "replace")

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Object:
        content = self._answer(method, path, body, query or {}, content_type)
        try:
            found = json.loads(content)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise CallError(0, "NotJson", f"what answers at {self.where} is no Kubernetes API server")
        return found

    def _answer(self, method: str, path: str, body: object, query: Mapping[str, str], content_type: str) -> bytes:
        headers = {"Accept": "application/json", "Content-Type": content_type}
        asked = f"{path}?{urlencode(query)}" if query else path
        request = self._client.param_serialize(method, asked, header_params=headers, body=body, auth_settings=["BearerToken"])
        try:
            answer = self._client.call_api(*request, _request_timeout=_TIMEOUT_S)
            content: bytes = answer.read()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise CallError(0, "Unreachable", f"{self.where} can't be reached: {_cause(error)}") from error
        except kubernetes.client.ApiException as error:
            raise CallError(error.status or 0, "", str(error.reason)) from error
        if not 200 <= answer.status <= 299:
            raise CallError.from_answer(answer.status, content)
        return content


@contextmanager
def connected(choice: ClusterChoice) -> Iterator[Cluster]:
    """The cluster that is chosen, for as long as the command needs it.

    Raises:
        CommandFailure: there is no kubeconfig for it, or none that can be used.
    """
    configuration = kubernetes.client.Configuration()
    file = choice.kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"
    files = [Path(each).expanduser() for each in file.split(os.pathsep) if each]
    configuration.client_side_validation = False
    try:
        if any(each.is_file() for each in files):
            _, active = kubernetes.config.list_kube_config_contexts(config_file=file)
            context = _context(file, choice.context, active)
            _refuse_impersonation(files, context["context"].get("user"))
            kubernetes.config.load_kube_config(file, choice.context, client_configuration=configuration)
            namespace, where = context["context"].get("namespace") or "default", f"the cluster of context `{context['name']}`"
        elif choice.kubeconfig is None and choice.context is None and "KUBERNETES_SERVICE_HOST" in os.environ:
            kubernetes.config.load_incluster_config(client_configuration=configuration)
            namespace, where = _POD_NAMESPACE.read_text("ascii").strip(), "the cluster of this pod"
        else:
            raise CommandFailure(
                f"no kubeconfig at {' or '.join(f'`{each}`' for each in files)}", "name one with --kubeconfig or KUBECONFIG"
            )
    except (kubernetes.config.ConfigException, yaml.YAMLError, OSError, KeyError, TypeError, ValueError) as error:
        raise CommandFailure(f"the kubeconfig `{file}` can't be used: {error}", "see whether kubectl can use it") from error
    configuration.retries = False
    client = kubernetes.client.ApiClient(configuration)
    client.user_agent = "sidegate"
    with client:
        yield Cluster(client, choice.namespace or namespace, where)


def _context(file: str, name: str | None, active: Mapping[str, Any]) -> Mapping[str, Any]:
    if name is None:
        return active
    contexts, _ = kubernetes.config.list_kube_config_contexts(config_file=file)
    found: Mapping[str, Any] | None = next((each for each in contexts if each["name"] == name), None)
    if found is None:
        known = ", ".join(f"`{each['name']}`" for each in contexts)
        raise CommandFailure(f"the kubeconfig `{file}` has no context `{name}`", f"name one that it has: {known}")
    return found


def _refuse_impersonation(files: Sequence[Path], user: str | None) -> None:
    for file in (each for each in files if each.is_file()):
        document = yaml.safe_load(file.read_text("utf-8")) or {}
        for each in document.get("users") or []:
            if each.get("name") == user:
                if any(field in (each.get("user") or {}) for field in ("as", "as-uid", "as-groups", "as-user-extra")):
                    raise CommandFailure(
                        f"user `{user}` of the kubeconfig `{file}` impersonates, which this command can't",
                        "use kubectl for that, or a kubeconfig with that user's own credentials",
                    )
                return


def _cause(error: BaseException) -> str:
    """The innermost reason; urllib3 wraps it several times, with addresses of objects in between."""
    inner = error
    while isinstance(reason := getattr(inner, "reason", None) or inner.__cause__, BaseException):
        inner = reason
    text = str(inner)
    return text.rpartition(">: ")[2].rpartition("object at ")[2] or type(inner).__name__
