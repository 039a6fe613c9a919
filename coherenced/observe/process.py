"""What this process uses, read from /proc when somebody asks."""

from __future__ import annotations

import os
import platform
import resource
from pathlib import Path

from coherenced.observe.stats import ProcessSection

_PROC = Path("/proc/self")


def read(started_unix_s: float) -> ProcessSection:
    """One reading. Where /proc is not mounted the sizes are 0, never an error."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return ProcessSection(
        pid=os.getpid(),
        rss_bytes=_resident_bytes(),
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        open_files=_open_files(),
        max_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        started_unix_s=started_unix_s,
        python=platform.python_version(),
    )


def _resident_bytes() -> int:
    try:
        return int((_PROC / "statm").read_bytes().split()[1]) * resource.getpagesize()
    except (OSError, IndexError, ValueError):
        return 0


def _open_files() -> int:
    try:
        return sum(1 for _ in os.scandir(_PROC / "fd")) - 1  # the directory itself is open, too
    except OSError:
        return 0
