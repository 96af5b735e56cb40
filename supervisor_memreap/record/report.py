"""All wording: one line an event, with the numbers, the cause and the remedy. Pure."""

from __future__ import annotations

import time
from collections.abc import Sequence

from supervisor_memreap.core.model import Pool, ProcessId, Worker
from supervisor_memreap.core.servers import graceful
from supervisor_memreap.core.settings import PoolSettings
from supervisor_memreap.core.verdict import (
    Event,
    Fell,
    Left,
    NeverIdle,
    NoReplacement,
    NotCaught,
    NotReplaced,
    Replaced,
    Resumed,
    Stuck,
    TooFewWorkers,
    Unreadable,
    Unseen,
    Wrapped,
    WrongLimit,
    WrongSignal,
)


def memory(bytes_: int) -> str:
    """`312 MiB`, `5.3 MiB`, `1.4 GiB`."""
    mib = bytes_ / 1024**2
    if mib >= 1024:
        return f"{mib / 1024:.1f} GiB"
    return f"{mib:.0f} MiB" if mib >= 10 else f"{mib:.1f} MiB"


def seconds(value: float) -> str:
    """`12 ms`, `0.4 s`, `45 s`, `5 min`, `2.5 h`."""
    if value < 0.1:
        return f"{value * 1000:.0f} ms"
    if value < 10:
        return f"{value:.1f} s"
    if value < 120:
        return f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"


def clock(moment: float) -> str:
    """`07:30:06` of today, else `11-23 07:30`, of this machine's wall clock."""
    then, today = time.localtime(moment), time.localtime()
    return time.strftime("%H:%M:%S" if then[:3] == today[:3] else "%m-%d %H:%M", then)


def watching(names: list[tuple[str, PoolSettings]]) -> str:
    """What the listener watches; said at the start and after each change."""
    if not names:
        return "watching nothing: no program has a [memreap:PROGRAM] section"
    return "watching " + ", ".join(f"{name} (limit {memory(one.limit)} {one.metric})" for name, one in names)


def holds(worker: Worker, settings: PoolSettings) -> str:
    """The evidence that every line about a worker over its limit begins with."""
    if worker.used is None:
        return f"worker {worker.id.pid}, whose {settings.metric} may not be read"
    return f"worker {worker.id.pid} holds {memory(worker.used)} ({settings.metric}), limit {memory(settings.limit)}"


def outcome(word: str, worker: Worker, settings: PoolSettings, trouble: str = "") -> str:
    """What came of a reap, in the words of host.processes.Outcome; `trouble` is why the lock could not be had."""
    return (
        f"{holds(worker, settings)}: "
        + {
            "would": f"{settings.signal} would be sent",
            "young": f"it is {seconds(worker.age)} old, would be reaped from min_age={seconds(settings.min_age)} on",
            "gone": "it left by itself, nothing sent",
            "failed": "nothing sent, the system is short of something; trying again",
            "changed": "it is not as it was seen a moment ago, nothing sent",
            "not permitted": "nothing sent, not permitted; run memreap as the worker's user or as root (user=)",
            "locked": f"nothing sent, {trouble}: another memreap may be at work in this pool; it is tried again",
        }[word]
    )


def sent(worker: Worker, settings: PoolSettings, moment: str) -> str:
    """The signal went out; `moment` is that of host.processes.Outcome."""
    return (
        f"{holds(worker, settings)}: {settings.signal} sent, "
        + {
            "held": "it was idle (held in accept)",
            "idle": "it was idle",
            "busy": f"it was busy, no idle moment in {seconds(settings.idle_wait)}",
            "unknown": "whether it was idle is unknown",
        }[moment]
    )


def remembered(worker: ProcessId, after: float) -> str:
    """Said by a listener that goes on where the last one was ended."""
    return f"worker {worker.pid} was signalled {seconds(after)} ago, before memreap was restarted: it goes first"


def forgotten(trouble: str) -> str:
    """What is to be remembered over a restart could not be read or written."""
    return (
        f"{trouble}: if memreap is restarted while a worker is leaving, it will not know of that one; give its user a"
        " temporary folder to write to (TMPDIR in the listener's environment=)"
    )


