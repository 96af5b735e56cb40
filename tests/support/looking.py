"""One look at a pool of support/pool.py, and one signal."""

from __future__ import annotations

import os

from supervisor_memreap.core import reasons
from supervisor_memreap.core.model import Program
from supervisor_memreap.core.settings import PoolSettings, Watch
from supervisor_memreap.host import look as host_look
from supervisor_memreap.host import procfs, signalling

MIB = 1024**2
SETTINGS = PoolSettings(limit=30 * MIB)


def look(pid: int, settings: PoolSettings = SETTINGS, view=None, **options):
    def gate(_pool):
        return reasons.detail_needed(reasons.Circumstances(settings))

    watch = Watch(Program("myapp", "myapp", "RUNNING", pid), settings)
    return host_look.look(watch, view or procfs.source(), gate, **options)


def reap(seen, worker, settings=SETTINGS, view=None, watch=5.0, idle_wait_expired=False, experience=None):
    outcome = signalling.reap(seen, worker, settings, view or procfs.source(), watch, experience, idle_wait_expired)
    if outcome.pidfd is not None:
        os.close(outcome.pidfd)
    return outcome
