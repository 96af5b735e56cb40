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
from support.boundary import attempt
from support.driver import eventually, until
from support.looking import ended, not_permitted, only_wchan

from supervisor_memreap.host import procfile, sockets, waiting
from supervisor_memreap.host.attempt import Attempt
from supervisor_memreap.host.boundary import tgkill
from supervisor_memreap.host.machine import Order
from supervisor_memreap.host.procfs import Procfs

pytestmark = pytest.mark.skipif(not waiting.KINDS, reason=f"the system calls of {platform.machine()} are not known")
# Seconds in which something is done that waits for nothing.
PROMPTLY = 5.0
FAMILIES = ["tcp", "tcp6", "unix", "abstract"]
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="makes a network namespace")


@pytest.fixture(params=FAMILIES)
def listening(request, tmp_path):
    with waiter.listen(request.param, str(tmp_path / "s")) as listening:
        yield listening


@pytest.fixture
def by_tables(monkeypatch):
    """As before Linux 5.6, and where pidfd_getfd is forbidden."""
    monkeypatch.setattr(sockets, "_by_copies", not_permitted)


@pytest.fixture(params=["by copies", "by tables"])
def _by_both(request):
    if request.param == "by tables":
        request.getfixturevalue("by_tables")


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


@pytest.mark.usefixtures("_by_both")
@pytest.mark.parametrize("way", waiter.WAYS)
def test_a_process_that_waits_for_its_listening_socket_is_idle(listening, way):
    with waiter.forked(lambda: waiter.WAYS[way](listening)) as pid:
        eventually(lambda: assert_idle(pid, True))
        assert waiting.current(pid).kind.value == way


@pytest.mark.usefixtures("_by_both")
@pytest.mark.parametrize("way", ["epoll", "select", "poll"])
def test_a_process_with_a_connection_is_not_idle_whatever_it_waits_for(listening, way):
    with waiter.busy(listening, lambda: waiter.WAYS[way](listening)) as pid, waiter.connect(listening):
        eventually(lambda: assert_waits(pid, waiting.Kind(way)))
        assert_idle(pid, False)


@pytest.mark.parametrize("ending", ["closed", "reset"])
def test_a_process_is_not_idle_if_its_client_has_disconnected(listening, ending):
    with waiter.busy(listening, lambda: waiter.in_epoll(listening)) as pid:
        client = waiter.connect(listening)
        eventually(lambda: assert_waits(pid))
        if ending == "reset" and client.family != socket.AF_UNIX:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        for _ in range(20):
            assert_idle(pid, False)


@pytest.mark.usefixtures("by_tables")
@pytest.mark.parametrize("way", ["accept", "epoll"])
def test_a_reset_connection_that_looks_like_another_socket_makes_it_unknown(tcp, way):
    """Also in a process with one thread: what is unknown counts as busy."""
    with waiter.busy(tcp, lambda: waiter.WAYS[way](tcp)) as pid:
        client = waiter.connect(tcp)
        until(lambda: sockets.of(pid).has_client)
        eventually(lambda: assert_waits(pid, waiting.Kind(way)))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        eventually(lambda: assert_idle(pid, None))


@needs_root
@pytest.mark.parametrize(("is_by_tables", "idle"), [(False, False), (True, None)])
def test_a_client_in_another_network_namespace_is_seen_too(tmp_path, monkeypatch, is_by_tables, idle):
    """As nginx in another container: the kernel lists the worker's end of the connection in the client's tables."""
    if is_by_tables:
        monkeypatch.setattr(sockets, "_by_copies", not_permitted)
    listening = waiter.listen("unix", str(tmp_path / "s"))

    program = (
        f"import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect({str(tmp_path / 's')!r}); sys.stdin.read()"
    )
    with listening, waiter.busy(listening, lambda: waiter.in_epoll(listening)) as pid:
        command = ["unshare", "-n", sys.executable, "-c", program]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as client:
            eventually(lambda: assert_waits(pid))
            assert_idle(pid, idle)
            client.kill()


@pytest.mark.parametrize("is_by_tables", [False, True])
def test_no_user_can_make_a_busy_worker_look_idle_by_the_name_of_a_socket(tmp_path, monkeypatch, is_by_tables):
    """A path may hold a newline, and what follows looks like a row of /proc/net/unix."""
    if is_by_tables:
        monkeypatch.setattr(sockets, "_by_copies", not_permitted)
    monkeypatch.chdir(tmp_path)
    listening = waiter.listen("unix", "s")

    def serve() -> None:
        connection, _ = listening.accept()
        os.write(inode, str(os.fstat(connection.fileno()).st_ino).encode())
        waiter.in_epoll(listening)
        connection.close()

    told, inode = os.pipe()
    with listening, waiter.forked(serve) as pid, waiter.connect(listening):
        eventually(lambda: assert_waits(pid))
        number = os.read(told, 20).decode()
        for flags in ("00000000", "zz"):
            with socket.socket(socket.AF_UNIX) as forged:
                forged.bind(f"{flags}\n0: 2 0 {flags} 0001 01 {number} x")
                assert Procfs().idle(pid) is not True
    os.close(told)
    os.close(inode)


