"""The Kubernetes manifests: valid in every version they claim, and right about the daemon."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from coherenced import __version__
from coherenced.config import Config, load
from coherenced.config_values import MASK
from tests.deploy.files import DEPLOY, read_dockerfile

FILES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
OLDEST = "1.29"  # the first with native sidecars switched on
UID = 10001
MIB = 1 << 20


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def pod(path: Path) -> dict[str, Any]:
    (document,) = documents(path)
    spec: dict[str, Any] = document["spec"]["template"]["spec"]
    return spec


def daemon(path: Path) -> dict[str, Any]:
    """The container that runs coherenced."""
    spec = pod(path)
    (found,) = [c for c in spec["initContainers"] + spec["containers"] if c["name"] == "coherenced"]
    return found


def ours(path: Path) -> Iterator[dict[str, Any]]:
    """Every container that runs our image."""
    spec = pod(path)
    for container in spec["initContainers"] + spec["containers"]:
        if container["image"].startswith("coherenced:"):
            yield container


def environment(container: dict[str, Any]) -> dict[str, str]:
    """As Kubernetes would set it; a secret is some URL, a field some name."""
    values = {}
    for variable in container["env"]:
        source = variable.get("valueFrom", {})
        if "secretKeyRef" in source:
            values[variable["name"]] = "rediss://user:hunter2@redis:6379/0"
        elif "fieldRef" in source:
            values[variable["name"]] = "application-5f7d8-x2x9q"
        else:
            values[variable["name"]] = variable["value"]
    return values


def configuration(path: Path, tmp_path: Path) -> Config:
    empty = tmp_path / "empty.toml"
    empty.write_text("")
    return load({}, empty, environment(daemon(path))).config


each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def test_there_is_a_sidecar_and_a_daemonset() -> None:
    assert [path.stem for path in FILES] == ["daemonset", "sidecar"]


@each_file
@pytest.mark.parametrize("version", [OLDEST, kubernetes_validate.latest_version()])
def test_the_manifests_are_valid(path: Path, version: str) -> None:
    for document in documents(path):
        kubernetes_validate.validate(document, version, strict=True)


@each_file
def test_the_environment_is_a_valid_configuration(path: Path, tmp_path: Path) -> None:
    config = configuration(path, tmp_path)
    mounts = {mount["mountPath"] for mount in daemon(path)["volumeMounts"]}
    assert config.node.runtime_dir in mounts
    assert config.redis.url, "without a URL each pod would be an island"
    assert MASK in repr(config)


@each_file
def test_the_memory_limit_has_room_for_the_cache(path: Path, tmp_path: Path) -> None:
    limit = daemon(path)["resources"]["limits"]["memory"]
    assert limit.endswith("Mi")
    shared = sum(
        int(volume["emptyDir"]["sizeLimit"].removesuffix("Mi")) * MIB
        for volume in pod(path)["volumes"]
        if "emptyDir" in volume
    )
    needed = configuration(path, tmp_path).l1.max_bytes + shared + 100 * MIB
    assert int(limit.removesuffix("Mi")) * MIB >= needed


@each_file
def test_our_containers_have_no_more_rights_than_they_need(path: Path) -> None:
    assert pod(path)["securityContext"]["runAsNonRoot"] is True
    assert pod(path)["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod(path)["automountServiceAccountToken"] is False
    for container in ours(path):
        rights = container["securityContext"]
        assert rights["allowPrivilegeEscalation"] is False
        assert rights["readOnlyRootFilesystem"] is True
        assert rights["capabilities"]["drop"] == ["ALL"]
        if container["name"] == "coherenced":
            assert (rights["runAsUser"], rights["runAsGroup"]) == (UID, UID)
            assert "add" not in rights["capabilities"]


@each_file
def test_probes_run_what_the_image_has(path: Path) -> None:
    probes = {kind: daemon(path)[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness")}
    copied = [i.words[-1] for i in read_dockerfile() if i.name == "COPY" and i.stage == 1]
    for probe in probes.values():
        program, target = probe["exec"]["command"]
        assert f"/usr/local/bin/{program}" in copied
        assert target in ("/healthz", "/readyz")
        assert probe["timeoutSeconds"] > 2, "longer than the probe's own limit"
    assert probes["startup"]["exec"]["command"][1] == "/readyz"
    assert probes["liveness"]["exec"]["command"][1] == "/healthz", "a restart does not bring Redis"


@each_file
def test_the_image_is_of_this_version(path: Path) -> None:
    for container in ours(path):
        assert container["image"] == f"coherenced:{__version__}"


def test_the_sidecar_is_native_and_its_directory_is_shared() -> None:
    path = DEPLOY / "kubernetes" / "sidecar.yaml"
    spec = pod(path)
    assert [c["name"] for c in spec["initContainers"]] == ["coherenced"]
    assert daemon(path)["restartPolicy"] == "Always"
    assert spec["securityContext"]["fsGroup"] == UID, "the application reaches the sockets by it"
    (volume,) = spec["volumes"]
    assert volume["emptyDir"]["medium"] == "Memory"
    (application,) = spec["containers"]
    (mount,) = application["volumeMounts"]
    assert mount["name"] == daemon(path)["volumeMounts"][0]["name"] == volume["name"]
    assert mount["mountPath"] == daemon(path)["volumeMounts"][0]["mountPath"]
    assert mount["readOnly"] is True
    readiness = daemon(path)["readinessProbe"]["exec"]["command"][1]
    assert readiness == "/healthz", "Redis away must not take every pod out of service"


def test_the_daemonset_shares_the_hosts_directory_one_daemon_at_a_time() -> None:
    path = DEPLOY / "kubernetes" / "daemonset.yaml"
    (document,) = documents(path)
    assert document["spec"]["updateStrategy"]["rollingUpdate"]["maxSurge"] == 0
    (volume,) = pod(path)["volumes"]
    assert volume["hostPath"] == {"path": "/run/coherenced", "type": "DirectoryOrCreate"}
    (preparation,) = pod(path)["initContainers"]
    assert preparation["command"][:3] == ["install", "-d", "-o"]
    assert preparation["command"][3] == preparation["command"][5] == str(UID)
    assert preparation["securityContext"]["capabilities"]["add"] == ["CHOWN", "FOWNER"]
