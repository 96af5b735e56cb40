"""What memreap holds in memory, and how soon it is ready, beside others that watch processes.

    python benchmarks/footprint.py                   a minute of reaps, at 10 workers and at 4,010
    python benchmarks/footprint.py --minutes 60      an hour of them
    python benchmarks/footprint.py --most 10         only the 10

supervisord runs a pool of 10 Python workers (supervisor_memreap/demo/prefork.py) that leak with each request, and load,
so that memreap replaces one every few seconds. For 4,010, 200 programs of 20 waiting workers come beside it
(tick_floor.c). All that watch run at the same time on the same machine, and look each 5 s:

    memreap     [eventlistener:memreap] with its history, and all of its children
    metrics     memreap's child process for `metrics=`, which only serves Prometheus; scraped each 5 s
    memmon      superlance's listener, which sees the manager of a pool, and not the workers
    circus      its plugin resource_watcher, which sees 10 processes of its own circusd; and with that circusd
    exporter    prometheus-process-exporter (of Debian), which groups all processes by their names; scraped each 5 s

Each 2 s smaps_rollup of each process is read. PSS: a page that n processes have counts as 1/n. Anonymous pages are
those that no program outside the group can share. The rest of PSS are pages of files, such as the library of Python:
the more Pythons run on the machine, the less they count; `files` is what they would count without any other one. The
median of the last two thirds counts, beside the largest sum that was seen: readers of sizes and attempts to signal a
worker run for a moment in processes of their own.

How soon: from the start of the listener until its READY, for which supervisord waits; the median of 9.

What is not installed has no row: superlance, circus, prometheus-client, prometheus-process-exporter. Needs a C
compiler. Writes footprint.jsonl and footprint.md to benchmarks/results. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from pages import read

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support.driver import READY, Driver, repeating

from supervisor_memreap.demo import fastcgi, private

HERE = Path(__file__).resolve().parent
FEW, PROGRAMS, WORKERS = 10, 200, 20
CLIENTS = 2
# Seconds between two readings; between two requests of a client; between two scrapes.
EVERY, PAUSE, SCRAPED = 2.0, 0.02, 5.0
STARTS = 9
KIB = 1024
PACKAGES = ("supervisor", "superlance", "circus", "prometheus_client", "psutil")
EXPORTER = shutil.which("prometheus-process-exporter")


class Held(NamedTuple):
    """KiB that several processes hold."""

    pss: int
    anonymous: int
    files: int
    """Pages of files, each counted once for the group, as if no other program had them."""
    processes: int


Samples = dict[str, list[Held]]
"""By what watches."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0, help="of reaps, for each number of workers (%(default)s)")
    parser.add_argument(
        "--most", type=int, default=FEW + PROGRAMS * WORKERS, help="at most so many workers (%(default)s)"
    )
    parser.add_argument("--out", type=Path, default=HERE / "results", help="directory of footprint.md (results)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    rows = []
    try:
        with tempfile.TemporaryDirectory() as directory:
            rows.append(start_up(Path(directory)))
            floor = f"{directory}/tick_floor"
            subprocess.run(["cc", "-O2", "-o", floor, HERE / "tick_floor.c"], check=True)
            for workers in (FEW, FEW + PROGRAMS * WORKERS):
                if workers <= options.most:
                    rows += measure(workers, options.minutes, floor)
    except KeyboardInterrupt:
        return 130
    used, file = versions(), options.out / "footprint.jsonl"
    rows = [{**row, "versions": used} for row in rows]
    rows += [row for row in read(file) if row.get("minutes", options.minutes) != options.minutes]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = markdown(rows, used)
    (options.out / "footprint.md").write_text(page)
    print(page)
    return 0


def start_up(directory: Path) -> dict[str, Any]:
    """Seconds from the start of the listener until READY, and the CPU time that it needed for that."""
    (directory / "supervisord.conf").write_text(f"[supervisord]\nlogfile={directory}/s.log\n[memreap]\nhistory=off\n")
    waited, needed = [], []
    for number in range(STARTS):
        began = time.monotonic()
        driver = Driver("-c", str(directory / "supervisord.conf"), "myapp=1GB", env={}, log=directory / f"{number}.log")
        driver.expect(READY)
        waited.append(time.monotonic() - began)
        times = driver.listener().cpu_times()
        needed.append(times.user + times.system)
        driver.process.stdin.close()
        driver.process.wait()
        driver.process.stdout.close()
    return {"start": {"seconds": statistics.median(waited), "cpu": statistics.median(needed)}}


def measure(workers: int, minutes: float, floor: str) -> list[dict[str, Any]]:
    with private.directory() as directory, contextlib.ExitStack() as stack:
        port = free_port()
        stack.enter_context(private.Supervisord(directory, configuration(directory, workers, floor, port)))
        exporter, circus = begin_others(directory, stack)
        until_there(directory)
        end = time.monotonic() + 60 * minutes
        stack.enter_context(load(directory))
        samples: Samples = {}
        scraped = 0.0
        while time.monotonic() < end:
            if time.monotonic() - scraped >= SCRAPED:
                scraped = time.monotonic()
                for url in (f"http://127.0.0.1:{port}/metrics", *([exporter[1]] if exporter else [])):
                    with contextlib.suppress(OSError):
                        urllib.request.urlopen(url, timeout=5).read()
            for name, pids in watching(directory, exporter[0] if exporter else None, circus).items():
                samples.setdefault(name, []).append(held(pids))
            time.sleep(EVERY)
        reaps = (directory / "memreap.log").read_text().count(" left ")
    return [row(name, workers, minutes, reaps, each) for name, each in samples.items()]


def row(name: str, workers: int, minutes: float, reaps: int, samples: list[Held]) -> dict[str, Any]:
    samples = samples[len(samples) // 3 :]  # what a start loads is there then
    return {
        "name": name,
        "workers": workers,
        "minutes": minutes,
        "reaps": reaps,
        "pss": statistics.median(each.pss for each in samples) * KIB,
        "anonymous": statistics.median(each.anonymous for each in samples) * KIB,
        "files": statistics.median(each.files for each in samples) * KIB,
        "peak": max(each.pss for each in samples) * KIB,
        "processes": statistics.median(each.processes for each in samples),
    }


def configuration(directory: Path, workers: int, floor: str, port: int) -> str:
    prefork = f"{sys.executable} -m supervisor_memreap.demo.prefork {directory}/pool.sock {FEW}"
    interface = "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface"
    text = (
        f"[supervisord]\nlogfile={directory}/s.log\npidfile={directory}/s.pid\nchildlogdir={directory}\n"
        f"[unix_http_server]\nfile={directory}/s.sock\n[supervisorctl]\nserverurl=unix://{directory}/s.sock\n"
        f"[rpcinterface:supervisor]\n{interface}\n[program:myapp]\ncommand={prefork}\n"
        f"[memreap]\nhistory={directory}/memreap.sqlite\n"
        + (f"metrics=127.0.0.1:{port}\n" if importlib.util.find_spec("prometheus_client") else "")
        + "[memreap:myapp]\nlimit=40MB\nmin_age=1s\nsettle=0s\n"
    )
    text += listener(directory, "memreap", f"{sys.executable} -m supervisor_memreap listen")
    if importlib.util.find_spec("superlance"):
        # Far above what any of them holds: it would restart the program.
        text += listener(directory, "memmon", f"{sys.executable} -m superlance.memmon -a 100GB")
    if workers > FEW:
        text += (
            f"[program:many]\ncommand={floor} spawn 1 {WORKERS}\nnumprocs={PROGRAMS}\n"
            "process_name=%(process_num)03d\n[memreap:many]\nlimit=1GB\ndepth=2\n"
        )
    return text


def listener(directory: Path, name: str, command: str) -> str:
    return (
        f"[eventlistener:{name}]\ncommand={command}\nevents=TICK_5\nbuffer_size=100\n"
        f"stderr_logfile={directory}/{name}.log\nstderr_logfile_maxbytes=0\n"
    )


def begin_others(directory: Path, stack: contextlib.ExitStack) -> tuple[tuple[int, str] | None, int | None]:
    """The exporter, with its address, and circusd, as far as they are installed."""
    exporter = circus = None
    if EXPORTER:
        port = free_port()
        (directory / "exporter.yml").write_text("process_names:\n  - name: '{{.Comm}}'\n    cmdline: ['.+']\n")
        command = [EXPORTER, "-config.path", f"{directory}/exporter.yml", f"-web.listen-address=127.0.0.1:{port}"]
        exporter = begin(command, stack), f"http://127.0.0.1:{port}/metrics"
    if importlib.util.find_spec("circus"):
        (directory / "circus.ini").write_text(
            f"[circus]\nendpoint=ipc://{directory}/c1\npubsub_endpoint=ipc://{directory}/c2\nstatsd=false\n"
            "[plugin:watch]\nuse=circus.plugins.resource_watcher.ResourceWatcher\nwatcher=sleepers\nloop_rate=5\n"
            "max_mem=1000\n[watcher:sleepers]\ncmd=sleep 100000\nnumprocesses=10\n"
        )
        circus = begin([sys.executable, "-m", "circus.circusd", f"{directory}/circus.ini"], stack)
    return exporter, circus


def begin(command: list[str], stack: contextlib.ExitStack) -> int:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def end() -> None:
        process.terminate()
        process.wait()

    stack.callback(end)
    return process.pid


def until_there(directory: Path) -> None:
    """Until the pool answers, and memreap watches."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            fastcgi.get(f"{directory}/pool.sock")
            if "watching" in (directory / "memreap.log").read_text():
                return
        time.sleep(0.5)
    raise RuntimeError(f"{directory}: does not start")


def watching(directory: Path, exporter: int | None, circus: int | None) -> dict[str, list[int]]:
    """The pids of each that watches, with all below it."""
    found: dict[str, list[int]] = {}
    supervisord = psutil.Process(int((directory / "s.pid").read_text()))
    for process in supervisord.children():
        with contextlib.suppress(psutil.NoSuchProcess):
            words = process.cmdline()
            if "listen" in words:
                below = process.children(recursive=True)
                metrics = [each.pid for each in below if each.name() == "memreap metrics"]
                found["memreap"] = [process.pid, *(each.pid for each in below if each.pid not in metrics)]
                if metrics:
                    found["memreap's process for metrics="] = metrics
            elif "superlance.memmon" in words:
                found["memmon"] = [process.pid]
    if exporter:
        found["prometheus-process-exporter"] = [exporter]
    if circus:
        below = psutil.Process(circus).children()
        plugins = [each.pid for each in below if "sleep" not in each.name()]
        found["circus' resource_watcher"] = plugins
        found["circusd with resource_watcher"] = [circus, *plugins]
    return found


def held(pids: list[int]) -> Held:
    pss = anonymous = processes = 0
    files: dict[str, int] = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            values = dict(line.split(":") for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
            pss += int(values["Pss"].split()[0])
            anonymous += int(values["Pss_Anon"].split()[0])
            processes += 1
            for file, resident in resident_of_files(pid).items():
                files[file] = max(files.get(file, 0), resident)
    return Held(pss, anonymous, sum(files.values()), processes)


def resident_of_files(pid: int) -> dict[str, int]:
    """KiB of each mapped file that are in memory, without what the process has changed of it."""
    found: dict[str, int] = {}
    file = ""
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        words = line.split(maxsplit=5)
        if not words[0].endswith(":"):
            file = words[5] if len(words) > 5 and words[5].startswith("/") else ""
        elif file and words[0] in ("Rss:", "Anonymous:"):
            found[file] = found.get(file, 0) + int(words[1]) * (1 if words[0] == "Rss:" else -1)
    return found


@contextlib.contextmanager
def load(directory: Path) -> Iterator[None]:
    def ask() -> None:
        with contextlib.suppress(OSError):
            fastcgi.get(f"{directory}/pool.sock")
        time.sleep(PAUSE)

    with repeating(ask, CLIENTS):
        yield


def versions() -> dict[str, str]:
    found = {
        "measured on": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "kernel": platform.release(),
    }
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    if EXPORTER:
        command = ["dpkg-query", "-W", "-f", "${Version}", "prometheus-process-exporter"]
        found["prometheus-process-exporter"] = subprocess.run(
            command, capture_output=True, text=True, check=False
        ).stdout
    return found


def markdown(rows: list[dict[str, Any]], used: dict[str, str]) -> str:
    start = next(row["start"] for row in rows if "start" in row)
    measured = [row for row in rows if "name" in row]
    lines = [
        "# What memreap holds in memory",
        "",
        "Written by `python benchmarks/footprint.py`; its `--help` says what the columns mean. MiB, the median; all at",
        "the same time on the same machine, each with its children. Other minutes are other",
        "runs.",
        "",
        "| workers | minutes | reaps | | processes | PSS | anonymous | files | largest PSS |",
        "|--:|--:|--:|---|--:|--:|--:|--:|--:|",
    ]
    for row in measured:
        sizes = (f"{row[key] / KIB**2:.1f}" for key in ("pss", "anonymous", "files", "peak"))
        place = f"{row['workers']:,} | {row['minutes']:g} | {row['reaps']} | {row['name']} | {row['processes']:g}"
        lines.append(f"| {place} | {' | '.join(sizes)} |")
    lines += [
        "",
        f"The listener is READY {start['seconds']:.2f} s after its start, for which it needs {start['cpu']:.2f} s of"
        f" CPU (median of {STARTS}).",
        "",
        f"{', '.join(map(' '.join, used.items()))}, {platform.machine()}, {os.cpu_count()} CPUs.",
        "",
    ]
    return "\n".join(lines)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
