"""RSS, PSS and USS of the workers of a real Catalyst pool."""

from __future__ import annotations

import platform
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import svg
from support import stack

from supervisor_memreap.demo import fastcgi

NEEDS = "Catalyst and FCGI::ProcManager (Debian packages)"
SECONDS = 20
WORKERS, REQUESTS = 4, 400
# What some later requests leak, in MB: each of them meets the worker that has waited longest.
LEAKED = (10, 25, 50)
WIDTH, LEFT, RIGHT, TOP, ROW = 480, 92, 68, 96, 66
METRICS = {"rss": ("RSS", "red"), "pss": ("PSS", "amber"), "uss": ("USS", "blue")}
_MIB = 1024**2


def record() -> dict[str, Any]:
    """In bytes, of each worker and of the manager, after a number of requests, of which the last ones leaked."""
    with tempfile.TemporaryDirectory(prefix="memreap-") as name:
        script = stack.catalyst(Path(name))
        command = [str(script), "-l", f"{name}/s", "-n", str(WORKERS), "-e"]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            manager = psutil.Process(process.pid)
            deadline = time.monotonic() + 30
            while len(manager.children()) < WORKERS and time.monotonic() < deadline:
                time.sleep(0.1)
            time.sleep(1)  # the last one settles
            for _ in range(REQUESTS):
                assert b"X-Worker" in fastcgi.get(f"{name}/s")
            for mb in LEAKED:
                assert b"X-Worker" in fastcgi.get(f"{name}/s", query=b"mb=%d" % mb)
            workers = sorted((_sizes(worker) for worker in manager.children()), key=lambda sizes: sizes["uss"])
            whole = _sizes(manager)
        finally:
            process.terminate()
            process.wait()
    return {"workers": workers, "manager": whole, "requests": REQUESTS, **_versions()}


def _sizes(process: psutil.Process) -> dict[str, int]:
    info = process.memory_full_info()
    return {metric: getattr(info, metric) for metric in METRICS}


def _versions() -> dict[str, str]:
    def output(*command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    return {
        "catalyst": output("perl", "-MCatalyst", "-e", "print $Catalyst::VERSION"),
        "perl": output("perl", "-e", "print $^V"),
        "system": f"Linux {'.'.join(platform.release().split('.')[:2])}, {platform.machine()}",
    }


def draw(values: dict[str, Any]) -> str:
    workers = values["workers"]
    sums = {metric: sum(worker[metric] for worker in workers) for metric in METRICS}
    held = sums["pss"] + values["manager"]["pss"]
    height = TOP + ROW * len(workers) + 92
    return svg.document(
        "RSS, PSS and USS of the workers of a Catalyst pool",
        f"{len(workers)} workers after {values['requests']} requests, of which three leaked. "
        + "; ".join(
            f"{label} {min(w[metric] for w in workers) / _MIB:.0f} to {max(w[metric] for w in workers) / _MIB:.0f} MiB"
            for metric, (label, _) in METRICS.items()
        )
        + f". The RSS of all workers adds up to {sums['rss'] / _MIB:.0f} MiB, but the whole pool holds"
        f" {held / _MIB:.0f} MiB: RSS counts the pages that they share once for each of them. USS is what is freed"
        " when a worker leaves.",
        (WIDTH, height),
        [*_head(), *_bars(workers), *_foot(workers, sums["rss"], held, height)],
    )


def _head() -> Iterator[str]:
    yield svg.text(20, 26, "What a worker holds, by RSS, PSS and USS", "text bold big")
    yield svg.text(20, 44, "A Catalyst pool that has served, and three workers that have leaked", "dim")
    x = float(20)
    meanings = {"rss": "with all shared pages", "pss": "with its share", "uss": "only its own"}
    for metric, (label, colour) in METRICS.items():
        yield svg.rect(x, 60, 10, 10, colour)
        yield svg.text(x + 15, 69, f"{label}: {meanings[metric]}", "text small")
        x += 35 + 5.7 * len(f"{label}: {meanings[metric]}")


def _bars(workers: list[dict[str, int]]) -> Iterator[str]:
    scale = (WIDTH - LEFT - RIGHT) / max(worker["rss"] for worker in workers)
    for number, worker in enumerate(workers):
        top = TOP + number * ROW
        yield svg.text(LEFT - 10, top + 27, f"worker {number + 1}", "text bold", "end")
        for row, (metric, (_, colour)) in enumerate(METRICS.items()):
            y, width = top + row * 17, worker[metric] * scale
            yield svg.rect(LEFT, y, width, 14, colour)
            yield svg.text(LEFT + width + 6, y + 11, _mib(worker[metric]), "text small")


def _foot(workers: list[dict[str, int]], rss: float, held: float, height: float) -> Iterator[str]:
    top = height - 82
    yield svg.path([(20, top), (WIDTH - 20, top)], "edge line")
    yield svg.text(20, top + 24, f"All workers together, by RSS: {_mib(rss)}.", "text")
    yield svg.text(20, top + 42, f"The whole pool really holds, with its manager: {_mib(held)} (PSS).")
    back, not_back = _mib(workers[-1]["uss"]), _mib(workers[-1]["rss"])
    last = f"When worker {len(workers)} leaves, {back} are freed (USS), not {not_back}."
    yield svg.text(20, top + 60, last, "text bold")


def _mib(size: float) -> str:
    return f"{size / _MIB:.1f} MiB" if size < 10 * _MIB else f"{size / _MIB:.0f} MiB"
