"""A process that holds copies: `python -m coherenced.bench.holder SPEC`.

read    hits as fast as they go, from `begin_s` on; tells how many a second
time    hits on each of `keys`; tells what one costs, µs, as a list of `rounds`
watch   reads one key all the time, `pause_s` between; tells each value that is new to it,
        and when it came
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

from coherenced.bench.load import key
from coherenced.bench.processes import give_up, given_spec, tell
from coherenced.bench.rounds import look_ups
from coherenced.client.sync import Client


def read(cache: Client, spec: dict[str, Any]) -> None:
    names = [key(number) for number in range(spec["keys"])]
    for _ in range(3):  # the page is opened, L1 filled, then L0
        for name in names:
            cache.get(name)
    time.sleep(max(0.0, spec["begin_s"] - time.monotonic()))
    get, clock, count = cache.get, time.monotonic, 0
    started_s = now_s = clock()
    while now_s - started_s < spec["seconds"]:
        for name in names:
            get(name)
        count += len(names)
        now_s = clock()
    tell(count / (now_s - started_s))


def clocked(cache: Client, spec: dict[str, Any]) -> None:
    for name in map(str.encode, spec["keys"]):
        while cache.get_entry(name).source != "l0":
            pass
        names, rounds = [name] * 1000, range(spec["rounds"])
        tell([look_ups(cache.get, names, spec["seconds"]) for _ in rounds])


def watch(cache: Client, pause_s: float) -> None:
    get, clock, last = cache.get, time.monotonic, object()
    while True:
        if pause_s:
            time.sleep(pause_s)
        value = get("seen")
        if value != last and value is not None:
            tell({"value": value, "at_s": clock()})
            last = value


def main() -> None:
    spec = given_spec()
    with contextlib.suppress(KeyboardInterrupt), Client(spec["socket"]) as cache:
        if spec["do"] == "read":
            read(cache, spec)
        elif spec["do"] == "time":
            clocked(cache, spec)
        elif spec["do"] == "watch":
            watch(cache, spec.get("pause_s", 0.0))
        else:
            give_up(f"there is no {spec['do']!r}")


if __name__ == "__main__":
    main()
