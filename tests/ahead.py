"""What only computes is begun with the session, by processes that run while a core is idle.

Most tests wait: for a daemon, for a timeout, for a fault to pass; and meanwhile a core is idle. The
simulator waits for nobody, does the same in any process, and takes minutes. A test of its kind is
cut into parts, named by its mark, and asks for what they came to:

    def parts() -> list[Part]:
        return [Part(run_some, (chunk, True)) for chunk in chunks]

    @pytest.mark.ahead(parts=parts)
    def test_seeds() -> None:
        for totals in results(parts): ...

Such tests come last (`conftest`). Until then processes of our own take one part after the other,
scheduled as SCHED_IDLE (sched(7)): whoever else wakes up is given the core at once, so that no test
beside them waits longer than it would. When the first test asks, they are ended, and what they have
not done is done here, on all cores. What broke there, an exception or a process, breaks the test:
nothing is tried twice. Where a core is not idle but counted (a quota), nothing is done ahead.

    python -m tests.ahead DIRECTORY POLICY MODULE:FUNCTION…       one such process
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import importlib
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

ROOT: Final = Path(__file__).parents[1]
LEAST_BEFORE: Final = 100
"""Tests that come before: for fewer nothing is begun ahead."""


class Part(NamedTuple):
    """A call that only computes. It, and what it returns, can be pickled."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]


Parts = Callable[[], Sequence[Part]]
"""A function of a module: the same parts in the same order, in whichever process."""


class BrokeAhead(AssertionError):
    """A part raised, or a process that did parts ended by itself."""


# -- for tests -------------------------------------------------------------------------------------


def results(parts: Parts) -> list[Any]:
    """What each part returns, in order; what is not done yet is done now, on all cores.

    BrokeAhead for what went wrong ahead; what goes wrong here is raised as it is.
    """
    wanted = list(parts())
    done = _done(parts)
    missing = [number for number in range(len(wanted)) if number not in done]
    count = min(os.cpu_count() or 1, len(missing))
    if count <= 1:
        return [
            done[n] if n in done else part.function(*part.arguments)
            for n, part in enumerate(wanted)
        ]
    fresh = multiprocessing.get_context("spawn")  # nothing of this process's threads and sockets
    with ProcessPoolExecutor(count, mp_context=fresh) as pool:
        futures = {n: pool.submit(wanted[n].function, *wanted[n].arguments) for n in missing}
        return [done[n] if n in done else futures[n].result() for n in range(len(wanted))]


def result(parts: Parts, number: int) -> Any:
    """The same of one part, alone."""
    done = _done(parts)
    if number in done:
        return done[number]
    part = parts()[number]
    return part.function(*part.arguments)


def _done(parts: Parts) -> dict[int, Any]:
    """What was done ahead. From now on nobody does more."""
    if _ahead is None:
        return {}
    _ahead.stop()
    return _ahead.found(parts)


# -- the processes ---------------------------------------------------------------------------------


class Ahead:
    """Processes that do parts, and what they came to."""

    def __init__(self, jobs: Sequence[Parts], processes: int, policy: int = os.SCHED_IDLE) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="coh-ahead-"))
        self._logs = [self.directory / f"{number}.log" for number in range(processes)]
        command = [sys.executable, "-X", "faulthandler", "-m", "tests.ahead"]
        command += [str(self.directory), str(policy)]
        self._running = []
        for log in self._logs:
            with log.open("wb") as told:
                self._running.append(
                    subprocess.Popen(
                        [*command, *map(_name, jobs)],
                        stdin=subprocess.DEVNULL,
                        stdout=told,
                        stderr=told,
                        cwd=ROOT,
                    )
                )

    def wait(self) -> None:
        """Until they have done everything."""
        for process in self._running:
            process.wait()

    def stop(self) -> None:
        """End those that run. BrokeAhead if one had ended before, and not well."""
        ended = [process.poll() for process in self._running]
        for process in self._running:
            process.kill()
            process.wait()
        self._running.clear()
        for code, log in zip(ended, self._logs, strict=False):
            if code:
                raise BrokeAhead(f"a process ended with {code}:\n{log.read_text('utf-8')[-8000:]}")

    def found(self, parts: Parts) -> dict[int, Any]:
        """Number of a part -> what it returned. BrokeAhead if one raised."""
        done: dict[int, Any] = {}
        for path in self.directory.glob(f"{_name(parts)}.*.done"):
            number = int(path.name.split(".")[-2])
            returned, value = pickle.loads(path.read_bytes())
            if not returned:
                raise BrokeAhead(f"{_name(parts)}, part {number}:\n{value}")
            done[number] = value
        return done

    def remove(self) -> None:
        """End all, and delete what they left."""
        with contextlib.suppress(BrokeAhead):
            self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)


_ahead: Ahead | None = None


def begin(jobs: Sequence[Parts]) -> None:
    """Begin with these jobs, once in a session."""
    global _ahead
    if _ahead is None and jobs and not _is_counted():
        _ahead = Ahead(jobs, len(os.sched_getaffinity(0)))
        atexit.register(end)


def end() -> None:
    """Whatever is not done yet will not be."""
    global _ahead
    if _ahead is not None:
        _ahead.remove()
        _ahead = None


def _name(parts: Parts) -> str:
    return f"{parts.__module__}:{parts.__qualname__}"


def _is_counted() -> bool:
    """Whether this process may use its cores for a share of the time only (cgroups(7)): who uses
    an idle one takes from the others then."""
    groups = Path("/sys/fs/cgroup")
    limits = [groups / "cpu.max", groups / "cpu/cpu.cfs_quota_us"]
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text("utf-8").splitlines():
            _, kinds, place = line.split(":", 2)
            own = groups / place.lstrip("/")
            if kinds == "":
                limits += [
                    path / "cpu.max" for path in (own, *own.parents) if groups in path.parents
                ]
            elif "cpu" in kinds.split(","):
                limits.append(groups / "cpu" / place.lstrip("/") / "cpu.cfs_quota_us")
    for path in limits:
        with contextlib.suppress(OSError):
            if path.read_text("utf-8").split()[0] not in ("max", "-1"):
                return True
    return False


# -- one of them -----------------------------------------------------------------------------------


def main(directory: Path, policy: int, names: Sequence[str]) -> None:
    """Do one part after the other that nobody else has begun."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it ends with the session
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, policy, os.sched_param(0))
    if os.getppid() != parent or os.sched_getscheduler(0) != policy:
        return  # it would be in the others' way
    for name in names:
        module, _, function = name.partition(":")
        parts: Parts = getattr(importlib.import_module(module), function)
        for number, part in enumerate(parts()):
            place = directory / f"{name}.{number}"
            with contextlib.suppress(FileExistsError):
                place.with_name(f"{place.name}.begun").touch(exist_ok=False)
                _do(part, place)


def _do(part: Part, place: Path) -> None:
    try:
        outcome = (True, part.function(*part.arguments))
    except Exception:
        outcome = (False, traceback.format_exc())
    written = place.with_name(f"{place.name}.written")
    written.write_bytes(pickle.dumps(outcome))
    written.rename(place.with_name(f"{place.name}.done"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
