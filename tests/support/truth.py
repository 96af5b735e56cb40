"""Scenarios that are written once, and played on the simulated machine and on a real supervisord with real pools.

What memreap did in each is compared: its events, in their order.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Union

import psutil
from sim.processes import MIB, Growth, Worker
from sim.requests import Doing, Load
from sim.run import Run
from sim.script import KINDS, Action, PoolScript, Script

from supervisor_memreap.core.events import Event
from supervisor_memreap.core.settings import Given, field_of, parse
from supervisor_memreap.demo import fastcgi
from supervisor_memreap.outputs import fields
from support import sections, stack
from support.driver import eventually, supervisord, until, workers_below

PATIENCE = 100.0
"""Seconds for one step: all scenarios are played at the same time, and the machine may be busy."""
GROWN = 40 * MIB
"""What a worker holds more after `grow`."""
OBEYING = f"perl {stack.APPS}/obeying.pl WHERE/NAME.sock"
GUNICORN = (
    f"{sys.executable} -m gunicorn --pythonpath {stack.APPS} --worker-tmp-dir WHERE --no-control-socket"
    f" --config {stack.APPS}/booting.py growing:application --bind unix:WHERE/NAME.sock --workers"
)
PREFORK = f"{sys.executable} -m supervisor_memreap.demo.prefork WHERE/NAME.sock"
Fields = dict[str, Any]

# Steps.


@dataclass(frozen=True)
class Do:
    """As Action.what of the simulation; and `grow`, `hang`, `clients`, see Simulated and Real."""

    what: str
    values: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Until:
    """This happens in the pool, so many times after the last such step."""

    name: str
    count: int = 1


@dataclass(frozen=True)
class Quiet:
    """Looks are made for so many seconds."""

    seconds: float


Step = Union[Do, Until, Quiet]


@dataclass(frozen=True)
class Scenario:
    name: str
    """Of its pool."""
    kind: str
    """Of the simulation's manager, as in sim.script.KINDS."""
    command: str
    """Of the real one, with as many workers: WHERE is its directory, NAME that of its pool."""
    settings: dict[str, str]
    """As a user writes them."""
    steps: tuple[Step, ...]
    growth: Growth = field(default_factory=lambda: Growth(fresh=5 * MIB))
    load: Load = field(default_factory=lambda: Load(pause=1000.0))
    """In the simulation, before there are any `clients`."""
    by_chance: str = ""
    """The name of an event that is there only if a look falls between two others."""

    @property
    def ends_at_event(self) -> bool:
        """What comes after its last step is chance: it is under load."""
        return isinstance(self.steps[-1], Until)


class Progress:
    """The events of one scenario so far, and up to which of them its steps have come."""

    def __init__(self) -> None:
        self.events: list[Fields] = []
        self.at = 0

    def passes(self, step: Until) -> bool:
        places = [at for at in range(self.at, len(self.events)) if self.events[at]["name"] == step.name]
        if len(places) < step.count:
            return False
        self.at = places[step.count - 1] + 1
        return True

    def result(self, scenario: Scenario) -> list[str]:
        return compared(self.events[: self.at] if scenario.ends_at_event else self.events)


# What is compared.

# That none is overdue any longer shows at the next look, while the worker leaves or when it has left: by chance.
AT_SOME_TIME = "OverdueEnded"
# A replacement is there when its worker is seen to have left, or comes a moment later: by chance.
BY_CHANCE = ("Replaced",)
# Texts that have all the numbers; when it was; what the kernel calls the place in which a worker is stuck.
NOT_COMPARED = ("version", "event", "name", "pool", "message", "at", "time", "activity")


def compared(events: Sequence[Fields]) -> list[str]:
    """Each event in a line, with all that is no number; workers and managers are numbered as they appear.

    Which worker takes the request that lets it grow is chance, and of two that hold the same but for a few kB, which
    one goes first. So a worker has a new number when it is signalled: what follows is about the same one, or another.
    """
    numbers: dict[int, str] = {}
    count = itertools.count(1)
    lines = []
    for event in events:
        if event["name"] in BY_CHANCE:
            continue
        words = [event["name"]]
        if event["name"] == "Signalled":
            numbers.pop(event["pid"], None)
        for key, value in event.items():
            if key in ("pid", "manager") or (key == "replaced_by" and event["name"] != "Left"):
                if value and value not in numbers:
                    numbers[value] = f"process {next(count)}"
                words += [f"{key}={numbers[value]}"] if value else []
            elif key not in NOT_COMPARED:
                words += _words(key, value)
        lines.append(" ".join(words))
    return sorted(lines, key=lambda line: line.startswith(AT_SOME_TIME))


