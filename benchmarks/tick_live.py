"""What ticks cost a real supervisord and a real listener of memreap, in ms of CPU for each tick. A part of tick.py.

One supervisord runs the programs, with memreap's history, metrics and [rpcinterface:memreap]. It has no listener for
half a minute of TICK_5, then one that only answers, and memreap for a minute. What each needs is read from
/proc/PID/schedstat, so the parts of supervisord are differences. The listener's own parts are timed in it: as a script,
this is that listener.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import importlib.util
import json
import os
import socket
import sys
import time
import xmlrpc.client
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import psutil

from supervisor_memreap.demo import private
from supervisor_memreap.supervisord.client import Unavailable, connect

# Seconds of memreap, and of less; until the programs have started; until pools in which all serve are calm.
WHOLE, LESS, STARTED, CALM = 60.0, 30.0, 15.0, 30.0
PERIOD = 5.0
INTERFACE = "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface"
OK = """import sys
while True:
    print("READY", flush=True)
    sys.stdin.read(int(sys.stdin.readline().split("len:")[1]))
    print("RESULT 2\\nOK", end="", flush=True)
"""


def measured(floor: str, programs: int, workers: int) -> dict[str, dict[str, float]]:
    """By process, the ms of each part."""
    with private.directory() as directory, contextlib.ExitStack() as stack:
        stack.enter_context(private.Supervisord(directory, configuration(directory, floor, programs, workers)))
        proxy = control(directory)
        supervisord = int(proxy.getPID())
        time.sleep(STARTED)
        idle, _ = spent(supervisord, None, LESS)
        with listener(proxy, "ok") as pid:
            time.sleep(STARTED)
            answered, _ = spent(supervisord, pid, LESS)
        with listener(proxy, "memreap") as pid:
            until_all_serve(directory)
            time.sleep(CALM)
            parts = directory / "parts"
            before = json.loads(parts.read_text())
            whole, own = spent(supervisord, pid, WHOLE)
            after = json.loads(parts.read_text())
    ticks = after["ticks"] - before["ticks"]
    spans = {name: (after[name] - before[name]) * 1000 / ticks for name in after if name != "ticks"}
    rest = own["listener"] - sum(spans.values())
    below = {name: value for name, value in own.items() if name != "listener"}
    return {
        "supervisord": {"without a listener": idle, "TICK_5": answered - idle, "memreap's calls": whole - answered},
        "listener": {**spans, "the rest": rest},
        "its processes": below,
    }


def configuration(directory: Path, floor: str, programs: int, workers: int) -> str:
    (directory / "ok.py").write_text(OK)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    metrics = f"metrics=127.0.0.1:{port}\n" if importlib.util.find_spec("prometheus_client") else ""
    of_listener = "events=TICK_5\nbuffer_size=100\nautostart=false\nautorestart=false\nstderr_logfile=NONE\n"
    return (
        f"[supervisord]\nlogfile={directory}/s.log\npidfile={directory}/s.pid\nchildlogdir={directory}\nminfds=4096\n"
        f"[unix_http_server]\nfile={directory}/s.sock\n[supervisorctl]\nserverurl=unix://{directory}/s.sock\n"
        f"[rpcinterface:supervisor]\n{INTERFACE}\n"
        "[rpcinterface:memreap]\nsupervisor.rpcinterface_factory=supervisor_memreap.rpcinterface:make_rpcinterface\n"
        f"[program:many]\ncommand={floor} pool {workers // programs}\nnumprocs={programs}\n"
        "process_name=%(process_num)03d\nstdout_logfile=NONE\nstderr_logfile=NONE\n"
        f"[memreap]\nhistory={directory}/history.sqlite\n{metrics}[memreap:many]\nlimit=100GB\n"
        f"[eventlistener:ok]\ncommand={sys.executable} {directory}/ok.py\n{of_listener}"
        f"[eventlistener:memreap]\ncommand={sys.executable} {__file__} {directory}/parts\n{of_listener}"
    )


def control(directory: Path) -> Any:
    """supervisord's XML-RPC interface, as soon as it answers."""
    client = connect(f"unix://{directory}/s.sock", {}, timeout=30.0)
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with contextlib.suppress(Unavailable):
            client.programs()
            break
        time.sleep(0.2)
    return client._proxy.supervisor