def sent_again(worker: Worker, settings: PoolSettings, moment: str, sent: bool = True) -> str:
    """The second signal went out; not `sent`: it is not known that the first one had."""
    held = " (held in accept)" if moment == "held" else ""
    has = f"worker {worker.id.pid} is idle and has not left: "
    if not sent:
        return f"{has}memreap was ended before it could signal it; {settings.signal} sent{held}"
    return (
        f"{has}the first {settings.signal} came between a request and"
        f" accept, where it is only noted; {settings.signal} sent a second time{held}"
    )


def forced(word: str, worker: Worker, settings: PoolSettings) -> str:
    """What came of the signal that stuck= asks for, in the words of host.processes.Outcome."""
    if word == "sent":
        return f"worker {worker.id.pid}: {settings.stuck} sent, as stuck={settings.stuck} wants it"
    return f"worker {worker.id.pid}: {settings.stuck}, as stuck={settings.stuck} wants it, could not be sent: {word}"


PAUSED = "it is paused: nothing is sent until supervisorctl memreap resume"
SUSPENDED = "nothing is sent; the listener's log has the figures, supervisorctl memreap resume ends it"

# Why a signal goes out at the next best moment; said once for each manager.
NEXT_BEST = {
    "unheld": "workers may not be held inside accept: each is signalled right after it was seen idle, if its server"
    " permits that; for the safer way run memreap as the workers' user or as root with CAP_SYS_PTRACE, with"
    " kernel.yama.ptrace_scope=0 or root",
    "unknown": "whether workers are idle cannot be read: each is signalled only after idle_wait, then at any moment;"
    " for the safer way run memreap as the workers' user or as root with CAP_SYS_PTRACE, with"
    " kernel.yama.ptrace_scope=0 or root",
}


def orphans(roots: Sequence[int], held: int, daemonizes: bool) -> str:
    """What a program has left behind, and how to be rid of it; `held` in bytes."""
    trees = "a process tree" if len(roots) == 1 else f"{len(roots)} process trees"
    cause = (
        "it daemonized itself; remove -d (--daemonize) from its command"
        if daemonizes
        else "it daemonizes itself, or its manager was ended by force before its workers; keep it in the foreground,"
        " and set stopwaitsecs= above the time in which they finish"
    )
    return (
        f"{trees} of its earlier starts, of which supervisord knows nothing, still hold {memory(held)}: {cause}; and"
        f" end what is left: kill {' '.join(map(str, roots))}"
    )


def summary(pool: Pool, settings: PoolSettings, reaped: int | None, over: int) -> str:
    """How a pool stands at the end of a run."""
    if pool.manager is None:
        return f"not watched, {pool.unseen}" if pool.unseen else f"does not run ({pool.state})"
    done = "" if reaped is None else f", {reaped} reaped"
    return f"{len(pool.workers)} workers{done}, {over or 'none'} over the limit of {memory(settings.limit)}"