def _words(key: str, value: Any) -> list[str]:
    """That of a value which is the same in each run; times and sizes are not."""
    if isinstance(value, bool) or (isinstance(value, str) and value):
        return [f"{key}={re.sub(r'(?<![A-Z])[0-9]+([.][0-9]+)?', 'N', str(value))}"]
    if isinstance(value, dict):
        return [word for part in value for word in _words(f"{key}.{part}", value[part])]
    if isinstance(value, list):
        return [word for part in value for word in _words(key, part)]
    return []


# The simulation.


class Simulated:
    """A scenario on the simulated machine; each step comes a moment after what it waits for."""

    REACTS = 0.3
    """Seconds."""

    def __init__(self, scenario: Scenario):
        self.scenario = scenario
        settings = {field_of(key): parse(key, Given(text, "test")) for key, text in scenario.settings.items()}
        pool = PoolScript(scenario.name, scenario.kind, scenario.load, scenario.growth, 0.2, settings)
        self._run = Run(Script(scenario.name, 0.0, (pool,), (), tick=1.0), self._take)
        self._progress = Progress()
        self._todo = list(scenario.steps)
        self._quiet_until = 0.0
        self._is_over = False

    def play(self) -> list[str]:
        world, clock = self._run.world, self._run.world.clock
        clock.after(6.5, self._go_on)
        self._run.play()
        world.ends = clock.now + 300.0
        while not self._is_over and clock.now < world.ends:
            clock.run(clock.now + 1.0)
        assert not self._todo, (self._todo[0], compared(self._progress.events))
        return self._progress.result(self.scenario)

    def _take(self, event: Event) -> None:
        if event.pool == self.scenario.name and not self._is_over:
            self._progress.events.append(fields.of(event))
            if self._todo and isinstance(self._todo[0], Until):
                self._run.world.clock.after(self.REACTS, self._go_on)

    def _go_on(self) -> None:
        clock = self._run.world.clock
        while self._todo and clock.now >= self._quiet_until:
            step = self._todo[0]
            if isinstance(step, Until) and not self._progress.passes(step):
                return
            self._todo.pop(0)
            if isinstance(step, Quiet):
                self._quiet_until = clock.now + step.seconds
                clock.at(self._quiet_until, self._go_on)
            elif isinstance(step, Do):
                self._do(step)
        self._is_over = not self._todo and clock.now >= self._quiet_until

    def _do(self, step: Do) -> None:
        own = getattr(self, f"_{step.what.replace(' ', '_')}", None)
        if own:
            own(*step.values)
        else:
            self._run._act_of(Action(0.0, step.what, self.scenario.name, step.values))()

    def _first(self) -> Worker:
        """One that is idle."""
        manager = self._run.world.supervisord.programs[self.scenario.name].manager
        assert manager
        now = self._run.world.clock.now
        return next(
            each for each in manager.workers.values() if each.requests.doing(now) is Doing.WAITS and not each.signals
        )

    def _grow(self) -> None:
        worker = self._first()
        worker.growth = replace(worker.growth, fresh=worker.growth.fresh + GROWN)

    def _hang(self) -> None:
        self._hung = self._first()
        self._grow()
        self._hung.requests.hang(self._run.world.clock.now, float("inf"))

    def _release(self) -> None:
        self._hung.requests.hang(self._run.world.clock.now, 0.0)

    def _clients(self, count: int, seconds: float) -> None:
        """More than there are workers: one request waits for each."""
        self._run._act_of(Action(0.0, "load", self.scenario.name, (Load(pause=0.0, work=seconds),)))()

    def _settings(self, key: str, text: str) -> None:
        values = field_of(key), parse(key, Given(text, "test"))
        self._run._act_of(Action(0.0, "settings", self.scenario.name, values))()


