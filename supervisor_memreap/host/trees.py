"""What each program of supervisord holds: the process that supervisord started, and all below it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence

import psutil

from supervisor_memreap.core.command import chosen
from supervisor_memreap.core.failed import Failed
from supervisor_memreap.core.model import ProcessMemory, Program, supervisord_of
from supervisor_memreap.core.rows import Held, MemoryRow, known
from supervisor_memreap.host import procfs, reader
from supervisor_memreap.host.roster import HIDDEN, why_another
from supervisor_memreap.host.source import Process, Source

# Seconds in which all sizes must be read. A process that keeps its memory map locked takes 20 ms or more.
PATIENCE = 10.0
_NOT_PERMITTED = "no permission to read their memory; run memreap as their user or as root with CAP_SYS_PTRACE"
_LOCKED = "not read in time: a process keeps its memory map locked, or the machine is busy"
_NO_TIME = "not read: there are too many processes to read them in time"


class NotHere(Failed):
    """The processes of that supervisord are not those of this machine."""

    def __init__(self) -> None:
        super().__init__(
            "no process of that supervisord can be seen here, so its memory cannot be read: it runs on another machine"
            " or in another container, or its processes are hidden from this user; run memreap memory there, as root"
        )


def read(programs: Sequence[Program], names: Sequence[str] = (), patience: float = PATIENCE) -> Held:
    """What the programs of one supervisord hold; with `names`, only those. Raises UnknownName, NotHere.

    A process that has left the tree, as a program that daemonizes does, belongs to none. What cannot be read within
    `patience` seconds is unknown.
    """
    deadline = time.monotonic() + patience
    wanted = chosen(names, [program.namespec for program in programs], "in supervisord", "program or group")
    view = procfs.source()
    processes = _all(view)
    below = defaultdict(list)
    for process in processes.values():
        below[process.parent].append(process)
    tops = {program.namespec: _top(program, processes, view) for program in programs}
    # Where its pids are known to mean the same here, supervisord has given no age.
    is_here = all(program.age is None for program in programs) or any(isinstance(top, Process) for top in tops.values())
    if not is_here and any(program.pid > 0 for program in programs):
        raise NotHere
    rows = [
        _row(program.namespec, program.state, tops[program.namespec], below, view, deadline)
        for program in programs
        if program.namespec in wanted
    ]
    supervisord = processes.get(supervisord_of(programs) or 0) if is_here and not names else None
    return Held(rows, _row("supervisord", "RUNNING", supervisord, {}, view, deadline) if supervisord else None)


def _all(view: Source) -> dict[int, Process]:
    """All processes of this machine, each read once. The kernel's lists of children may miss one while another ends."""
    processes = {}
    for pid in psutil.pids():
        try:
            processes[pid] = view.process(pid)
        except (ProcessLookupError, PermissionError):
            pass  # it has just ended, or is hidden
    return processes


def _top(program: Program, processes: Mapping[int, Process], view: Source) -> Process | str | None:
    """The process that supervisord started; why that cannot be seen; None: there is none."""
    if program.pid <= 0:
        return None
    try:
        process = processes.get(program.pid) or view.process(program.pid)
    except ProcessLookupError:
        return None
    except PermissionError:
        return HIDDEN
    return why_another(program, process) or process


def _row(
    name: str, state: str, top: Process | str | None, below: dict[int, list[Process]], view: Source, deadline: float
) -> MemoryRow:
    """Of the process `top` and all `below`, by their parents; or why that is not known."""
    tree = [top] if isinstance(top, Process) else []
    answers: list[ProcessMemory | str] = []
    for process in tree:  # it grows: the children of each process follow
        tree.extend(below.pop(process.id.pid, ()))
        try:
            if not process.ended:
                answers.append(_memory(process.id.pid, view, deadline))
        except ProcessLookupError:
            pass  # it has just ended
    held = [answer for answer in answers if isinstance(answer, ProcessMemory)]
    causes = [cause for cause in (top, *answers) if isinstance(cause, str)]
    pss = [memory.pss for memory in held if memory.pss is not None]
    is_known = bool(held) or not causes
    row = MemoryRow(
        name=name,
        state=state,
        processes=None if isinstance(top, str) else len(answers),
        uss_bytes=sum(memory.private for memory in held) if is_known else None,
        pss_bytes=sum(pss) if is_known and len(pss) == len(held) else None,
        swap_bytes=sum(memory.swapped for memory in held) if is_known else None,
        unreadable_processes=len(answers) - len(held) or None,
        unknown="; ".join(dict.fromkeys(causes)) or None,
    )
    return known(row)


def _memory(pid: int, view: Source, deadline: float) -> ProcessMemory | str:
    """What the process holds, or why that is not known. Raises ProcessLookupError."""
    if time.monotonic() > deadline:
        return _NO_TIME
    try:
        return view.memory(pid)
    except reader.Blocked:
        return _LOCKED
    except reader.NoReader as error:
        return f"not read: {error.strerror}"
    except PermissionError as error:  # without a number and a pid: the system has no such size
        return _NOT_PERMITTED if error.errno or error.args == (pid,) else str(error)