def line(event: Event, settings: PoolSettings, came_back: int | None = None, activity: str = "") -> str:
    """The line of an event of the policy.

    `came_back` is what a worker that left gave back, in bytes; `activity` is what a stuck one does.
    """
    if isinstance(event, Left):
        gave = f", {memory(came_back)} came back" if came_back is not None else ""
        place = f", {event.replaced_by.pid} took its place" if event.replaced_by else ""
        return f"worker {event.worker.pid} left after {seconds(event.after)}{gave}{place}"
    if isinstance(event, Replaced):
        return f"worker {event.replaced_by.pid} took the place of {event.worker.pid} after {seconds(event.after)}"
    if isinstance(event, NotReplaced):
        return (
            f"worker {event.worker.pid} left {seconds(event.after)} ago and the pool has not settled again"
            f" ({event.workers} of {event.before} workers): nothing more is reaped until it has;"
            " see the program's own log for what ends the new ones"
        )
    if isinstance(event, NoReplacement):
        return (
            f"worker {event.worker.pid} left {seconds(event.after)} ago and none came in its place ({event.workers} of"
            f" {event.before} workers); the others are stable, so the next one may go"
        )
    if isinstance(event, TooFewWorkers):
        return (
            f"only {event.old_enough} of usually {event.usual} workers are older than"
            f" min_age={seconds(settings.min_age)}: nothing is sent; see the program's own log for what ends the others"
        )
    if isinstance(event, Stuck):
        has = f"worker {event.worker.pid} has not left {seconds(event.after)} after {settings.signal}"
        state = f" ({activity})" if activity else ""
        if settings.stuck != "report" and not event.forced:
            return f"{has}: stuck{state}"
        also = f" and not after {settings.stuck} either" if event.forced else ""
        return (
            f"{has}{also}: stuck{state}, nothing more is sent to it, the next one may go; see what it does"
            f" (cat /proc/{event.worker.pid}/stack, strace -p {event.worker.pid}),"
            " and raise grace= if requests may take that long"
        )
    if isinstance(event, Unreadable) and event.worker.detail and event.worker.detail.is_locked:
        return (
            f"worker {event.worker.id.pid} may hold up to {memory(event.worker.bound)}, limit {memory(settings.limit)},"
            f" but its {settings.metric} cannot be read, since it holds the lock of its own memory map: nothing sent;"
            f" see what it does (cat /proc/{event.worker.id.pid}/stack)"
        )
    if isinstance(event, Unreadable):
        return (
            f"worker {event.worker.id.pid} may hold up to {memory(event.worker.bound)}, limit {memory(settings.limit)},"
            f" but its {settings.metric} may not be read: nothing sent; run memreap as the worker's user or as root"
            " with CAP_SYS_PTRACE (in Docker: --cap-add SYS_PTRACE), or set metric=rss"
        )
    if isinstance(event, Unseen):
        return f"it runs, but {event.why}: not watched"
    if isinstance(event, NotCaught):
        return (
            f"worker {event.worker.id.pid} would die of {settings.signal} (it does not catch it): nothing sent;"
            " set signal= to what this server finishes on"
            + (" (FastCGI without a manager: TERM)" if settings.target == "self" else "")
        )
    if isinstance(event, WrongSignal):
        server = event.worker.detail.server if event.worker.detail else ""
        safe = graceful(server)
        if not safe:
            return (
                f"worker {event.worker.id.pid} is of {server}, which drops requests on every signal: nothing sent, and"
                " no setting will do; remove this program's [memreap:…] section"
            )
        return (
            f"worker {event.worker.id.pid} is of {server}, which drops its request on {settings.signal}: nothing sent;"
            f" set signal={safe[0]}, on which it finishes"
        )
    if isinstance(event, Wrapped):
        if settings.target == "self":
            return (
                f"worker {event.worker.id.pid} has children of its own and may be a manager: nothing sent;"
                " target=self is for programs that serve in one process"
            )
        return (
            f"worker {event.worker.id.pid} has children of its own and looks like the manager below a wrapper: nothing"
            " sent; if it is, write exec in the program's command, or set depth=2"
        )
    if isinstance(event, NeverIdle):
        return (
            f"worker {event.worker.id.pid} is over its limit and had no idle moment in {seconds(event.after)}: nothing"
            + (
                f" sent yet, since {event.server} can lose requests on {settings.signal} at any other moment; if nginx"
                " keeps connections to it, let them end sooner (keepalive_requests=, keepalive_timeout=)"
                if event.server
                else " sent, as idle_wait=never wants it"
            )
        )
    if isinstance(event, WrongLimit):
        return (
            f"suspended: fresh workers already hold {memory(event.baseline)} ({settings.metric}), over the limit of"
            f" {memory(settings.limit)}, and would be reaped for ever; set limit={event.usable // 1024**2}MB or more"
        )
    if isinstance(event, Fell):
        causes = (
            "it ended by itself; the likely causes: it runs daemonized (-d), or FCGI::ProcManager is 0.17 or older"
            if event.certain
            else "supervisord did not say whether it was stopped or ended by itself"
        )
        return (
            f"suspended: the manager {event.manager.pid} ended {seconds(event.after)} after worker {event.worker.pid}"
            f" was signalled: {causes}; resumes when the next manager has stood for {seconds(event.resumes_after)} or"
            " the settings change"
        )
    assert isinstance(event, Resumed)
    return f"resumed: {event.because}"
