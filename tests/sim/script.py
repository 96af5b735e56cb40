"""What happens in one run, drawn from a seed: the pools, and a list of actions, of which each can be left out."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

from .faults import FAULTS, KILLED, Fault
from .processes import MIB, Growth, Kind
from .requests import Load

DAY = 86400.0
KINDS = {
    "procmanager": Kind("FCGI::ProcManager", hangs_up=True),
    "dynamic": Kind("FCGI::ProcManager", least=2, most=6, hangs_up=True),
    "gunicorn": Kind("gunicorn", starts=4.0, fails_with_its_workers=True),
    "dirty": Kind("gunicorn", helpers=1),
    "starman": Kind("Starman"),
    "uwsgi": Kind("uWSGI", notices=1.0, throttle=2.0),
    "uwsgi-cheaper": Kind("uWSGI", least=1, most=5, notices=1.0, throttle=2.0),
    "ondemand": Kind("php-fpm", least=0, most=5),
    "static": Kind("php-fpm"),
    "apache": Kind("Apache", least=2, most=6, notices=1.0),
    "unicorn": Kind("unicorn", starts=2.0),
    "fcgiwrap": Kind("fcgiwrap"),
    "unknown": Kind(""),
    "wrapper": Kind("FCGI::ProcManager", hangs_up=True, wraps=True),
    "daemon": Kind("FCGI::ProcManager", hangs_up=True, daemonizes=True),
    "fragile": Kind("FCGI::ProcManager", hangs_up=True, ends_with_a_worker=True),
    "self": Kind("", least=3, most=3, notices=0.5, starts=0.5, is_group=True),
    "apart": Kind("gunicorn", shares=False),
    "single": Kind("FCGI::ProcManager", least=1, most=1, hangs_up=True),
    "large": Kind("FCGI::ProcManager", least=24, most=24, hangs_up=True),
}


@dataclass(frozen=True)
class PoolScript:
    """A pool at the start, with its settings as in `[memreap:NAME]`."""

    name: str
    kind: str
    load: Load
    growth: Growth
    starts: float
    settings: dict[str, Any]
    group: str = ""
    """The path of its control group, as in `groups`; empty: none."""


@dataclass(frozen=True)
class Action:
    at: float
    """Seconds after the start."""
    what: str
    pool: str = ""
    values: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Script:
    seed: str
    days: float
    pools: tuple[PoolScript, ...]
    actions: tuple[Action, ...]
    has_ptrace: bool = True
    """Whether workers may be brought to their boundary."""
    sees_idle: bool = True
    """Whether it may be seen that a worker is idle."""
    tick: float = 5.0
    """Seconds between two events of supervisord at which memreap looks."""
    host: int = 64 * 1024 * MIB
    """Bytes of memory."""
    swap: int = 0
    groups: tuple[tuple[str, int | None], ...] = ()
    """The path of each memory control group, and its limit in bytes; None: it has none."""
    cgroups: int = 2
    """Their version."""
    wakes: bool = True
    """Whether the kernel can wake memreap when memory runs short."""
    late: float = 0.0
    """Seconds by which an event of supervisord may be late."""
    uptime: float = 100_000.0
    """Seconds of the host at the start."""
    faults: tuple[Fault, ...] = ()

    def without(self, actions: set[int]) -> Script:
        """With these left out, by their place."""
        return replace(self, actions=tuple(each for at, each in enumerate(self.actions) if at not in actions))


_LOADS = (
    Load(pause=5.0),
    Load(pause=0.5),
    Load(pause=0.0, work=0.05),
    Load(pause=0.0, work=2.0),
    Load(pause=1.0, work=0.2, long=0.01),
    Load(pause=1.0, keeps=5.0),
    Load(pause=0.0, work=0.2, keeps=1.0),
)
# That applications give to their processes; empty: none, as their server has it.
_TITLES = ("", "myapp", "myapp: GET /", "perl")


def draw(seed: str, ticks: int, every: int = 0) -> Script:
    """A script of so many ticks, one in `every` seconds; 0: TICK_5, TICK_60 or TICK_3600, by the seed."""
    chance = random.Random(seed)
    tick = chance.choice((5.0, 5.0, 60.0, 60.0, 3600.0))
    tick = float(every) or tick
    days = ticks * tick / DAY
    pools = tuple(_pool(f"pool{number}", chance) for number in range(chance.choice((1, 1, 2, 3))))
    script = Script(
        seed,
        days,
        pools,
        (),
        tick=tick,
        has_ptrace=chance.random() < 0.75,
        sees_idle=chance.random() < 0.9,
        late=chance.choice((0.0, 0.0, 0.0, 0.4, 3.0)),
        uptime=chance.choice((100_000.0, 30_000_000.0)),
    )
    script = _with_memory(script, chance)
    pools, days = script.pools, script.days
    actions = [each for pool in pools for each in _actions_of(pool, days, chance)]
    actions += _actions_of_all(days, chance)
    return replace(script, actions=tuple(sorted(actions, key=lambda each: each.at)), faults=_faults(ticks, chance))


def _with_memory(script: Script, chance: random.Random) -> Script:
    """What limits memory, and settings about it, which are the same for all pools."""
    groups: tuple[tuple[str, int | None], ...] = ()
    if chance.random() < 0.35:
        outer, inner = chance.choice((None, 300, 1000, 4000)), chance.choice((None, 100, 300, 1000))
        groups = ("/outer", outer and outer * MIB), ("/outer/inner", inner and inner * MIB)
    settings: dict[str, Any] = {}
    # Looks between two ticks, of which there may be thousands in an hour, take time: a minute of CPU for a day.
    if chance.random() < (0.2 if script.tick < 3600 else 0.03):
        settings |= chance.choice(
            ({"headroom": 0.1}, {"headroom": 0.5}, {"headroom": 100.0 * MIB}, {"headroom": 0.2, "pressure": 40.0})
        )
    if chance.random() < (0.1 if script.tick < 3600 else 0.01):
        settings["pressure"] = chance.choice((5.0, 40.0))
    pools = []
    for pool in script.pools:
        yields = {"yields": False} if settings and chance.random() < 0.2 else {}
        group = chance.choice(["", *(path for path, _ in groups)])
        pools.append(replace(pool, settings={**pool.settings, **settings, **yields}, group=group))
    return replace(
        script,
        days=min(script.days, 10.0) if settings and script.tick == 3600.0 else script.days,
        pools=tuple(pools),
        host=chance.choice((1024, 64 * 1024, 64 * 1024)) * MIB,
        swap=chance.choice((0, 0, 256, 2048)) * MIB,
        groups=groups,
        cgroups=chance.choice((2, 2, 2, 1)),
        wakes=chance.random() < 0.8,
    )


def _faults(ticks: int, chance: random.Random) -> tuple[Fault, ...]:
    """Some fail here and there, in one run of three."""
    if chance.random() < 2 / 3:
        return ()
    faults = []
    for _ in range(chance.choice((1, 3, 10))):
        call = chance.choice(sorted(FAULTS))
        how = chance.choice((*FAULTS[call], KILLED)) if call != "child" else chance.choice(FAULTS[call])
        often = {"read": 2 * ticks, "look": ticks, "write": 2 * ticks}.get(call, 30)
        faults.append(Fault(call, chance.randint(1, often), how))
    return tuple(faults)


def _pool(name: str, chance: random.Random) -> PoolScript:
    kind = chance.choice(sorted(KINDS))
    leak = chance.choice((0.0, 0.001, 0.01, 0.05, 0.5)) * MIB
    growth = Growth(
        fresh=chance.choice((5, 10, 40)) * MIB,
        leak=leak,
        step=chance.choice((0, 0, 30, 200)) * MIB,
        step_at=chance.choice((5.0, 60.0, 3600.0)),
        spike=chance.choice((0, 0, 0, 300)) * MIB,
    )
    settings: dict[str, Any] = {"limit": chance.choice((30, 100, 150, 1000)) * MIB}
    if chance.random() < 0.2:
        settings["max_age"] = chance.choice((600.0, 6 * 3600.0, DAY))
    if chance.random() < 0.2:
        settings["checks"] = 3
    if chance.random() < 0.3:
        settings |= chance.choice(({"min_age": 1.0, "settle": 1.0}, {"settle": 60.0}, {"min_age": 120.0}))
    if chance.random() < 0.3:
        settings["grace"] = chance.choice((20.0, 60.0))
    if chance.random() < 0.2:
        settings["stuck"] = chance.choice(("TERM", "KILL"))
    if chance.random() < 0.2:
        settings["idle_wait"] = chance.choice((0.0, 10.0, float("inf")))
    if chance.random() < 0.1:
        settings["hold"] = False
    if chance.random() < 0.05:
        settings["observe"] = True
    if KINDS[kind].is_group:
        settings["target"] = "self"
    if chance.random() < 0.15:
        settings["total"] = chance.choice((100, 400)) * MIB
    if KINDS[kind].wraps and chance.random() < 0.7:
        settings["depth"] = 2
    load = chance.choice(_LOADS)
    return PoolScript(name, kind, load, growth, KINDS[kind].starts * chance.choice((1, 1, 1, 10, 40)), settings)


# By name: how many of them in ten days, at most.
_OF_A_POOL = {
    "stop": 2,
    "restart": 5,
    "crash": 1,
    "crash worker": 10,
    "stuck": 3,
    "hangs": 3,
    "broken": 1,
    "resize": 30,
    "oom": 2,
    "load": 10,
    "pause": 2,
    "reap": 3,
    "roll": 2,
    "settings": 2,
    "observe": 1,
    "remove": 1,
    "rename": 2,
    "sockets": 1,
}
_OF_ALL = {
    "restart memreap": 5,
    "kill memreap": 5,
    "no answer": 5,
    "slow answers": 3,
    "late ticks": 5,
    "lost ticks": 3,
    "step clock": 3,
    "suspend": 2,
    "disk full": 2,
    "no forks": 2,
    "once": 3,
    "second listener": 2,
    "reload": 1,
    "status": 20,
}


def _actions_of(pool: PoolScript, days: float, chance: random.Random) -> list[Action]:
    actions = []
    for what, most in _OF_A_POOL.items():
        for _ in range(chance.randint(0, max(1, round(most * days / 10)))):
            actions += _action(what, pool, chance.uniform(0, days * DAY), chance)
    return actions


def _action(what: str, pool: PoolScript, at: float, chance: random.Random) -> list[Action]:
    """This one, and the one that ends it."""
    name, lasts = pool.name, chance.choice((10.0, 120.0, 3600.0, 6 * 3600.0))
    if what == "stop":
        return [Action(at, "stop", name), Action(at + lasts, "start", name)]
    if what == "broken":
        return [Action(at, "broken", name, (True,)), Action(at + lasts, "broken", name, (False,))]
    if what == "pause":
        return [Action(at, "pause", name), Action(at + lasts, "resume", name)]
    if what == "observe":
        return [
            Action(at, "settings", name, ("observe", True)),
            Action(at + lasts, "settings", name, ("observe", False)),
        ]
    if what == "remove":
        return [Action(at, "remove", name), Action(at + lasts, "add", name)]
    if what == "rename":
        return [Action(at, what, name, (chance.choice(_TITLES), chance.choice(("", "", *_TITLES))))]
    if what == "sockets":
        return [Action(at, "sockets", name, (False,)), Action(at + lasts, "sockets", name, (True,))]
    if what == "settings":
        return [Action(at, what, name, ("limit", chance.choice((15, 30, 100, 150)) * MIB))]
    if what == "resize":
        return [Action(at, what, name, (chance.randint(0, KINDS[pool.kind].most),))]
    if what == "load":
        return [Action(at, what, name, (chance.choice(_LOADS),))]
    return [Action(at, what, name)]


def _actions_of_all(days: float, chance: random.Random) -> list[Action]:
    actions = []
    for what, most in _OF_ALL.items():
        for _ in range(chance.randint(0, max(1, round(most * days / 10)))):
            at, lasts = chance.uniform(0, days * DAY), chance.choice((6.0, 60.0, 600.0))
            steps = {"step clock": (chance.choice((-3600.0, -10.0, 10.0, 3600.0)),)}
            actions.append(Action(at, what, "", steps.get(what, (lasts,))))
    return actions
