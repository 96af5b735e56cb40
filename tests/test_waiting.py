"""Whether a process waits for a connection with none in hand, in each of the ways in which servers wait."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import waiter
from support.driver import eventually

from supervisor_memreap.host import hold, procfile, reader, sockets, waiting
from supervisor_memreap.host.procfs import Procfs
from supervisor_memreap.host.signalling import tgkill

pytestmark = pytest.mark.skipif(not waiting.KINDS, reason=f"the system calls of {platform.machine()} are not known")
FAMILIES = ["tcp", "tcp6", "unix", "abstract"]
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="makes a network namespace")


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """Other tests may keep all CPUs busy."""
    monkeypatch.setattr(hold, "TIMEOUT", 10.0)


@pytest.fixture(params=FAMILIES)
def listening(request, tmp_path):
    with waiter.listen(request.param, str(tmp_path / "s")) as listening:
        yield listening


@pytest.fixture
def tcp():
    with waiter.listen("tcp") as listening:
        yield listening


def assert_idle(pid: int, expected: bool | None) -> None:
    assert Procfs().idle(pid) is expected


def assert_waits(pid: int, kind: waiting.Kind = waiting.Kind.EPOLL) -> None:
    wait = waiting.current(pid)
    assert wait
    assert wait.kind is kind


@pytest.mark.parametrize("way", waiter.WAYS)
def test_a_process_that_waits_for_its_listening_socket_is_idle(listening, way):
    with waiter.forked(lambda: waiter.WAYS[way](listening)) as pid:
        eventually(lambda: assert_idle(pid, True))
        assert waiting.current(pid).kind.value == way


@pytest.mark.parametrize("way", ["epoll", "select", "poll"])
def test_with_a_connection_in_hand_it_is_not_whatever_it_waits_for(listening, way):
    def serve() -> None:
        connection, _ = listening.accept()
        waiter.WAYS[way](listening)
        connection.close()

    with waiter.forked(serve) as pid, waiter.connect(listening):
        eventually(lambda: assert_waits(pid, waiting.Kind(way)))
        assert_idle(pid, False)


@pytest.mark.parametrize("ending", ["closed", "reset"])
def test_nor_where_the_client_has_gone_meanwhile(listening, ending):
    def serve() -> None:
        connection, _ = listening.accept()
        waiter.in_epoll(listening)
        connection.close()

    with waiter.forked(serve) as pid:
        client = waiter.connect(listening)
        eventually(lambda: assert_waits(pid))
        if ending == "reset" and client.family != socket.AF_UNIX:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        for _ in range(20):
            assert_idle(pid, False)


def test_where_a_reset_connection_cannot_be_told_from_another_socket_it_is_unknown(tcp, monkeypatch):
    """Before Linux 5.6, and where pidfd_getfd is forbidden."""

    def serve() -> None:
        connection, _ = tcp.accept()
        waiter.in_epoll(tcp)
        connection.close()

    def fails(_pid: int, _fd: int) -> socket.socket:
        raise PermissionError

    monkeypatch.setattr(sockets, "_copied", fails)
    with waiter.forked(serve) as pid:
        client = waiter.connect(tcp)
        eventually(lambda: assert_waits(pid))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        eventually(lambda: assert_idle(pid, None))


def test_connections_of_its_own_to_other_servers_make_no_difference(listening, tmp_path):
    database = waiter.listen("unix", str(tmp_path / "database"))
    cache = waiter.listen("tcp")

    def serve() -> None:
        connections = [waiter.connect(database), waiter.connect(cache), *socket.socketpair()]
        connections.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))  # in no table before it is used
        connections.append(socket.socket())  # nor is this one
        connections.append(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW))
        waiter.in_select(listening)
        del connections

    with database, cache, waiter.forked(serve) as pid:
        eventually(lambda: assert_idle(pid, True))


@pytest.mark.parametrize("way", ["epoll", "select", "poll"])
def test_a_process_that_waits_for_other_sockets_is_busy(tcp, way):
    other, partner = socket.socketpair()
    with other, partner, waiter.forked(lambda: waiter.WAYS[way](other)) as pid:
        eventually(lambda: assert_waits(pid, waiting.Kind(way)))
        assert_idle(pid, False)


def test_one_that_waits_until_its_listening_socket_may_be_written_to_is_busy(tcp):
    def wait() -> None:
        epoll, poll = select.epoll(), select.poll()
        epoll.register(tcp, select.EPOLLPRI)
        poll.register(tcp, select.POLLPRI)
        epoll.poll(0.1)
        poll.poll(100)
        select.select([], [], [tcp])

    with waiter.forked(wait) as pid:
        for kind in (waiting.Kind.EPOLL, waiting.Kind.POLL, waiting.Kind.SELECT):
            eventually(lambda kind=kind: assert_waits(pid, kind))
            assert_idle(pid, False)


def test_descriptors_above_64_are_found_in_a_set_of_select(tcp):
    def wait() -> None:
        high = os.dup2(tcp.fileno(), 200)
        select.select([high], [], [])

    with waiter.forked(wait) as pid:
        eventually(lambda: assert_idle(pid, True))


@pytest.mark.parametrize("way", ["select", "poll"])
def test_one_that_was_stopped_and_continued_is_idle_as_before(tcp, way):
    with waiter.forked(lambda: waiter.WAYS[way](tcp)) as pid:
        eventually(lambda: assert_idle(pid, True))
        os.kill(pid, signal.SIGSTOP)
        eventually(lambda: _assert_state(pid, b"T"))
        os.kill(pid, signal.SIGCONT)
        eventually(lambda: assert_idle(pid, True))


def _assert_state(pid: int, state: bytes) -> None:
    assert procfile.stat(pid)[0] == state


@pytest.mark.parametrize("way", waiter.WAYS)
def test_with_another_thread_it_is_idle_only_while_that_one_sleeps_in_a_futex(tcp, way):
    asks, answers = os.pipe()

    def serve() -> None:
        event = threading.Event()

        def work() -> None:
            event.wait()
            os.read(asks, 1)

        threading.Thread(target=work, daemon=True).start()
        signal.signal(signal.SIGUSR1, lambda *_: event.set())
        while True:
            with contextlib.suppress(InterruptedError):
                waiter.WAYS[way](tcp)

    with waiter.forked(serve) as pid:
        eventually(lambda: assert_idle(pid, True))
        os.kill(pid, signal.SIGUSR1)
        eventually(lambda: assert_idle(pid, None))
    os.close(asks)
    os.close(answers)


@pytest.mark.parametrize("way", ["accept", "epoll"])
def test_a_connection_that_another_thread_has_in_hand_counts_even_if_that_sleeps_in_a_futex(tcp, way):
    def serve() -> None:
        connection, _ = tcp.accept()
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        waiter.WAYS[way](tcp)
        connection.close()

    with waiter.forked(serve) as pid, waiter.connect(tcp):
        eventually(lambda: assert_waits(pid, waiting.Kind(way)))
        eventually(lambda: _assert_threads(pid, 2))
        assert_idle(pid, False)


def _assert_threads(pid: int, count: int) -> None:
    assert len(os.listdir(f"/proc/{pid}/task")) == count


@contextlib.contextmanager
def taking_turns(listening: socket.socket, lock: Path, waits: Callable[[], object]) -> Iterator[int]:
    """The pid of a process that waits in flock for its sibling, which waits as said; as Net::Server's workers do."""

    def take_turn(way: Callable[[], object]) -> None:
        with lock.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            way()

    with waiter.forked(lambda: take_turn(waits)) as first:
        eventually(lambda: assert_waits(first, waiting.Kind.SELECT))
        with waiter.forked(lambda: take_turn(lambda: waiter.in_select(listening))) as second:
            eventually(lambda: assert_waits(second, waiting.Kind.FLOCK))
            yield second