def test_a_descriptor_that_is_no_longer_a_socket_leaves_no_copy_behind():
    reads, writes = os.pipe()
    pidfd = os.pidfd_open(os.getpid())
    before = os.listdir("/proc/self/fd")
    assert sockets._by_copy(pidfd, reads) is None
    assert os.listdir("/proc/self/fd") == before
    for fd in (reads, writes, pidfd):
        os.close(fd)


def test_no_descriptor_is_copied_if_this_process_sets_socket_timeouts(tcp):
    """Python would make the copy non-blocking, and so the worker's own."""
    socket.setdefaulttimeout(5)
    try:
        with pytest.raises(OSError, match="time-out"):
            sockets._by_copies(os.getpid(), [tcp.fileno()])
    finally:
        socket.setdefaulttimeout(None)


def test_a_request_that_waits_in_accept_for_its_own_connection_is_not_idle(tcp):
    """As one that fetches a file by FTP in active mode."""

    def serve() -> None:
        connection, _ = tcp.accept()
        with waiter.listen("tcp") as data:
            data.accept()
        connection.close()

    with waiter.forked(serve) as pid, waiter.connect(tcp):
        until(lambda: sockets.of(pid).has_client)
        eventually(lambda: assert_waits(pid, waiting.Kind.ACCEPT))
        assert_idle(pid, False)
        assert attempt(pid, lambda: None, 0.3) == "late"


def test_outgoing_connections_make_no_difference(listening, tmp_path):
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


def test_a_process_that_waits_for_its_listening_socket_to_be_writable_is_busy(tcp):
    poll = select.poll()
    poll.register(tcp, select.POLLPRI)
    with select.epoll() as epoll:
        epoll.register(tcp, select.EPOLLPRI)
        calls = ("epoll", epoll.poll), ("poll", poll.poll), ("select", lambda: select.select([], [], [tcp]))
        for kind, call in calls:
            with waiter.forked(call) as pid:
                eventually(lambda pid=pid, kind=kind: assert_waits(pid, waiting.Kind(kind)))
                assert_idle(pid, False)


def test_descriptors_above_64_are_read_from_a_select_set(tcp):
    def wait() -> None:
        high = os.dup2(tcp.fileno(), 200)
        select.select([high], [], [])

    with waiter.forked(wait) as pid:
        eventually(lambda: assert_idle(pid, True))


@pytest.mark.parametrize("way", ["select", "poll"])
def test_a_stopped_and_continued_process_is_idle_as_before(tcp, way):
    with waiter.forked(lambda: waiter.WAYS[way](tcp)) as pid:
        eventually(lambda: assert_idle(pid, True))
        os.kill(pid, signal.SIGSTOP)
        until(lambda: procfile.stat(pid)[0], b"T")
        os.kill(pid, signal.SIGCONT)
        eventually(lambda: assert_idle(pid, True))


@pytest.mark.parametrize("way", waiter.WAYS)
def test_with_another_thread_a_process_is_idle_only_while_that_thread_sleeps_in_a_futex(tcp, way):
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


@pytest.fixture(params=["syscall", "wchan"])
def _by_syscall_or_wchan(request):
    if request.param == "wchan":
        request.getfixturevalue("_yama")


@pytest.mark.usefixtures("_by_syscall_or_wchan")
@pytest.mark.parametrize("way", ["accept", "epoll"])
def test_a_connection_held_by_another_thread_counts_even_if_it_sleeps_in_a_futex(tcp, way):
    def serve() -> None:
        connection, _ = tcp.accept()
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        waiter.WAYS[way](tcp)
        connection.close()

    with waiter.forked(serve) as pid, waiter.connect(tcp):
        until(lambda: len(os.listdir(f"/proc/{pid}/task")), 2)
        until(lambda: place(pid).startswith((b"inet_csk_accept", b"ep_poll", b"do_epoll_wait")))
        assert_idle(pid, False)


