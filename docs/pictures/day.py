"""A day of a leaking pool that is only watched, and a day with a limit: real runs in fast motion."""

from __future__ import annotations

import math
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import svg
from support import stack
from support.driver import eventually, supervisord, workers_below

from supervisor_memreap.demo import fastcgi

NEEDS = "nothing beside the tests' packages"
DAY = 150.0
SECONDS = round(2 * DAY) + 10
LIMIT_MB, WORKERS = 30, 4
# Requests a second at night and at noon.
QUIET, BUSY = 3.0, 34.0
# Seconds between two samples.
STEP = 0.5
WIDTH, LEFT, RIGHT, TOP, EACH, APART, TOTAL = 480, 46, 14, 78, 140, 34, 100
# Of the workers; one that takes the place of another has its colour.
_COLOURS = ("blue", "violet", "green", "amber")
_MIB = 1024**2


def rate(part: float) -> float:
    """Requests a second at this part of a day, which begins at midnight: a peak at noon, another one in the evening."""
    noon = math.exp(-(((part - 0.52) / 0.14) ** 2))
    evening = 0.7 * math.exp(-(((part - 0.83) / 0.07) ** 2))
    return QUIET + (BUSY - QUIET) * min(1.0, noon + evening)


def _configuration(where: Path) -> str:
    pool = f"{sys.executable} -m supervisor_memreap.demo.prefork {where}/pool.sock {WORKERS}"
    return (
        f"[program:myapp]\ncommand={pool}\nstopwaitsecs=2\nkillasgroup=true\n{_section('observe=yes')}"
        f"[eventlistener:memreap]\ncommand={sys.executable} -m supervisor_memreap listen\nevents=TICK_5\n"
        f'stderr_logfile={where}/memreap.log\nenvironment=TMPDIR="{where}"\n{stack.recorder(where)}{stack.INTERFACE}'
    )


def _section(*lines: str) -> str:
    return "\n".join(["[memreap:myapp]", *lines, "min_age=1s", "settle=1s", ""])


def record() -> dict[str, Any]:
    """Sizes of the workers by pid in KiB, a sample each STEP seconds; and what was answered, lost and reaped."""
    where = stack.directory()
    try:
        with supervisord(where, _configuration(where)):
            eventually(lambda: _assert_answers(where))
            log = where / "s.log"
            manager = int(log.read_text().split("spawned: 'myapp' with pid ")[1].split()[0])
            load = _Load(f"{where}/pool.sock")
            days = [_day(manager, load)]
            conf = where / "supervisord.conf"
            text = conf.read_text().replace("observe=yes", f"limit={LIMIT_MB}MB")
            conf.with_suffix(".new").write_text(text)
            os.replace(conf.with_suffix(".new"), conf)
            days.append(_day(manager, load))
            reaped = [event["event"] for event in stack.announced(where)].count("left")
    finally:
        shutil.rmtree(where)
    return {"seconds": DAY, "step": STEP, "limit": LIMIT_MB * _MIB, "reaped": reaped, "days": days}


def _assert_answers(where: Path) -> None:
    try:
        assert fastcgi.get(f"{where}/pool.sock", patience=1.0).endswith(b"ok")
    except OSError as error:
        raise AssertionError(str(error)) from None


class _Load:
    def __init__(self, path: str):
        self.path = path
        self.answered = self.lost = 0
        self.lock = threading.Lock()

    def run(self, start: float) -> None:
        """Two threads send requests in turn, at the rate of the hour."""
        while (now := time.monotonic() - start) < DAY:
            time.sleep(2 / rate(now / DAY))
            try:
                good = fastcgi.get(self.path).endswith(b"\r\n\r\nok")
            except OSError:
                good = False
            with self.lock:
                self.answered += good
                self.lost += not good


def _day(manager: int, load: _Load) -> dict[str, Any]:
    start, answered, lost = time.monotonic(), load.answered, load.lost
    threads = [threading.Thread(target=load.run, args=[start]) for _ in range(2)]
    for thread in threads:
        thread.start()
    samples = []
    for number in range(round(DAY / STEP)):
        time.sleep(max(0.0, start + number * STEP - time.monotonic()))
        samples.append(_sizes(manager))
    for thread in threads:
        thread.join()
    return {"samples": samples, "answered": load.answered - answered, "lost": load.lost - lost}


def _sizes(manager: int) -> dict[str, int]:
    sizes = {}
    for pid in workers_below(manager):
        try:
            sizes[str(pid)] = round(psutil.Process(pid).memory_full_info().uss / 1024)
        except psutil.NoSuchProcess:
            pass  # it has just left
    return sizes


