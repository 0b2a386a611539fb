"""What the pod patch says about the gate's container is what `sidegate gate` takes: its arguments, its files where volumes are, its probes."""

from __future__ import annotations

import http.client
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from sidegate_operator.plan.gate_config import plan_gate_config
from tests.support import processes
from tests.support.operator_samples import SETTINGS, injected, sample, sample_target


class Mounts:
    """A container's volumes as folders below one folder; `path` is where a path of the container is here."""

    def __init__(self, container: dict[str, Any], top: Path) -> None:
        self._top = top
        self._mounted = sorted((each["mountPath"] for each in container["volumeMounts"]), key=len)
        for place in self._mounted:
            self.path(place).mkdir(parents=True, exist_ok=True)

    def path(self, inside: str) -> Path:
        assert any(inside == place or inside.startswith(f"{place}/") for place in self._mounted), f"{inside} is on no volume"
        return self._top / inside.lstrip("/")

    def publish(self, directory: str, version: str, files: dict[str, str]) -> None:
        """As the kubelet does (pkg/volume/util/atomic_writer.go): files are links into `..data`, which is switched at once."""
        top = self.path(directory)
        (top / version).mkdir()
        for name, content in files.items():
            (top / version / name).write_text(content)
            if not (top / name).is_symlink():
                (top / name).symlink_to(f"..data/{name}")
        (top / "..data_tmp").symlink_to(version)
        (top / "..data_tmp").rename(top / "..data")


def status_of(probe: dict[str, Any]) -> int:
    get = probe["httpGet"]
    connection = http.client.HTTPConnection("127.0.0.1", get["port"], timeout=5)
    try:
        connection.request("GET", get["path"])
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


def test_the_planned_container_starts_without_a_config_and_takes_it_up_when_it_comes(tmp_path: Path) -> None:
    ports = processes.free_port(), processes.free_port()
    settings = replace(SETTINGS, listen_host="127.0.0.1", gate_port=ports[0], health_port=ports[1])
    target = sample_target({"spec": {"tls": {"client": {"secretRef": None, "plainText": "LoopbackOnly"}}, "credentials": None}})
    container = injected(sample("plain.in"), target, settings)["spec"]["initContainers"][0]
    mounts = Mounts(container, tmp_path / "root")
    arguments = [str(mounts.path(each)) if each.startswith("/") else each for each in container["args"]]
    environment = {**os.environ, **{each["name"]: each["value"] for each in container["env"]}}
    log = tmp_path / "gate.log"
    gate = processes.start([sys.executable, "-m", "sidegate.cli.main", *arguments], log, environment=environment)
    try:
        startup, readiness = container["startupProbe"], {"httpGet": {"port": ports[1], "path": "/ready"}}
        processes.wait_until(lambda: status_of(startup) == 200, "the startup probe to succeed without a config", 30)
        assert status_of(readiness) == 503
        with pytest.raises(psycopg.OperationalError) as caught:
            psycopg.connect(f"host=127.0.0.1 port={ports[0]} user=ada dbname=shop sslmode=disable connect_timeout=10")
        assert "config" in str(caught.value)

        planned = plan_gate_config(target, [])
        assert planned.config_map is not None
        (volume,) = (each["mountPath"] for each in container["volumeMounts"] if each["name"] == "sidegate-config")
        mounts.publish(volume, "..1", planned.config_map["data"])
        processes.wait_until(lambda: status_of(readiness) == 200, "the gate to be ready", 30)
        assert status_of(container["livenessProbe"]) == 200

        gate.send_signal(signal.SIGTERM)
        assert gate.wait(timeout=30) == 0, log.read_text()
    finally:
        gate.kill()
        gate.wait()
    written = {
        file.relative_to(tmp_path / "root") for file in (tmp_path / "root").rglob("*") if file.is_file() and not file.is_symlink()
    }
    assert {file.parts[:3] for file in written} <= {("var", "lib", "sidegate"), ("etc", "sidegate", "..1")}
