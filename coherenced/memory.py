"""A process that is given no more memory: how that is recognised, and what to tell people.

That comes with a limit of the address space (`ulimit -v`) or a host that promises no more than it
has. What needs much at once fails, and is refused; what is small goes on. A container's limit is
another thing: the kernel kills who crosses it. So it is looked at before.
"""

from __future__ import annotations

import errno
import mmap
import re
import resource
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

SPARE_BYTES: Final = 4 << 20
"""Of the address space, not of memory: Python asks for a megabyte at once."""
BESIDE_L1_BYTES: Final = 100 << 20
"""What a daemon takes beside its L1, about: itself, and what is on its way to clients."""
TIGHT: Final = 0.85
"""By this part of its limit, what else goes wrong in odd ways is for want of memory, too."""


def is_short(error: BaseException) -> bool:
    """Whether it is for want of memory that this went wrong; libraries say it in their own ways."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, ImportError):
        return "failed to map segment" in str(error) or "cannot allocate memory" in str(error)
    return str(error) in _HIREDIS


def bound(pid: int | str = "self", root: Path = Path("/")) -> tuple[int, str]:
    """How many bytes a process may take before it is killed or refused more, and what says so;
    (0, "") where nothing does."""
    found: list[tuple[int, str]] = []
    with suppress(OSError):
        for line in (root / f"proc/{pid}/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                found += _cgroup(root / "sys/fs/cgroup", path, "memory.max")
            elif "memory" in controllers.split(","):
                found += _cgroup(root / "sys/fs/cgroup/memory", path, "memory.limit_in_bytes")
    with suppress(OSError):
        limits = (root / f"proc/{pid}/limits").read_text()
        if address_space := re.search(r"^Max address space +(\d+)", limits, re.MULTILINE):
            found.append((int(address_space[1]), "ulimit -v"))
    return min(found, default=(0, ""))


def _cgroup(hierarchy: Path, path: str, name: str) -> Iterator[tuple[int, str]]:
    """What is set for the group and those around it. (In a container its own group is the root.)"""
    group = hierarchy / path.lstrip("/")
    for directory in (group, *group.parents):
        with suppress(OSError, ValueError):  # "max" is no number
            if (limit := int((directory / name).read_text())) < _UNLIMITED:
                yield limit, name
        if directory == hierarchy:
            break


_UNLIMITED: Final = 1 << 60
_HIREDIS: Final = ("Failed to serialize the command.", "Out of memory")


def reserve() -> Callable[[], None]:
    """Put a little aside, for what is to be said when there is no more; call it to have it back."""
    try:
        return mmap.mmap(-1, SPARE_BYTES).close
    except OSError:
        return lambda: None


def tell(loop: AbstractEventLoop, what: str, error: MemoryError) -> None:
    """Have whoever sees to the errors of `loop` told that there is no room for `what`."""
    told = {"message": f"{what} does not fit into memory", "exception": error}
    loop.call_exception_handler(told)


def is_tight() -> bool:
    """Whether nearly all that this process may have is taken."""
    limit = _limit()
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except MemoryError:
        return True
    except (OSError, ValueError):
        return False
    return 0 < limit < pages * resource.getpagesize() / TIGHT


def advice() -> str:
    """Why there is no more, and what to do."""
    limit = _limit()
    if limit <= 0:
        return "this host gives this process no more"
    return f"this process may have {limit / (1 << 20):,.0f} MiB (ulimit -v): raise that limit"


def _limit() -> int:
    """Bytes of address space that this process may have; 0 or less: as many as it likes."""
    return resource.getrlimit(resource.RLIMIT_AS)[0]