def until_all_serve(directory: Path) -> None:
    """Until memreap has seen each worker serve, which it asks of some at each tick."""
    client = connect(f"unix://{directory}/s.sock", {}, timeout=30.0)
    until = time.monotonic() + 600
    while time.monotonic() < until:
        time.sleep(2.0)
        seen = client.seen_by_listener()
        pools = seen[0] if seen else []
        if pools and all(pool["workers"] and not any("note" in each for each in pool["workers"]) for pool in pools):
            return
    raise RuntimeError("some workers were not seen to serve")


@contextlib.contextmanager
def listener(proxy: Any, name: str) -> Iterator[int]:
    with contextlib.suppress(xmlrpc.client.Fault):
        proxy.startProcess(name)
    yield int(proxy.getProcessInfo(name)["pid"])
    proxy.stopProcess(name)


def spent(supervisord: int, listener: int | None, seconds: float) -> tuple[float, dict[str, float]]:
    """ms for each tick of these seconds: of supervisord, and of the listener and each process below it."""

    def now() -> tuple[float, dict[str, float]]:
        if listener is None:
            return cpu(supervisord), {}
        process = psutil.Process(listener)
        times = process.cpu_times()
        # The reader of sizes ends after each tick: in steps of 10 ms.
        own = {"listener": cpu(listener), "reader": (times.children_user + times.children_system) * 1000}
        below = {each.name().removeprefix("memreap "): cpu(each.pid) for each in process.children()}
        return cpu(supervisord), below | own

    before, of_listener = now()
    time.sleep(seconds)
    after, since = now()
    ticks = seconds / PERIOD
    own = {name: (value - of_listener.get(name, 0.0)) / ticks for name, value in since.items()}
    return (after - before) / ticks, own


def cpu(pid: int) -> float:
    """ms that all threads of the process have run."""
    with contextlib.suppress(OSError):
        threads = Path(f"/proc/{pid}/task").iterdir()
        return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e6
    return 0.0


def timed(owner: object, name: str, part: str, spans: dict[str, float]) -> Any:
    """A patch that adds to this part what each call of this function needs, in seconds of CPU."""
    act = getattr(owner, name)

    @functools.wraps(act)
    def measured(*args: object, **named: object) -> object:
        start = time.process_time()
        try:
            return act(*args, **named)
        finally:
            spans[part] += time.process_time() - start

    return mock.patch.object(owner, name, measured)


def listen(parts: str) -> int:
    """The listener of memreap, which writes after each tick how many seconds each part has needed so far."""
    from supervisor_memreap.listener import loop, reaper, slowoutputs
    from supervisor_memreap.listener.application import Application
    from supervisor_memreap.outputs.publisher import Publisher
    from supervisor_memreap.supervisord.client import Client

    spans: collections.defaultdict[str, float] = collections.defaultdict(float)

    tick = Application.tick

    def noted(*args: Any, **named: Any) -> None:
        tick(*args, **named)
        spans["ticks"] += 1
        Path(f"{parts}.new").write_text(json.dumps(spans))
        os.rename(f"{parts}.new", parts)

    timed(Client, "programs", "asking what runs", spans).start()
    timed(reaper.Reaper, "tick", "the look", spans).start()
    timed(reaper.Reaper, "status", "rows and sizes", spans).start()
    timed(slowoutputs.SlowOutputs, "look", "history and metrics", spans).start()
    timed(Publisher, "publish", "publishing the status", spans).start()
    mock.patch.object(Application, "tick", noted).start()
    return loop.run(None, [])


if __name__ == "__main__":
    sys.exit(listen(sys.argv[1]))
