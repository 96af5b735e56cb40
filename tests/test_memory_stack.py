"""A pool in a real control group that is too small for it: without memreap the kernel ends workers, with it none."""

from __future__ import annotations

import contextlib
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import cgroup, stack
from support.driver import eventually, until

MIB = 1024**2
GROUP_MB, HEADROOM_MB, WORKERS = 450, 180, 4
# One request per interval of seconds makes its worker grow by a number of MB: 27 MB a second, so that it
# takes about 12 s until the group is full, and 80 MB in the 3 s after which the next worker may go.
GROW_MB, EVERY = 8, 0.3
# The others only take their time, so that a worker which the kernel ends is most likely in a request.
OTHERS, TAKES = 3, 0.1

LISTENER = f"""
[memreap]
headroom={HEADROOM_MB}MB
min_age=2s
settle=1s
[memreap:myapp]
[eventlistener:memreap]
command={Path(sys.executable).parent}/memreap listen
events=TICK_5
stderr_logfile=WHERE/memreap.log
"""


class Load:
    """Requests, one after the other in each of a few threads; counts what came of them."""

    def __init__(self, pool: stack.Pool):
        self._pool = pool
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._grow)]
        self._threads += [threading.Thread(target=self._serve) for _ in range(OTHERS)]
        self.answered = 0
        self.grown_mb = 0
        self.lost: list[str] = []

    def _grow(self) -> None:
        while not self._stop.wait(EVERY):
            if self._ask(f"mb={GROW_MB}"):
                self.grown_mb += GROW_MB

    def _serve(self) -> None:
        while not self._stop.is_set():
            self._ask(f"s={TAKES}")

    def _ask(self, query: str) -> bool:
        try:
            self._pool.ask(query)
        except OSError as error:
            self.lost.append(f"{query}: {error}")
            return False
        self.answered += 1
        return True

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


@contextlib.contextmanager
def pool_in(group: cgroup.Group, listener: str) -> Iterator[stack.Pool]:
    where = stack.directory()
    app = stack.APPS / "leaky.psgi"
    command = f"plackup -E deployment -s FCGI --listen {where}/myapp.sock --nproc {WORKERS} --keep-stderr 1 {app}"
    text = f"[program:myapp]\ncommand={command}\n{listener.replace('WHERE', str(where))}"
    try:
        with stack.running(text, "myapp", where, within=group.command) as pool:
            yield pool
    finally:
        shutil.rmtree(where)


@pytest.mark.timeout(180)
def test_of_two_pools_that_outgrow_their_group_the_one_with_memreap_loses_no_request():
    with contextlib.ExitStack() as ending:
        plain_group, watched_group = (ending.enter_context(cgroup.made(GROUP_MB * MIB)) for _ in range(2))
        plain_pool = ending.enter_context(pool_in(plain_group, ""))
        watched_pool = ending.enter_context(pool_in(watched_group, LISTENER))
        with Load(plain_pool) as plain, Load(watched_pool) as watched:

            def assert_was_hit() -> None:
                assert plain_group.oom_kills >= 2
                assert plain.lost
                # More than the group has: without a reap it would have been hit too.
                assert watched.grown_mb > 1.3 * GROUP_MB

            eventually(assert_was_hit, timeout=75)
        until(lambda: len(watched_pool.workers()), WORKERS)  # the last one that was reaped may not be replaced yet
        log = watched_pool.log()
        assert (watched_group.oom_kills, watched.lost) == (0, []), log
        reaped = watched_pool.lines("HUP sent")
        assert len(reaped) >= 3, log
        scope = (
            f"control group /{watched_group.directory.name} has [0-9.]+ MiB available, "
            rf"headroom {HEADROOM_MB} MiB(?: \(until [0-9.]+ MiB are available\))?: HUP"
        )
        assert all(re.search(scope, line) for line in reaped), log
