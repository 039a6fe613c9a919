"""What must stand nowhere in the project: places of whoever wrote it, addresses of registries."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.arch.readme import ROOT

# Written in parts, so that this file does not find itself.
_REGISTRIES = ("pypi" + r"\.org", "python" + "hosted", "npmjs" + r"\.", "docker" + r"\.io")
_REGISTRIES += ("ghcr" + r"\.io", "quay" + r"\.io", "deb" + r"\.debian", "crates" + r"\.io")
FORBIDDEN = re.compile(
    "|".join(
        (
            r"(?<![\w.-])/" + r"work\b",
            r"\bshared/" + r"(design|hooks)",
            r"(?<![\w.-])/opt/" + r"v/",
            r"(?<![\w.-])/" + r"root/",
            r"\bissue " + r"#?[0-9A-F]\b",
            *_REGISTRIES,
        )
    )
)
_SKIPPED = {".git", ".venv", "__pycache__", "dist", "build"}


def project_files() -> list[Path]:
    """Every file that is or would be part of the project."""
    if (ROOT / ".git").exists():
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:
        paths = [p for p in ROOT.rglob("*") if not _SKIPPED & set(p.relative_to(ROOT).parts)]
    return [path for path in paths if path.is_file()]


def test_no_file_mentions_where_it_was_written() -> None:
    found = []
    for path in project_files():
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if match := FORBIDDEN.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {match[0]}")
    assert found == []


def test_the_words_would_be_found() -> None:
    for line in ("see /" + "work/main", "cat ../shared/" + "design/x.md", "https://pypi" + ".org"):
        assert FORBIDDEN.search(line)
    for line in ("the /workers", "https://example.org/work", "a shared/exclusive lock", "issue A1"):
        assert not FORBIDDEN.search(line)