# The real stack.


class Machine:
    """A supervisord whose programs are the pools of some scenarios, and a listener."""

    def __init__(self, where: Path, scenarios: Sequence[Scenario]):
        self.where = where
        self.log = where / "memreap.log"
        self.settings = {each.name: dict(each.settings) for each in scenarios}
        self._lock = threading.Lock()
        self._events: dict[str, list[Fields]] = {}
        self._read = 0
        self._looked, self._asked = 0.0, float("-inf")

    def write_settings(self) -> None:
        with self._lock:
            text = "[memreap]\nhistory=off\nlog=json\n"
            for name, settings in self.settings.items():
                text += f"[memreap:{name}]\n" + "".join(f"{key}={value}\n" for key, value in settings.items())
            (self.where / "new.conf").write_text(text)
            (self.where / "new.conf").replace(self.where / "own.conf")

    def events(self, pool: str) -> list[Fields]:
        """Those of this pool so far."""
        with self._lock:
            with self.log.open("rb") as log:
                log.seek(self._read)
                whole = log.read().rpartition(b"\n")[0]
            self._read += len(whole) + 1 if whole else 0
            for line in whole.splitlines():
                event = json.loads(line)
                self._events.setdefault(event["pool"], []).append(event)
            return list(self._events.get(pool, ()))

    def call(self, method: str, *arguments: Any) -> Any:
        """By a connection of its own: several scenarios are played at the same time."""
        interface, _, name = method.partition(".")
        return getattr(getattr(stack.rpc(self.where), interface), name)(*arguments)

    def command(self, text: str) -> None:
        """As supervisorctl does it: sent again until there is an answer, and carried out once."""
        id, until = time.time_ns(), int(time.time() + PATIENCE)
        answer = eventually(lambda: self._answer(f"{text} id={id} until={until}", str(id)), PATIENCE)
        assert answer["ok"], answer

    def _answer(self, command: str, id: str) -> Fields:
        self.call("supervisor.sendRemoteCommEvent", "memreap-command", command)
        return eventually(lambda: self._answered(id), timeout=5.0)

    def _answered(self, id: str) -> Fields:
        answer = self.call("memreap.getAnswer", id)
        assert answer
        return answer

    def last_look(self) -> float:
        """Seconds since 1970; asked for by all scenarios, so not each time."""
        with self._lock:
            if time.monotonic() - self._asked > 0.2:
                age = self.call("memreap.getListener").get("age_seconds")
                self._looked = 0.0 if age is None else time.time() - age
                self._asked = time.monotonic()
            return self._looked

    def manager(self, pool: str) -> int:
        return self.call("supervisor.getProcessInfo", pool)["pid"]


@contextlib.contextmanager
def running(where: Path, scenarios: Sequence[Scenario]) -> Iterator[Machine]:
    """The listener has made its first look, and its pools had served for long then, as those of the simulation."""
    text = sections.INTERFACES
    for each in scenarios:
        command = each.command.replace("WHERE", str(where)).replace("NAME", each.name)
        text += f"[program:{each.name}]\ncommand={command}\nautorestart=true\n"
        text += "stopsignal=KILL\nstopasgroup=true\nkillasgroup=true\n"
    # On a busy machine supervisord takes longer than the second for which memreap waits for it.
    (where / "sitecustomize.py").write_text(
        "from supervisor_memreap.supervisord.client import Client\nClient.__init__.__defaults__ = (None, None, 20.0)\n"
    )
    listen = f"{sections.LISTEN} -c {where}/own.conf"
    more = f',PYTHONPATH="{where}"\nbuffer_size=100\nautostart=false'
    with supervisord(where, text + sections.listener(where, listen, more=more)):
        machine = Machine(where, scenarios)
        machine.write_settings()
        for each in scenarios:
            eventually(lambda each=each: assert_all_serve(machine, each))
        machine.call("supervisor.startProcess", "memreap")
        until(lambda: machine.last_look() > 0)
        yield machine


