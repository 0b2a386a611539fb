"""Where a command finds what it is about: in a gate's directory on this machine, or in a cluster.

Rules it keeps:
- An option decides; where none was given, `SIDEGATE_STATE` names a directory, else a kubeconfig in effect names a cluster.
- The cluster's half is loaded when it is wanted: an installation without it runs everything else, and says what to install.

Left out: talking to a cluster, which is another package, by the name of its modules alone.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import click

CLUSTER_PACKAGE: Final = "sidegate_cluster"
CLUSTER_EXTRA: Final = "sidegate[cluster]"
_DEFAULT_KUBECONFIG: Final = "~/.kube/config"


@dataclass(frozen=True, slots=True)
class ClusterChoice:
    """Which cluster, and which of its namespaces; None: as kubectl would choose. `is_asked`: an option said so."""

    kubeconfig: str | None = None
    context: str | None = None
    namespace: str | None = None
    all_namespaces: bool = False

    @property
    def is_asked(self) -> bool:
        return self.all_namespaces or any(each is not None for each in (self.kubeconfig, self.context, self.namespace))


def cluster_options(*, all_namespaces: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`--kubeconfig`, `--context`, `--namespace` and perhaps `--all-namespaces`, given to the command as one `cluster`."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)  # the options that it has already stand in its __dict__
        def with_choice(
            *arguments: Any,
            kubeconfig: str | None,
            context_name: str | None,
            namespace: str | None,
            all_namespaces: bool = False,
            **more: Any,
        ) -> Any:
            if all_namespaces and namespace is not None:
                raise click.UsageError("--namespace and --all-namespaces exclude each other")
            return function(*arguments, cluster=ClusterChoice(kubeconfig, context_name, namespace, all_namespaces), **more)

        options = [
            click.option("--kubeconfig", metavar="FILE", help="Kubeconfig to use. Default: $KUBECONFIG, or ~/.kube/config."),
            click.option(
                "--context", "context_name", metavar="NAME", help="Context of the kubeconfig. Default: its current one."
            ),
            click.option("--namespace", "-n", metavar="NAME", help="Namespace. Default: the context's."),
        ]
        if all_namespaces:
            options.append(click.option("--all-namespaces", "-A", is_flag=True, help="Those of every namespace."))
        decorated: Callable[..., Any] = with_choice
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return decorate


def is_in_cluster(cluster: ClusterChoice, *local_options: object) -> bool:
    """Whether the command is about a cluster. `local_options` are the values of those that name something on this machine.

    Raises:
        click.UsageError: options of both kinds were given.
    """
    is_local = any(each is not None for each in local_options)
    if cluster.is_asked and is_local:
        raise click.UsageError("options for a gate's directory and options for a cluster exclude each other")
    if cluster.is_asked or is_local:
        return cluster.is_asked
    if os.environ.get("SIDEGATE_STATE"):
        return False
    if os.environ.get("KUBECONFIG"):
        return True
    return Path(_DEFAULT_KUBECONFIG).expanduser().is_file() and importlib.util.find_spec("kubernetes") is not None


def cluster_module(name: str) -> ModuleType:
    """A module of the cluster's half, `commands.approvals` for one.

    Raises:
        click.ClickException: it isn't installed.
    """
    try:
        importlib.import_module("kubernetes.client")
        return importlib.import_module(f"{CLUSTER_PACKAGE}.{name}")
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package == "sidegate":
            raise
        raise click.ClickException(f"commands for a cluster need the package `{package}`: install {CLUSTER_EXTRA}") from error
