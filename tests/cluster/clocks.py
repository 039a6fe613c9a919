"""Wall clocks that can be set while their process runs: steps as by NTP or an operator.

A small library, compiled when first asked for, is loaded before the C library and adds
an offset to what a process is told of CLOCK_REALTIME; the offset is a number in a file,
shared by all processes that have it. The monotonic clocks stay true, as they do in life.
"""

from __future__ import annotations

import atexit
import functools
import mmap
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import Final

VARIABLE: Final = "COHERENCED_TEST_CLOCK"
_SOURCE: Final = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

static volatile const long long zero = 0;
static volatile const long long *offset_ns = &zero;
static int (*true_clock)(clockid_t, struct timespec *);

__attribute__((constructor)) static void start(void) {
  true_clock = dlsym(RTLD_NEXT, "clock_gettime");
  const char *path = getenv("COHERENCED_TEST_CLOCK");
  int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  if (file < 0) return;
  void *page = mmap(0, 8, PROT_READ, MAP_SHARED, file, 0);
  if (page != MAP_FAILED) offset_ns = page;
}

int clock_gettime(clockid_t id, struct timespec *now) {
  if (!true_clock) start();
  int result = true_clock(id, now);
  if (result == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) {
    long long ns = now->tv_sec * 1000000000LL + now->tv_nsec + *offset_ns;
    now->tv_sec = ns / 1000000000LL;
    now->tv_nsec = ns % 1000000000LL;
  }
  return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  struct timespec ts;
  (void)zone;
  int result = clock_gettime(CLOCK_REALTIME, &ts);
  now->tv_sec = ts.tv_sec;
  now->tv_usec = ts.tv_nsec / 1000;
  return result;
}

time_t time(time_t *where) {
  struct timespec ts;
  clock_gettime(CLOCK_REALTIME, &ts);
  if (where) *where = ts.tv_sec;
  return ts.tv_sec;
}
"""


@functools.cache
def library() -> Path | None:
    """The compiled library; None when there is no C compiler here."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    directory = Path(tempfile.mkdtemp(prefix="coh-c-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    source, built = directory / "clock.c", directory / "clock.so"
    source.write_text(_SOURCE)
    command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(built), str(source), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return built


class WallClock:
    """The offset of one clock, and how a process gets to follow it."""

    def __init__(self, directory: Path) -> None:
        built = library()
        if built is None:
            raise RuntimeError("no C compiler: clocks cannot be stepped here")
        self._path = directory / "clock"
        self._path.write_bytes(bytes(8))
        self.environment = {"LD_PRELOAD": str(built), VARIABLE: str(self._path)}
        """Start a process with these, and it follows this clock."""
        self.offset_ms = 0

    def step(self, ms: int) -> None:
        """Set the clock on by `ms`, back if negative."""
        self.offset_ms += ms
        with self._path.open("r+b") as file, mmap.mmap(file.fileno(), 8) as page:
            page[:] = struct.pack("=q", self.offset_ms * 1_000_000)

    def wrapped(self, executable: Path) -> Path:
        """A script that runs `executable` under this clock."""
        script = self._path.with_name(f"clocked-{executable.name}")
        exports = "\n".join(f"export {name}='{value}'" for name, value in self.environment.items())
        script.write_text(f'#!/bin/sh\n{exports}\nexec "{executable}" "$@"\n')
        script.chmod(0o755)
        return script