def assert_all_serve(machine: Machine, scenario: Scenario) -> None:
    """As old as those of the simulation at the first look."""
    below = psutil.Process(machine.manager(scenario.name)).children(recursive=True)
    workers = [process for process in below if not process.children()]
    assert len(workers) == KINDS[scenario.kind].least
    assert time.time() - max(process.create_time() for process in workers) > 4.0


class Real:
    """A scenario on a real machine, in a thread of its own."""

    def __init__(self, scenario: Scenario, machine: Machine):
        self.scenario, self._machine = scenario, machine
        self._progress = Progress()
        self._socket = f"{machine.where}/{scenario.name}.sock"
        self._threads: list[threading.Thread] = []
        self._is_over = threading.Event()

    def play(self) -> list[str]:
        try:
            for step in self.scenario.steps:
                if isinstance(step, Until):
                    eventually(lambda step=step: self._assert_passes(step), PATIENCE)
                elif isinstance(step, Quiet):
                    since = time.time() + step.seconds
                    until(lambda since=since: self._machine.last_look() > since)
                else:
                    self._do(step)
            self._read()
        finally:
            self._is_over.set()
            for thread in self._threads:
                thread.join(0.0 if thread.daemon else 30.0)
        return self._progress.result(self.scenario)

    def _read(self) -> None:
        self._progress.events = self._machine.events(self.scenario.name)

    def _assert_passes(self, step: Until) -> None:
        self._read()
        assert self._progress.passes(step), (step, compared(self._progress.events))

    def _do(self, step: Do) -> None:
        own = getattr(self, f"_{step.what.replace(' ', '_')}", None)
        if own:
            own(*step.values)
        else:  # as a user asks for it
            self._machine.command(f"{step.what} {self.scenario.name}")

    def _ask(self, query: str, patience: float = 20.0) -> None:
        """Raises OSError where there is no whole answer."""
        if self.scenario.kind != "gunicorn":
            fastcgi.get(self._socket, patience, query.encode())
            return
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(patience)
            connection.connect(self._socket)
            connection.sendall(f"GET /?{query} HTTP/1.0\r\n\r\n".encode())
            while connection.recv(4096):
                pass

    def _grow(self) -> None:
        """Whichever worker takes the request."""
        self._ask(f"mb={GROWN // MIB}")

    def _hang(self) -> None:
        """A worker grows, and its request does not end; where it is ended by force, the request is lost."""

        def ask() -> None:
            with contextlib.suppress(OSError):
                self._ask(f"mb={GROWN // MIB}&s=100" if self.scenario.kind == "gunicorn" else query, 120.0)

        query = f"mb={GROWN // MIB}&until={self._socket}.released"
        self._start(ask)

    def _release(self) -> None:
        Path(f"{self._socket}.released").touch()

    def _clients(self, count: int, seconds: float) -> None:
        def ask() -> None:
            while not self._is_over.is_set():
                with contextlib.suppress(OSError):
                    self._ask(f"s={seconds}&kb=300")

        for _ in range(count):
            self._start(ask)

    def _start(self, ask: Any) -> None:
        self._threads.append(threading.Thread(target=ask, daemon=True))
        self._threads[-1].start()

    def _crash(self) -> None:
        """The whole tree: no worker stays as an orphan."""
        os.killpg(self._machine.manager(self.scenario.name), signal.SIGKILL)

    def _crash_worker(self) -> None:
        os.kill(max(workers_below(self._machine.manager(self.scenario.name))), signal.SIGKILL)

    def _broken(self, is_broken: bool) -> None:
        mark = Path(f"{self._socket}.broken")
        mark.touch() if is_broken else mark.unlink()

    def _settings(self, key: str, text: str) -> None:
        self._machine.settings[self.scenario.name][key] = text
        self._machine.write_settings()

    def _restart(self) -> None:
        self._machine.call("supervisor.stopProcess", self.scenario.name)
        self._machine.call("supervisor.startProcess", self.scenario.name)

    def _restart_memreap(self) -> None:
        self._machine.call("supervisor.stopProcess", "memreap")
        self._machine.call("supervisor.startProcess", "memreap")

    def _kill_memreap(self) -> None:
        os.kill(self._machine.manager("memreap"), signal.SIGKILL)