def test_a_thread_that_only_sleeps_periodically_does_not_prevent_idleness(tcp):
    def work() -> None:
        while True:
            time.sleep(60)

    def serve() -> None:
        threading.Thread(target=work, daemon=True).start()
        waiter.in_select(tcp)

    with waiter.forked(serve) as pid:
        until(lambda: len(os.listdir(f"/proc/{pid}/task")), 2)
        eventually(lambda: assert_idle(pid, True))


@pytest.mark.usefixtures("_by_syscall_or_wchan")
def test_a_thread_that_ends_while_it_is_read_is_not_the_end_of_the_process(tcp, monkeypatch):
    asks, answers = os.pipe()

    def serve() -> None:
        threading.Thread(target=os.read, args=(asks, 1), daemon=True).start()
        waiter.accept(tcp)

    def end_thread(pid: int) -> None:
        os.write(answers, b"x")
        until(lambda: len(os.listdir(f"/proc/{pid}/task")), 1)

    try:
        with waiter.forked(serve) as pid:
            until(lambda: len(os.listdir(f"/proc/{pid}/task")), 2)
            _once_a_thread_is_open(monkeypatch, lambda: end_thread(pid))
            eventually(lambda: assert_idle(pid, True))
    finally:
        os.close(asks)
        os.close(answers)


def test_a_process_that_ends_while_its_thread_is_read_is_gone(monkeypatch):
    with subprocess.Popen(["sleep", "1000"]) as process:
        _once_a_thread_is_open(monkeypatch, lambda: end(process))
        with pytest.raises(ProcessLookupError):
            procfile.read(f"/proc/{process.pid}/task/{process.pid}/stat")


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _once_a_thread_is_open(monkeypatch, act: Callable[[], None]) -> None:
    """`act` happens between the opening and the reading of the first file of a thread."""
    acts = [act]

    def open_and_act(path, *arguments, **options):
        file = open(path, *arguments, **options)  # noqa: SIM115 # the caller closes it
        if "/task/" in path and acts:
            acts.pop()()
        return file

    monkeypatch.setattr(procfile, "open", open_and_act, raising=False)


@contextlib.contextmanager
def taking_turns(listening: socket.socket, lock: Path, waits: Callable[[], object]) -> Iterator[int]:
    """The pid of a process that waits in flock for its sibling, which waits as given; as in Net::Server."""

    def take_turn(way: Callable[[], object]) -> None:
        with lock.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            way()

    with waiter.forked(lambda: take_turn(waits)) as first:
        eventually(lambda: assert_waits(first, waiting.Kind.SELECT))
        with waiter.forked(lambda: take_turn(lambda: waiter.in_select(listening))) as second:
            eventually(lambda: assert_waits(second, waiting.Kind.FLOCK))
            yield second


def test_a_process_waiting_in_flock_for_its_turn_is_idle_if_a_sibling_waits_for_a_connection(listening, tmp_path):
    with taking_turns(listening, tmp_path / "lock", lambda: waiter.in_select(listening)) as pid:
        assert_idle(pid, True)
        assert attempt(pid, lambda: tgkill(pid, pid, signal.SIGTERM)) == "sent"
        until(lambda: procfile.stat(pid)[0], b"Z")


def test_the_one_who_has_the_lock_is_seen_while_other_locks_come_and_go(listening, tmp_path):
    def lock_and_unlock() -> None:
        with (tmp_path / "other").open("w") as file:
            while True:
                fcntl.flock(file, fcntl.LOCK_EX)
                fcntl.flock(file, fcntl.LOCK_UN)

    turns = taking_turns(listening, tmp_path / "lock", lambda: waiter.in_select(listening))
    with turns as pid, waiter.forked(lock_and_unlock):
        assert [waiting.idle(pid) for _ in range(200)] == [True] * 200


def test_a_process_waiting_for_a_lock_of_the_application_is_busy(tcp, tmp_path):
    other, partner = socket.socketpair()
    with other, partner, taking_turns(tcp, tmp_path / "lock", lambda: waiter.in_select(other)) as pid:
        assert_idle(pid, False)
        assert attempt(pid, lambda: None, 0.3) == "late"


def test_a_lock_shared_with_a_sibling_is_not_the_lock_it_waits_for(tcp, tmp_path):
    shared = (tmp_path / "shared").open("w")
    other, partner = socket.socketpair()
    fcntl.flock(shared, fcntl.LOCK_SH)  # the children inherit it
    with shared, other, partner, taking_turns(tcp, tmp_path / "lock", lambda: waiter.in_select(other)) as pid:
        assert_idle(pid, False)


