"""What is read of a process, and of one that has ended; and what takes the place of what a kernel or user lacks."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys

import pytest

from supervisor_memreap.core.model import ProcessId
from supervisor_memreap.host import boundary, forked, lock, procfile, signalling
from supervisor_memreap.host.machine import Locked
from supervisor_memreap.host.procfs import Procfs
from supervisor_memreap.host.source import Source

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(params=[Procfs, Source], ids=["procfs", "psutil"])
def view(request):
    return request.param()


@pytest.fixture
def gone() -> int:
    """The pid of a process that has ended."""
    with subprocess.Popen(["true"]) as process:
        pass
    return process.pid


def test_both_sources_know_what_a_process_is_called_and_its_environment():
    own, others = Procfs(), Source()
    pid = os.getpid()
    names, expected = own.names(pid), others.names(pid)
    assert (names.comm, names.executable) == (expected.comm, expected.executable)
    assert [word for word in names.argv if word] == [word for word in expected.argv if word]
    environ = own.environ(pid)
    assert environ["PATH"] == others.environ(pid)["PATH"]
    assert all(each.activity(pid).startswith("state ") for each in (own, others))


def test_of_a_process_that_has_ended_each_answer_is_that(view, gone):
    for ask in (view.process, view.memory, view.names, view.environ, view.activity, view.sizes):
        with pytest.raises(ProcessLookupError):
            ask(gone)
    assert signalling.may_signal(ProcessId(gone, 1.0))
    assert boundary.is_zombie(gone)
    with pytest.raises(ProcessLookupError):
        boundary.tgkill(gone, gone, 0)


def test_where_a_process_holds_nothing_there_its_memory_is_empty():
    for address in (0, (1 << 63) - 8, 1 << 63):
        assert procfile.read_part("/proc/self/mem", address, 8) == b""
    with pytest.raises(PermissionError, match="this kernel does not have it"):
        procfile.read_part(f"/proc/{os.getpid()}/nothing", 0, 8)


def test_a_process_of_which_the_kernel_shows_nothing_is_hidden_and_not_gone(monkeypatch, gone):
    monkeypatch.setattr(os.path, "exists", lambda _path: False)
    assert isinstance(procfile.missing(os.getpid(), "/proc/1/stat"), PermissionError)
    assert isinstance(procfile.missing(gone, "/proc/1/stat"), ProcessLookupError)

    def refused(*_args: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refused)
    assert isinstance(procfile.missing(os.getpid(), "/proc/1/stat"), PermissionError)


def test_where_it_is_unknown_how_many_descriptors_there_are_a_child_closes_all_that_there_may_be(monkeypatch):
    fd = os.dup(0)
    assert fd < forked._end_of_descriptors() < os.sysconf("SC_OPEN_MAX")
    os.close(fd)

    def refused(*_args: object) -> list[bytes]:
        raise FileNotFoundError

    monkeypatch.setattr(procfile, "status", refused)
    assert forked._end_of_descriptors() == os.sysconf("SC_OPEN_MAX")


def test_a_child_keeps_no_descriptor_but_those_that_it_needs():
    others = [os.dup(0) for _ in range(300)]
    with forked.two_pipes() as (received, reports, sends, reads):
        pid = os.fork()
        if pid == 0:
            try:
                forked.settle("settled", (reports, received), (), with_parent=True)
                os.write(reports, " ".join(os.listdir("/proc/self/fd")).encode())
            finally:
                os._exit(0)
    os.waitpid(pid, 0)
    listing = min({*range(3, 400)} - {received, reports})  # that of the list itself
    assert {*map(int, os.read(reads, 65536).split())} == {0, 1, 2, received, reports, listing}
    for fd in (*others, sends, reads):
        os.close(fd)


def test_where_files_of_proc_cannot_be_locked_a_file_in_the_temporary_directory_is(monkeypatch):
    flock = fcntl.flock

    def refused(fd: int, operation: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}").startswith("/proc/"):
            raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
        flock(fd, operation)

    own = Procfs().process(os.getpid()).id
    monkeypatch.setattr(fcntl, "flock", refused)
    held = lock.take(own)
    assert os.readlink(f"/proc/self/fd/{held}").endswith("-reaper.lock")
    with pytest.raises(Locked, match=f"process {os.getpid()} "):
        lock.take(own)
    os.close(held)


def test_a_lock_whose_holder_cannot_be_read_is_held_by_another_memreap(monkeypatch):
    def refused(path: str) -> bytes:
        raise PermissionError(path)

    own = Procfs().process(os.getpid()).id
    held = lock.take_file(own, "test")
    monkeypatch.setattr(lock, "read", refused)
    with pytest.raises(Locked, match="another memreap holds its lock"):
        lock.take_file(own, "test")
    os.close(held)
