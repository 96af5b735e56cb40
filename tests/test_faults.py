"""What goes wrong around memreap, made for real: whatever it is, no process is signalled that is not to be."""

from __future__ import annotations

import contextlib
import os
import re
import select
import sys
from pathlib import Path

import psutil
import pytest
from driver import eventually, listening, supervisord, workers_below

from supervisor_memreap.record.log import to

POOL = Path(__file__).with_name("pool.py")
BYSTANDER = Path(__file__).with_name("bystander.py")
QUICK = "limit=30MB\nmin_age=1s\nsettle=1s\n"
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="becomes another user")


@pytest.fixture
def log(tmp_path):
    return tmp_path / "listener.log"


def program(*command: object, name: str = "myapp", more: str = "") -> str:
    words = " ".join(map(str, (sys.executable, *command)))
    return f"[program:{name}]\ncommand={words}\nautorestart=false\nstopasgroup=true\nkillasgroup=true\n{more}"


def spawned(folder: Path, name: str) -> list[int]:
    """The pids that supervisord gave to this program, the last one last."""
    return [int(pid) for pid in re.findall(rf"spawned: '{name}' with pid ([0-9]+)", (folder / "s.log").read_text())]


def workers_of(folder: Path, name: str = "myapp") -> set[int]:
    return workers_below(spawned(folder, name)[-1])


@contextlib.contextmanager
def among_bystanders(folder: Path, programs: str, **options):
    """A real supervisord with these programs, and with others that are not configured for memreap: those stay.

    `aside` is a pool of the same kind, `recorder` a manager with a worker that write down every signal.
    """
    recorded = folder / "signals"
    others = program(POOL, 1, 40, name="aside") + program(BYSTANDER, recorded, name="recorder")
    with supervisord(folder, programs + others, **options) as process:
        names = ("aside", "recorder")
        before = {name: eventually(lambda name=name: _one_of(workers_of(folder, name))) for name in names}
        yield process
        assert recorded.read_text() == ""
        assert {name: workers_of(folder, name) for name in names} == before
        assert all(len(spawned(folder, name)) == 1 for name in names)


def _one_of(pids: set[int]) -> set[int]:
    assert len(pids) == 1
    return pids


@contextlib.contextmanager
def watching(folder: Path, log: Path, *args: str, **options):
    """A real listener of the supervisord in this folder."""
    address = f"unix://{folder}/s.sock"
    with listening(*args, "-c", f"{folder}/supervisord.conf", log=log, SUPERVISOR_SERVER_URL=address, **options) as one:
        yield one


def sent(lines: list[str]) -> list[int]:
    """The workers that were signalled, by what the log says."""
    return [int(pid) for line in lines for pid in re.findall(r"worker ([0-9]+) holds .* HUP sent", line)]


# The log: nobody reads it, or it is closed.


def replaced(folder: Path, before: set[int]) -> None:
    now = workers_of(folder)
    assert len(now) == len(before)
    assert not now & before


def test_with_stderr_closed_it_answers_and_reaps(log, tmp_path):
    closed = ("sh", "-c", 'exec "$@" 2>&-', "sh")
    with among_bystanders(tmp_path, program(POOL, 1, 40) + f"[memreap:myapp]\n{QUICK}"):
        before = workers_of(tmp_path)
        with watching(tmp_path, log, through=closed) as listener:
            eventually(lambda: listener.tick() and replaced(tmp_path, before))
            listener.tick()
            (process,) = psutil.Process(listener.process.pid).children()
            # Else the next descriptor is 2, and what a library writes there is sent to whoever that belongs to.
            assert os.readlink(f"/proc/{process.pid}/fd/2") == os.devnull
    assert log.read_bytes() == b""


def all_of(readable: int) -> bytes:
    """What is in a pipe of which nothing is waited for."""
    text = b""
    with contextlib.suppress(BlockingIOError):
        while chunk := os.read(readable, 65536):
            text += chunk
    return text


@pytest.fixture
def full_pipe(tmp_path):
    """A named pipe with not one byte of room, and a descriptor to read it with."""
    path = tmp_path / "full"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    for size in (65536, 1):
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, b"\n" * size)
    os.close(writer)
    yield path, reader
    os.close(reader)


def test_with_a_log_that_nobody_reads_it_answers_and_reaps_and_tells_what_was_lost(log, tmp_path, full_pipe):
    path, reader = full_pipe
    into = ("sh", "-c", f'exec "$@" 2>{path}', "sh")
    programs = program(POOL, 1, 40) + f"[memreap:myapp]\n{QUICK}"
    with among_bystanders(tmp_path, programs + "[include]\nfiles=*.ini\n"):
        before = workers_of(tmp_path)
        with watching(tmp_path, log, through=into) as listener:
            eventually(lambda: listener.tick() and replaced(tmp_path, before))
            listener.tick()
            assert all_of(reader).strip(b"\n") == b""
            (tmp_path / "more.ini").write_text("[memreap:myapp]\nlimit=77MB\n")
            listener.tick()
        lost, line = all_of(reader).decode().splitlines()
    # Version, watching, sent and left were told while there was no room.
    assert lost.endswith(" memreap: 4 lines are missing here: nobody read the log, and there was no room for them")
    assert line.endswith(" memreap: watching myapp (limit 77 MiB uss)")


def test_a_line_goes_into_the_log_whole_or_not_at_all():
    readable, writable = os.pipe()
    os.set_blocking(readable, False)
    with os.fdopen(writable, "w") as stream:
        tell = to(stream, stamped=True)
        for _ in range(100):  # more than there is room for
            tell("\u00e4" * 3000)
        os.read(readable, 1)
        tell("one byte of room is none")
        whole = all_of(readable).decode().splitlines()
        tell("room again")
        missing, last = all_of(readable).decode().splitlines()
    os.close(readable)
    assert len(whole) == 65536 // select.PIPE_BUF
    assert {len(line.encode()) for line in whole[1:]} <= {select.PIPE_BUF - 1, select.PIPE_BUF - 2}
    assert f" {101 - len(whole)} lines are missing here" in missing
    assert last.endswith(" memreap: room again")
