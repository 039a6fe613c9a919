"""Compiling the C files: what comes of it, and that an installation never fails by it."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import sysconfig
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coherenced import native
from coherenced.native import BuildHook, CannotBuild
from tests.arch.readme import ROOT


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is built here is not put where the package would find it."""
    place = tmp_path / "built"
    place.mkdir()
    monkeypatch.setattr(native, "built_file", lambda source: place / f"{source.stem}.so")
    monkeypatch.delenv("CC", raising=False)
    return place


@pytest.fixture
def compiler() -> None:
    try:
        native.compiler()
    except CannotBuild as why:
        pytest.skip(f"nothing can be compiled here: {why}")


def hook(root: Path) -> tuple[Any, list[str], dict[str, Any]]:
    """As hatchling sets one up: it, what it says, and what it is given to change."""
    said: list[str] = []
    app = SimpleNamespace(display_warning=said.append)
    return SimpleNamespace(root=str(root), app=app), said, {"artifacts": []}


@pytest.mark.usefixtures("compiler")
def test_it_is_built_without_a_warning_and_can_be_used(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [native.built_file(source).name for source in native.SOURCES]
    for name in names:
        (elsewhere / name).write_text("of another source")
    monkeypatch.setenv("CFLAGS", "-Werror")
    mine, said, data = hook(elsewhere)
    BuildHook.initialize(mine, "editable", data)
    assert not said
    assert data == {"artifacts": names, "pure_python": False, "infer_tag": True}
    assert {path.name for path in elsewhere.iterdir()} == {*names}
    for source in native.SOURCES:
        name = ".".join(source.relative_to(ROOT).with_suffix("").parts)
        spec = importlib.util.spec_from_file_location(name, native.built_file(source))
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        assert native.source_number(source) == module.SOURCE


def broken(monkeypatch: pytest.MonkeyPatch, how: str, tmp_path: Path) -> str:
    """Break something; what will be said of it."""
    if how == "compiler":
        monkeypatch.setenv("CC", "/nowhere/cc --fast")
        return "there is no compiler (/nowhere/cc)"
    if how == "no compiler at all":
        monkeypatch.setenv("PATH", str(tmp_path))
        return "there is no compiler"
    if how == "fails":
        monkeypatch.setenv("CC", "false")
        return "false failed (1)"
    if how == "source":
        (tmp_path / "wrong.c").write_text("#error no such thing\n")
        monkeypatch.setattr(native, "SOURCES", (tmp_path / "wrong.c", *native.SOURCES))
        return "no such thing"
    if how == "headers":
        monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
        return "there is no Python.h in"
    if how == "interpreter":
        monkeypatch.setattr(sys, "implementation", SimpleNamespace(name="pypy"))
        return "CPython"
    if how == "lock":
        monkeypatch.setattr(sysconfig, "get_config_var", lambda name: name == "Py_GIL_DISABLED")
        return "global interpreter lock"
    monkeypatch.setattr(native, "built_file", lambda source: tmp_path / "not" / "there" / "x.so")
    return ""


@pytest.mark.parametrize(
    "how",
    [
        *("compiler", "no compiler at all", "fails", "source", "headers", "interpreter", "lock"),
        "place",
    ],
)
def test_what_cannot_be_built_is_left_out_in_one_line(
    how: str,
    elsewhere: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if how == "source" and shutil.which("cc") is None:
        pytest.skip("there is no compiler to refuse it")
    for source in native.SOURCES:
        native.built_file(source).write_text("of another source")
    why = broken(monkeypatch, how, tmp_path)
    if how in ("fails", "source", "place"):  # else nothing is missing but what this test takes away
        monkeypatch.setattr(native, "compiler", lambda: ["false" if how == "fails" else "cc"])
    mine, said, data = hook(tmp_path)
    BuildHook.initialize(mine, "standard", data)
    assert data == {"artifacts": []}
    (line,) = said
    assert why in line and "optional" in line and "\n" not in line
    assert native.main() == 1
    assert why in capsys.readouterr().err
    assert how == "place" or not [*elsewhere.iterdir()]


def test_the_build_finds_its_hook_and_its_source() -> None:
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = document["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert ROOT / wheel["hooks"]["custom"]["path"] == Path(native.__file__)
    for left_out in wheel["exclude"]:
        assert left_out == "*.so" or [*ROOT.glob(left_out.lstrip("/"))]
    assert all(source.is_file() for source in native.SOURCES)
