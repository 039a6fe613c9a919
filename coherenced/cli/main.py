"""`coherenced`: which commands there are, and what becomes of their errors.

A command's module is imported when the command is called, and not for `--help`,
so that a cron job or a shell prompt does not pay for a daemon it does not start.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from typing import Any, Final, NamedTuple

import click

import coherenced
from coherenced import memory
from coherenced.cli.options import connection
from coherenced.cli.output import note
from coherenced.cli.start import INTERRUPTED
from coherenced.errors import CoherencedError

_NO_ARGUMENTS: Final[Any] = getattr(click.exceptions, "NoArgsIsHelpError", click.Abort)
"""What a group raises that was called alone (click 8.2 and later; before, it shows its help)."""


_PASSWORD: Final = (
    " Give the daemon's listen.password in the address: COHERENCED_SOCKET=unix://:PASSWORD@/path"
)


_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""What writing to standard output can meet with; everything else that opens files tells which."""


class Command(NamedTuple):
    """Where a command lives, and its line in `coherenced --help`."""

    module: str
    attribute: str
    help: str


COMMANDS: Final = {
    "serve": Command("serve", "serve", "Run the daemon of this host."),
    "demo": Command("demo", "demo", "See it work: a server, some daemons, a story, figures."),
    "get": Command("keys", "get", "Print the value of a key."),
    "set": Command("keys", "set_", "Store a value under a key."),
    "del": Command("keys", "delete", "Delete keys, everywhere."),
    "mget": Command("keys", "mget", "Print the values of several keys."),
    "lease": Command("lease", "lease_", "Print a value; one in the cluster runs what makes it."),
    "warm": Command("warm", "warm", "Read keys into this host's memory."),
    "invalidate": Command("invalidate", "invalidate", "Make every node drop what it holds."),
    "watch": Command("watch", "watch", "Show invalidations as they happen."),
    "nodes": Command("nodes", "nodes", "Show the nodes, and what has happened lately."),
    "stats": Command("stats", "stats", "Show hits, misses and latencies of each tier."),
    "top": Command("top", "top", "Show what this node does, live."),
    "explain": Command("explain", "explain", "Say where a key would be served from, and why."),
    "writebehind": Command(
        "writebehind", "writebehind", "Show and settle what waits to be sent to origins."
    ),
    "audit": Command("audit", "audit", "Compare what this node holds with Redis."),
    "doctor": Command("doctor", "doctor", "Check this host, the daemon and Redis."),
    "bench": Command("bench", "bench", "Measure: our figures beside those of the peers."),
    "config": Command("config", "config", "Check or show the configuration."),
}
"""In the order of the help text."""


class LazyGroup(click.Group):
    """A group that imports a command's module on demand."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = COMMANDS.get(cmd_name)
        if place is None:
            return None
        module = importlib.import_module(f"coherenced.cli.{place.module}")
        command: click.Command = getattr(module, place.attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, place.help) for name, place in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 failed, 2 bad usage or configuration, "
    "3 done but not everyone acknowledged, 4 daemon or Redis unreachable.",
)
@click.version_option(coherenced.__version__, prog_name="coherenced")
@connection
def cli() -> None:
    """coherenced: one L1 cache per host, kept coherent over Redis."""


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Carry out one command line; returns its exit code. Errors are one line on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a key may be any bytes
    release = memory.reserve()
    try:
        result = cli.main(args=arguments, prog_name="coherenced", standalone_mode=False)
        sys.stdout.flush()
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except _NO_ARGUMENTS as error:
        print(error.format_message(), file=sys.stderr)  # click writes the help into it
        return 2
    except click.ClickException as error:
        where = getattr(error, "ctx", None)
        advice = f" (see '{where.command_path} --help')" if where is not None else ""
        return _failed(f"{error.format_message().rstrip('.')}{advice}", error.exit_code)
    except CoherencedError as error:
        advice = _PASSWORD if str(error).startswith("NOAUTH") else ""
        return _failed(f"{error}{advice}", error.exit_code)
    except BrokenPipeError:
        _discard_output()  # whoever read it has had enough
        return 1
    except Exception as error:
        release()
        if isinstance(error, OSError) and error.errno in _FULL and error.filename is None:
            _discard_output()
            return _failed(f"the output cannot be written: {error.strerror}", 1)
        if os.environ.get("COHERENCED_DEBUG"):
            raise
        if memory.is_short(error) or memory.is_tight():
            return _failed(f"out of memory: {memory.advice()}", 1)
        return _failed(
            f"internal error: {type(error).__name__}: {error} "
            "(set COHERENCED_DEBUG=1 to see where; please report it)",
            1,
        )
    return result if isinstance(result, int) else 0


def _discard_output() -> None:
    """What could not be written is still in the buffer: flushing it at exit must not complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _failed(text: str, exit_code: int) -> int:
    note(text)
    return exit_code