def draw(values: dict[str, Any]) -> str:
    before, after = values["days"]
    peak = [max(sum(sample.values()) for sample in day["samples"]) * 1024 for day in (before, after)]
    answered, lost = (sum(day[key] for day in (before, after)) for key in ("answered", "lost"))
    held = sum(after["samples"][-1].values()) * 1024
    minutes = f"{values['seconds'] / 60:g} minutes"
    height = TOP + 2 * (EACH + APART) + TOTAL + 74
    largest = max(max(sample.values(), default=0) for sample in before["samples"]) * 1024
    body = list(_head(minutes))
    body += _panel(TOP, "only watched (observe=yes)", before, values, largest)
    second = TOP + EACH + APART
    body += _panel(second, f"with limit={values['limit'] // _MIB}MB", after, values, 1.6 * values["limit"])
    body.append(
        svg.text(LEFT + 70, second + 12, f"first, those of the day before ({_range(before)}) are replaced", "dim small")
    )
    body += _totals(TOP + 2 * (EACH + APART), (before, after), values, peak)
    body.append(
        svg.text(
            20,
            height - 14,
            f"{answered:,} requests answered, {lost} lost; {values['reaped']} workers replaced.",
            "text bold",
        )
    )
    return svg.document(
        "A day of a leaking pool, watched and with a limit",
        f"A real pool of {WORKERS} leaking workers under a day's load in {minutes}. On the first day it is only"
        f" watched, and grows to {_mib(peak[0])}. On the second day each worker over {_mib(values['limit'])} is"
        f" replaced while it is idle: a saw-tooth, and the pool holds {_mib(held)} at its end. {answered:,} requests"
        f" were answered, {lost} lost; {values['reaped']} workers were replaced.",
        (WIDTH, height),
        body,
    )


def _head(minutes: str) -> Iterator[str]:
    yield svg.text(20, 26, "A leaking pool, without and with memreap", "text bold big")
    yield svg.text(20, 44, f"Fast motion: a day's load in {minutes}, {WORKERS} workers, a look each second", "dim")


def _panel(top: float, name: str, day: dict[str, Any], values: dict[str, Any], highest: float) -> Iterator[str]:
    """The workers of one day against the limit."""
    yield svg.text(LEFT, top - 8, f"each worker, {name}", "text bold")
    step = (20 if highest < 100 * _MIB else 50) * _MIB
    yield from _grid(top, EACH, highest, [number * step for number in range(int(highest / step) + 1)])
    y = top + EACH * (1 - values["limit"] / highest)
    yield svg.path([(LEFT, y), (WIDTH - RIGHT, y)], "red line", ' stroke-dasharray="5 3"')
    yield svg.text(LEFT + 70, y - 5, f"limit {_mib(values['limit'])}", "red small")
    for colour, points in _workers(day["samples"], values["step"]):
        if points[0][1] < highest:
            yield svg.path(_placed(points, top, EACH, highest, values["seconds"]), f"{colour} line mid")


def _range(day: dict[str, Any]) -> str:
    """The sizes of the workers at the end of a day."""
    sizes = [size * 1024 for size in day["samples"][-1].values()]
    return f"{min(sizes) / _MIB:.0f} to {_mib(max(sizes))}"


def _totals(top: float, days: tuple[dict[str, Any], ...], values: dict[str, Any], peak: list[float]) -> Iterator[str]:
    highest = max(peak) * 1.05
    marks = 4 if highest < 450 * _MIB else 2
    step = 400 // marks * _MIB
    yield svg.text(LEFT, top - 8, "the whole pool", "text bold")
    yield from _grid(top, TOTAL, highest, [number * step for number in range(int(highest / step) + 1)])
    labels = ("only watched", "amber", ' stroke-dasharray="6 2"'), ("with the limit", "green", "")
    for number, (day, (label, colour, dashes)) in enumerate(zip(days, labels)):
        totals = [sum(sample.values()) * 1024.0 for sample in day["samples"]]
        points = [(at * values["step"], total) for at, total in enumerate(totals)][::2]
        yield svg.path(_placed(points, top, TOTAL, highest, values["seconds"]), f"{colour} line thick", dashes)
        x, y = float(LEFT + number * 222), top + TOTAL + 36
        yield svg.path([(x, y - 4), (x + 22, y - 4)], f"{colour} line thick", dashes)
        yield svg.text(x + 28, y, f"{label}: {_mib(totals[-1])} at 24:00", f"{colour} small")
    for hour in (0, 6, 12, 18, 24):
        x = LEFT + (WIDTH - LEFT - RIGHT) * hour / 24
        yield svg.text(x, top + TOTAL + 15, f"{hour}:00", "dim small", "middle" if hour < 24 else "end")


def _grid(top: float, height: float, highest: float, marks: list[int]) -> Iterator[str]:
    for mark in marks:
        if mark <= highest:
            y = top + height * (1 - mark / highest)
            yield svg.path([(LEFT, y), (WIDTH - RIGHT, y)], "edge line")
            yield svg.text(LEFT - 6, y + 4, f"{mark // _MIB}" if mark else "0 MiB", "dim small", "end")


def _workers(samples: list[dict[str, int]], step: float) -> Iterator[tuple[str, list[tuple[float, float]]]]:
    """The colour of each worker, and its sizes in bytes, each with its time in seconds; every second sample."""
    by_pid: dict[str, list[tuple[float, float]]] = {}
    places: dict[str, str] = {}
    for number, sample in enumerate(samples):
        for pid, size in sample.items():
            if pid not in places:
                taken = {places[other] for other in sample if other in places}
                places[pid] = next((colour for colour in _COLOURS if colour not in taken), _COLOURS[0])
            by_pid.setdefault(pid, []).append((number * step, size * 1024.0))
    for pid, points in by_pid.items():
        # The last reading of a worker that has left may be of a process that is giving back its memory.
        whole = points if pid in samples[-1] else points[:-1]
        yield places[pid], [*whole[:-1:2], *whole[-1:]]


def _placed(
    points: list[tuple[float, float]], top: float, height: float, highest: float, seconds: float
) -> Iterator[tuple[float, float]]:
    for at, size in points:
        yield LEFT + (WIDTH - LEFT - RIGHT) * at / seconds, top + height * (1 - size / highest)


def _mib(size: float) -> str:
    return f"{size / _MIB:.0f} MiB"