def test_one_that_waits_for_its_turn_in_flock_is_idle_if_a_sibling_waits_for_a_connection(listening, tmp_path):
    with taking_turns(listening, tmp_path / "lock", lambda: waiter.in_select(listening)) as pid:
        assert_idle(pid, True)
        assert hold.signal_held(pid, lambda: tgkill(pid, pid, signal.SIGTERM)) == "held"
        eventually(lambda: _assert_state(pid, b"Z"))


def test_one_that_waits_for_a_lock_of_the_application_is_busy(tcp, tmp_path):
    other, partner = socket.socketpair()
    with other, partner, taking_turns(tcp, tmp_path / "lock", lambda: waiter.in_select(other)) as pid:
        assert_idle(pid, False)
        assert hold.signal_held(pid, lambda: None) == "not waiting"


def test_one_that_waits_in_flock_with_a_connection_in_hand_is_busy(tcp, tmp_path):
    lock = (tmp_path / "lock").open("w")
    with lock, waiter.forked(lambda: (fcntl.flock(lock, fcntl.LOCK_EX), waiter.in_select(tcp))) as holder:
        eventually(lambda: assert_idle(holder, True))

        def serve() -> None:
            connection, _ = tcp.accept()
            with (tmp_path / "lock").open("w") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
            connection.close()

        with waiter.forked(serve) as pid, waiter.connect(tcp):
            eventually(lambda: assert_waits(pid, waiting.Kind.FLOCK))
            assert_idle(pid, False)