def test_a_process_waiting_in_flock_with_a_connection_is_busy(tcp, tmp_path):
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
def test_in_its_own_network_namespace_the_sockets_are_read_there(way):
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
def test_a_process_with_unreadable_memory_is_unknown(tcp, way, monkeypatch):
    def fails(*_where: object) -> bytes:
        raise PermissionError

    with waiter.forked(lambda: waiter.WAYS[way](tcp)) as pid:
        eventually(lambda: assert_idle(pid, True))
        monkeypatch.setattr(waiting, "read_part", fails)
        assert waiting.idle(pid) is None
        monkeypatch.setattr(waiting, "read_part", lambda *_: b"")
        assert waiting.idle(pid) is False  # the memory there is not a set of descriptors


@pytest.fixture
def _yama(monkeypatch):
    only_wchan(monkeypatch)


@pytest.mark.usefixtures("_yama")
@pytest.mark.parametrize(("way", "idle"), [("accept", True), ("epoll", True), ("select", None), ("poll", None)])
def test_with_wchan_alone_epoll_is_recognised_but_not_the_targets_of_select_and_poll(listening, way, idle):
    with waiter.forked(lambda: waiter.WAYS[way](listening)) as pid:
        eventually(lambda: assert_idle(pid, idle))


@pytest.mark.usefixtures("_yama")
@pytest.mark.parametrize("way", ["epoll", "select", "poll"])
def test_with_wchan_alone_a_process_with_a_connection_is_busy(listening, way):
    with waiter.busy(listening, lambda: waiter.WAYS[way](listening)) as pid, waiter.connect(listening):
        until(lambda: place(pid).startswith((b"ep_poll", b"do_epoll_wait", b"poll_schedule_timeout")))
        assert_idle(pid, False)


def place(pid: int) -> bytes:
    """The function of the kernel in which it sleeps."""
    return Path(f"/proc/{pid}/wchan").read_bytes()


# pause() forever, as a 32-bit program calls it.
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
def test_a_32_bit_process_is_not_held_since_its_calls_have_other_numbers(program_32):
    sent: list[int] = []
    with waiter.listen("tcp") as listening, subprocess.Popen([program_32], stdin=listening.fileno()) as process:
        try:
            until(lambda: procfile.stat(process.pid)[0], b"S")
            with pytest.raises(PermissionError):
                waiting.current(process.pid)
            assert Procfs().idle(process.pid) is False
            assert attempt(process.pid, lambda: sent.append(1)) == "untraceable"
            assert not sent
        finally:
            process.kill()


# userfaultfd(2) on x86_64: a page of memory that the kernel waits for until a process fills it.
BLOCKED = """
import ctypes, fcntl, os, select, signal, socket, struct, sys
signal.signal(signal.SIGTERM, lambda *_: None)
libc = ctypes.CDLL(None, use_errno=True)
faults = libc.syscall(323, 0o2000000)
if faults < 0:
    print("refused", flush=True)
    raise SystemExit
fcntl.ioctl(faults, 0xC018AA3F, bytearray(struct.pack("QQQ", 0xAA, 0, 0)))
libc.mmap.restype = ctypes.c_void_p
page = libc.mmap(None, ctypes.c_size_t(4096), 3, 0x22, -1, 0)
fcntl.ioctl(faults, 0xC020AA00, bytearray(struct.pack("QQQQ", page, 4096, 1, 0)))
listening, client, epoll = socket.socket(fileno=int(sys.argv[1])), socket.socket(), select.epoll()
epoll.register(listening, select.EPOLLIN)
client.connect(listening.getsockname())
print("blocks", flush=True)
libc.epoll_wait(epoll.fileno(), ctypes.c_void_p(page), 1, -1)
"""


def blocked(listening: int) -> subprocess.Popen:
    command = [sys.executable, "-c", BLOCKED, str(listening)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, pass_fds=(listening,))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the number of userfaultfd is that of x86_64")
def test_a_worker_that_keeps_its_epoll_locked_does_not_block_the_listener():
    """The kernel holds that lock while it writes to the worker's memory, which may be on a file server that hangs."""
    with socket.create_server(("127.0.0.1", 0)) as listening, blocked(listening.fileno()) as process:
        try:
            if process.stdout.readline() != "blocks\n":
                pytest.skip("this user may not use userfaultfd")
            eventually(lambda: assert_waits(process.pid))
            view = Procfs()
            worker, manager = view.process(process.pid).id, view.process(os.getpid()).id
            began = time.monotonic()
            tried = Attempt(Order(worker, manager, 2, "", "TERM", patience=0.3), view, None, None)
            assert time.monotonic() - began < PROMPTLY
            assert ended(tried).result == "busy"
        finally:
            process.kill()
