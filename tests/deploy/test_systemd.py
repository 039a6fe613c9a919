"""The systemd units: valid, closed, and at one with each other and with the daemon's names."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from coherenced.paths import HTTP_SOCKET_NAME, SOCKET_NAME, SYSTEM_DIRECTORY
from tests.deploy.files import DEPLOY, read_unit

UNITS = ("coherenced.service", "coherenced.socket", "coherenced-http.socket")
WORST_EXPOSURE = 20
"""Tenths, of 100: systemd itself calls up to 2.0 of 10 'OK'."""

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units with a program that exists on this machine."""
    for name in UNITS:
        text = (DEPLOY / "systemd" / name).read_text()
        (tmp_path / name).write_text(text.replace("/opt/coherenced/bin/coherenced", sys.executable))
    return tmp_path


@needs_systemd
def test_the_units_are_valid(installed: Path) -> None:
    command = ["systemd-analyze", "verify", "--man=no", *(str(installed / name) for name in UNITS)]
    done = subprocess.run(command, capture_output=True, text=True)
    said = [line for line in done.stderr.splitlines() if "coherenced" in line]
    assert done.returncode == 0, done.stderr
    assert said == []


@needs_systemd
def test_the_service_is_closed_to_what_it_does_not_need(installed: Path) -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager"]
    command += [f"--threshold={WORST_EXPOSURE}", str(installed / "coherenced.service")]
    done = subprocess.run(command, capture_output=True, text=True)
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd cannot rate a file")
    assert done.returncode == 0, done.stdout[-300:] + done.stderr


def test_the_service_starts_the_daemon_and_is_told_when_it_is_ready() -> None:
    service = read_unit("coherenced.service")["Service"]
    assert service["ExecStart"] == ["/opt/coherenced/bin/coherenced serve"]
    assert service["Type"] == ["notify"]
    assert service["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert service["Restart"] == ["always"]
    assert int(service["WatchdogSec"][0].removesuffix("s")) > 0
    assert service["EnvironmentFile"][0].startswith("-"), "the file is optional"
    assert service["User"] == service["Group"] == ["coherenced"]


def test_a_restart_keeps_the_sockets_and_their_directory() -> None:
    unit = read_unit("coherenced.service")
    assert unit["Service"]["RuntimeDirectory"] == [SYSTEM_DIRECTORY.name]
    assert unit["Service"]["RuntimeDirectoryPreserve"] == ["yes"]
    assert unit["Unit"]["StartLimitIntervalSec"] == ["0"], "a start limit would close the sockets"
    sockets = unit["Service"]["Sockets"][0].split()
    assert sorted(sockets) == sorted(UNITS[1:])
    assert sorted(unit["Unit"]["Requires"][0].split()) == sorted(sockets)
    assert sorted(unit["Install"]["Also"][0].split()) == sorted(sockets)


@pytest.mark.parametrize(
    ("unit", "name", "file"),
    [
        ("coherenced.socket", "resp", SOCKET_NAME),
        ("coherenced-http.socket", "http", HTTP_SOCKET_NAME),
    ],
)
def test_each_socket_has_its_name_its_place_and_its_group(unit: str, name: str, file: str) -> None:
    socket = read_unit(unit)["Socket"]
    assert socket["FileDescriptorName"] == [name]
    assert socket["ListenStream"] == [str(SYSTEM_DIRECTORY / file)]
    assert socket["Service"] == ["coherenced.service"]
    assert socket["SocketMode"] == ["0660"]
    assert socket["SocketUser"] == socket["SocketGroup"] == ["coherenced"]


def test_the_user_is_created_by_sysusers() -> None:
    lines = (DEPLOY / "systemd" / "coherenced.sysusers").read_text().splitlines()
    (user,) = [line.split() for line in lines if not line.startswith("#")]
    assert user[:3] == ["u", "coherenced", "-"]
