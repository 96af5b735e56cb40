"""The simulated machine is true: what memreap does on it, it does on a real supervisord with real pools.

Each scenario is played on both. The events must be the same, in the same order, for the same workers and reasons.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait

import pytest
from sim.processes import MIB, Growth
from support import stack
from support.truth import GUNICORN, OBEYING, PREFORK, Do, Quiet, Real, Scenario, Simulated, Until, running

QUICK = {"limit": "30MB", "min_age": "1s", "settle": "1s"}
GROW = Do("grow")
REAPED = (GROW, Until("Signalled"), Until("Left"), Until("Settled"))

POOLS = (
    Scenario(
        "leak",
        "procmanager",
        f"{OBEYING} 4",
        QUICK,
        (Do("clients", (2, 0.02)), Until("Settled", 4)),
        Growth(fresh=5 * MIB, leak=5 * MIB),
    ),
    Scenario(
        "saturated",
        "unknown",
        f"{PREFORK} 4",
        QUICK,
        (Do("clients", (8, 0.05)), Until("Settled", 4)),
        Growth(fresh=5 * MIB, leak=5 * MIB),
    ),
    Scenario(
        "paused",
        "procmanager",
        f"{OBEYING} 4",
        QUICK,
        (Do("pause"), Until("Paused"), GROW, Quiet(3.0), Do("resume"), Until("Settled"), Quiet(2.0)),
    ),
    Scenario(
        "asked",
        "procmanager",
        f"{OBEYING} 4",
        {**QUICK, "limit": "100MB"},
        (GROW, Quiet(2.0), Do("reap"), Until("Settled"), Do("roll"), Until("Settled", 4), Quiet(2.0)),
    ),
    Scenario(
        "stuck",
        "gunicorn",
        f"{GUNICORN} 4",
        {**QUICK, "idle_wait": "1s", "grace": "3s", "stuck": "KILL"},
        (Do("hang"), Until("Stuck"), Until("Settled"), *REAPED, Quiet(2.0)),
    ),
    Scenario(
        "hung",
        "procmanager",
        f"{OBEYING} 4",
        {**QUICK, "hold": "no", "idle_wait": "1s"},
        (Do("hang"), Until("Overdue"), Do("release"), Until("Settled"), Quiet(2.0)),
    ),
    Scenario(
        "held",
        "procmanager",
        f"{OBEYING} 4",
        {**QUICK, "idle_wait": "1s"},
        (Do("hang"), Until("Overdue"), Do("release"), Until("Settled"), Quiet(2.0)),
    ),
    Scenario(
        "crash",
        "procmanager",
        f"{OBEYING} 4",
        {**QUICK, "settle": "5s"},
        (GROW, Until("Left"), Do("crash"), Until("ManagerLost"), Quiet(3.0), Do("resume"), Quiet(6.0), *REAPED),
    ),
    Scenario(
        "fragile",
        "fragile",
        f"{OBEYING} 4 0 fragile",
        QUICK,
        (GROW, Until("ManagerLost"), Quiet(3.0), GROW, Quiet(4.0)),
    ),
    Scenario(
        "broken",
        "procmanager",
        f"{OBEYING} 4",
        {**QUICK, "grace": "3s"},
        (
            Do("broken", (True,)),
            GROW,
            Until("NotReplaced"),
            GROW,
            Quiet(3.0),
            Do("broken", (False,)),
            Until("Settled", 2),
            Quiet(2.0),
        ),
    ),
    Scenario(
        "unbootable",
        "gunicorn",
        f"{GUNICORN} 4",
        QUICK,
        (Do("broken", (True,)), GROW, Until("ManagerLost"), Do("broken", (False,)), Quiet(3.0)),
        by_chance="Left",
    ),
    Scenario(
        "single",
        "single",
        f"{OBEYING} 1",
        QUICK,
        (*REAPED, *REAPED, Quiet(2.0)),
    ),
    Scenario(
        "wrong",
        "procmanager",
        f"{OBEYING} 4 40",
        QUICK,
        (Until("WrongSetting"), Quiet(3.0), Do("settings", ("limit", "60MB")), Until("Resumed"), *REAPED, Quiet(2.0)),
        Growth(fresh=45 * MIB),
    ),
    Scenario(
        "observed",
        "procmanager",
        f"{OBEYING} 4",
        {**QUICK, "observe": "yes"},
        (GROW, Until("WouldReap"), Quiet(3.0), Do("settings", ("observe", "no")), Until("Settled"), Quiet(2.0)),
    ),
    Scenario(
        "wrapped",
        "wrapper",
        f"sh -c '{OBEYING} 4; true'",
        QUICK,
        (Until("Wrapped"), GROW, Quiet(3.0), Do("settings", ("depth", "2")), Until("Settled"), Quiet(2.0)),
    ),
    Scenario(
        "deployed",
        "procmanager",
        f"{OBEYING} 4",
        {**QUICK, "settle": "5s"},
        (Do("crash worker"), Quiet(7.0), GROW, Until("Left"), Do("restart"), Quiet(8.0), *REAPED, Quiet(2.0)),
    ),
)
# With a listener of their own: it is restarted, and killed.
RESTARTS = (
    Scenario(
        "restarted",
        "gunicorn",
        f"{GUNICORN} 4",
        {**QUICK, "idle_wait": "1s", "grace": "10s", "stuck": "KILL"},
        (
            Do("pause"),
            Until("Paused"),
            Do("restart memreap"),
            GROW,
            Quiet(4.0),
            Do("resume"),
            Until("Settled"),
            Do("hang"),
            Until("Signalled"),
            Do("kill memreap"),
            Until("Settled"),
            Quiet(2.0),
        ),
    ),
)


@pytest.fixture(scope="module")
def played() -> Iterator[dict[str, Future[list[str]]]]:
    """What is played on real machines, by the scenario's name: all at the same time."""
    with contextlib.ExitStack() as ends:
        played = {}
        threads = ends.enter_context(ThreadPoolExecutor(len(POOLS + RESTARTS)))
        for scenarios in (POOLS, RESTARTS):
            where = stack.directory()
            ends.callback(shutil.rmtree, where)
            machine = ends.enter_context(running(where, scenarios))
            played.update({each.name: threads.submit(Real(each, machine).play) for each in scenarios})
        yield played
        wait(played.values())


@pytest.mark.parametrize("scenario", POOLS + RESTARTS, ids=lambda each: each.name)
def test_memreap_does_the_same_on_the_simulated_machine(scenario, played):
    simulated, real = Simulated(scenario).play(), played[scenario.name].result()
    assert certain(simulated, scenario) == certain(real, scenario)


def certain(texts: list[str], scenario: Scenario) -> list[str]:
    return [text for text in texts if text.split()[0] != scenario.by_chance]