@needs_root
@pytest.mark.parametrize("way", waiter.WAYS)
def test_in_a_network_namespace_of_its_own_the_sockets_are_those_of_that_one(way):
    program = (
        "import os, sys; sys.path.insert(0, os.environ['TESTS']); from support import waiter;"
        f"waiter.WAYS[{way!r}](waiter.listen('abstract'))"
    )
    python = [sys.executable, "-c", program]
    environment = {**os.environ, "TESTS": str(Path(__file__).parent)}
    with subprocess.Popen(["unshare", "-n", *python], env=environment) as process:
        try:
            eventually(lambda: assert_idle(process.pid, True))
        finally:
            process.kill()


@pytest.mark.parametrize("way", ["select", "poll"])
def test_where_its_memory_may_not_be_read_it_is_unknown(tcp, way):
    def fails(_pid: int, _address: int, _length: int) -> bytes:
        raise reader.Blocked

    with waiter.forked(lambda: waiter.WAYS[way](tcp)) as pid:
        eventually(lambda: assert_idle(pid, True))
        assert waiting.idle(pid, fails) is None
        assert waiting.idle(pid, lambda *_: b"") is False  # whatever is there, it is no set of descriptors


@pytest.fixture
def _yama(monkeypatch):
    """As under kernel.yama.ptrace_scope=1: syscall may not be read, wchan may."""

    def not_permitted(_task: str) -> list[int]:
        raise PermissionError

    monkeypatch.setattr(waiting, "_system_call", not_permitted)


@pytest.mark.usefixtures("_yama")
@pytest.mark.parametrize(("way", "idle"), [("accept", True), ("epoll", True), ("select", None), ("poll", None)])
def test_with_wchan_alone_epoll_is_told_and_for_what_select_and_poll_wait_is_not(listening, way, idle):
    with waiter.forked(lambda: waiter.WAYS[way](listening)) as pid:
        eventually(lambda: assert_idle(pid, idle))


@pytest.mark.usefixtures("_yama")
@pytest.mark.parametrize("way", ["epoll", "select", "poll"])
def test_with_wchan_alone_one_with_a_connection_in_hand_is_busy(listening, way):
    def serve() -> None:
        connection, _ = listening.accept()
        waiter.WAYS[way](listening)
        connection.close()

    with waiter.forked(serve) as pid, waiter.connect(listening):
        time.sleep(0)
        eventually(lambda: _assert_place(pid, (b"ep_poll", b"do_epoll_wait", b"poll_schedule_timeout")))
        assert_idle(pid, False)


def _assert_place(pid: int, places: tuple[bytes, ...]) -> None:
    assert Path(f"/proc/{pid}/wchan").read_bytes().startswith(places)


# write(1, "r"), then pause() for ever, as a 32-bit program calls it.
PROGRAM_32 = """
void _start(void) {
    for (;;) __asm__ volatile ("int $0x80" : : "a"(29));
}
"""


@pytest.fixture(scope="module")
def program_32(tmp_path_factory):
    where = tmp_path_factory.mktemp("i386")
    (where / "pause.c").write_text(PROGRAM_32)
    command = ["gcc", "-m32", "-nostdlib", "-static", "-fno-pie", "-no-pie", "-o", "pause", "pause.c"]
    subprocess.run(command, cwd=where, check=True)
    return str(where / "pause")


@pytest.mark.skipif(platform.machine() != "x86_64" or not shutil.which("gcc"), reason="builds an i386 program")
def test_a_32_bit_process_numbers_its_calls_differently_so_it_is_not_held(program_32):
    sent: list[int] = []
    with subprocess.Popen([program_32]) as process:
        try:
            eventually(lambda: _assert_state(process.pid, b"S"))
            with pytest.raises(PermissionError):
                waiting.current(process.pid)
            assert waiting.idle(process.pid, reader.memory) is False
            assert hold.signal_held(process.pid, lambda: sent.append(1)) == "not permitted"
            assert not sent
        finally:
            process.kill()
