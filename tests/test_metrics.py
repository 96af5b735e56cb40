"""The child that keeps the metrics, as a separate process: its port, its file, and hanging clients."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import resource
import socket
import stat
import subprocess
import sys
import threading
import time
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from prometheus_client import generate_latest
from support import stack
from support.driver import assert_in, eventually, repeating, until
from support.messages import event, left, look, reap, row, signalled, watching, worker
from support.metrics import Child, child, ended

from supervisor_memreap import __version__
from supervisor_memreap.core import events
from supervisor_memreap.outputs import exposition
from supervisor_memreap.outputs import metrics as exports
from supervisor_memreap.outputs.tally import Tally

WORKERS = 'memreap_workers{pool="myapp"} 2.0'
# The seconds without a look after which a pool is blind, instead of 125 s.
IMPATIENT = "tally._PERIODS, tally._LATE = 0, 0.5"


def assert_scraped(of: Child, *texts: str, host: str = "127.0.0.1") -> str:
    try:
        got = of.scrape(host)
    except OSError as error:
        raise AssertionError(str(error)) from None
    for text in texts:
        assert_in(text, got)
    return got


def assert_troubles(of: Child, *troubles: str) -> None:
    """These and no others; a trouble begins like this."""
    assert len(of.troubles) == len(troubles), of.troubles
    for actual, expected in zip(of.troubles, troubles):
        assert actual.startswith(expected) if expected else not actual


# What is served.


@pytest.fixture(scope="module")
def metrics() -> Iterator[Child]:
    """Each test has pools with names of its own, and leaves it without trouble."""
    with child() as metrics:
        text = eventually(lambda: assert_scraped(metrics, f'memreap_build_info{{version="{__version__}"}} 1.0'))
        assert "\nmemreap_last_look_timestamp_seconds " not in text
        assert_promtool_accepts(text)
        yield metrics
        assert metrics.troubles == []


def assert_promtool_accepts(text: str) -> None:
    result = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_promtool_accepts_the_metrics(metrics):
    shortage = events.TotalUnreadable("tool", 1.0)
    metrics.takes(look(row("tool"), row('a:b "c" \\ \n é')), *reap(pool="tool"), event(shortage))
    metrics.takes(look(row("tool", total_limit_bytes=1e9)))
    assert_promtool_accepts(eventually(lambda: assert_scraped(metrics, 'memreap_pool_limit_bytes{pool="tool"}')))


def test_the_last_look_and_the_events_are_served(metrics):
    stuck = [{"pid": 7, "age_seconds": 1.0, "note": "stuck"}, {"pid": 8, "age_seconds": 1.0}]
    leak = row("leak", growth_bytes_per_hour=3600 * 5, standing="suspended", suspension={}, due=1, workers=stuck)
    metrics.takes(look(row("leak"), at=5.0), *reap(pool="leak"), left(pool="leak", after=400.0), look(leak, at=6.5))
    expected = """\
workers{pool="leak"} 2.0
due_workers{pool="leak"} 1.0
stuck_workers{pool="leak"} 1.0
worker_limit_bytes{pool="leak"} 1.572864e+08
largest_worker_bytes{pool="leak"} 5.24288e+07
workers_bytes{pool="leak"} 9.437184e+07
growth_bytes_per_second{pool="leak"} 5.0
pool_suspended{pool="leak"} 1.0
pool_paused{pool="leak"} 0.0
pool_blind{pool="leak"} 0.0
pool_info{metric="uss",pool="leak",server="x"} 1.0
reaps_total{pool="leak",reason="limit"} 1.0
reaps_total{pool="leak",reason="unknown"} 1.0
returned_bytes_total{pool="leak"} 4.194304e+08
leave_seconds_bucket{le="0.01",pool="leak"} 0.0
leave_seconds_bucket{le="0.025",pool="leak"} 1.0
leave_seconds_bucket{le="300.0",pool="leak"} 1.0
leave_seconds_bucket{le="+Inf",pool="leak"} 2.0
leave_seconds_count{pool="leak"} 2.0
""".splitlines()
    texts = ["memreap_last_look_timestamp_seconds 6.5", *(f"memreap_{line}" for line in expected)]
    eventually(lambda: assert_scraped(metrics, *texts))


def test_what_is_unknown_is_absent_rather_than_0(metrics):
    unread = row("unread", unreadable_workers=1, standing="blind", growth_bytes_per_hour=None)
    unlimited = row("unlimited", limit_bytes=None)
    metrics.takes(watching("unread", "unlimited", "unseen"), look(unread, unlimited))
    text = eventually(lambda: assert_scraped(metrics, 'memreap_workers{pool="unread"} 2.0'))
    for name in ("largest_worker_bytes", "workers_bytes", "pool_bytes", "growth_bytes_per_second"):
        assert f'memreap_{name}{{pool="unread"}}' not in text
    assert 'memreap_worker_limit_bytes{pool="unlimited"}' not in text
    assert 'memreap_pool_blind{pool="unread"} 1.0' in text
    assert 'memreap_pool_blind{pool="unseen"} 1.0' in text
    assert 'memreap_workers{pool="unseen"}' not in text
    assert 'memreap_reaps_total{pool="unseen",reason="limit"} 0.0' in text


def test_no_series_has_a_pid(metrics):
    held = event(events.CannotHold("pids", 1.0))
    metrics.takes(look(row("pids")), signalled(64738, "pids"), left(64738, "pids"), held)
    text = eventually(lambda: assert_scraped(metrics, 'memreap_reaps_total{pool="pids",reason="limit"} 1.0'))
    assert "64738" not in text
    assert not re.search(r'pid\w*="', text)


def test_a_scrape_may_ask_for_some_metrics_only(metrics):
    metrics.takes(look(row()))
    eventually(lambda: assert_scraped(metrics, WORKERS))
    text = metrics.scrape(query="?name[]=memreap_workers")
    assert [line for line in text.splitlines() if line[0] != "#"] == [WORKERS]


def test_a_listener_that_no_longer_looks_does_not_look_fine():
    with child(first=IMPATIENT) as metrics:
        metrics.takes(look(row()))
        text = eventually(lambda: assert_scraped(metrics, 'memreap_pool_blind{pool="myapp"} 1.0'))
    assert WORKERS not in text
    assert "memreap_last_look_timestamp_seconds 1e+09" in text


# The port.


@pytest.mark.parametrize(("host", "addresses"), [("::1", ["::1"]), ("localhost", ["127.0.0.1", "::1"])])
def test_it_listens_on_the_given_address_only(metrics, host, addresses):
    assert_listens(metrics, ["127.0.0.1"])
    with child(host) as other:
        shown = f"[{host}]" if ":" in host else host
        eventually(lambda: assert_scraped(other, "memreap_pools 0.0", host=shown))
        assert_listens(other, addresses)
        assert other.troubles == []


def assert_listens(of: Child, addresses: list[str]) -> None:
    connections = psutil.Process(of.process.pid).net_connections()
    (listening,) = (each.laddr for each in connections if each.status == psutil.CONN_LISTEN)
    assert listening.port == of.port
    assert listening.ip in addresses


def test_all_of_ipv6_does_not_include_ipv4():
    with child("::") as metrics:
        eventually(lambda: assert_scraped(metrics, "memreap_pools 0.0", host="[::1]"))
        with pytest.raises(urllib.error.URLError, match="refused"):
            metrics.scrape()


def test_a_taken_port_is_reported_once_and_used_when_it_is_free():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with child(port=port, first="metrics._RETRY = 0.1") as metrics:
            trouble = f"cannot listen on 127.0.0.1:{port}: Address already in use: Prometheus cannot scrape this"
            eventually(lambda: assert_troubles(metrics, trouble))
            metrics.takes(look(row()))
            time.sleep(0.5)  # some more attempts
            assert_troubles(metrics, trouble)
            other.close()
            eventually(lambda: assert_scraped(metrics, WORKERS))
            assert_troubles(metrics, trouble, "")


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid", "a..b"])
def test_an_address_that_this_host_lacks_is_reported(host):
    with child(host) as metrics:
        eventually(lambda: assert_troubles(metrics, f"cannot listen on {host}:{metrics.port}: "))


def test_a_port_that_was_just_closed_is_used_at_once():
    port = stack.free_port()
    for _ in range(2):
        with child(port=port) as metrics:
            eventually(lambda: assert_scraped(metrics, "memreap_pools 0.0"))
            assert metrics.troubles == []


@contextlib.contextmanager
def hanging(port: int, count: int, say: bytes = b""):
    with contextlib.ExitStack() as open:
        yield [open.enter_context(hanging_connection(port, say)) for _ in range(count)]


@contextlib.contextmanager
def hanging_connection(port: int, say: bytes):
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        connection.connect(("127.0.0.1", port))
        connection.sendall(say)
        yield connection


def test_hanging_scrapers_block_neither_other_scrapes_nor_messages_nor_the_end():
    """They send half a request, or a whole one without reading the answer."""
    many = [row(f"pool{number}") for number in range(100)]  # more than a socket buffers
    with child(first="scrape.PATIENCE = 60.0") as metrics:
        metrics.takes(look(*many))
        eventually(lambda: assert_scraped(metrics, 'memreap_workers{pool="pool99"} 2.0'))
        half, whole = b"GET /metrics HT", b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"
        with hanging(metrics.port, 20, half), hanging(metrics.port, 20, whole):
            start = time.monotonic()
            metrics.takes(
                look(row()), *(look(row("other", **{f"x{i}": "y" * 1000 for i in range(100)})) for _ in range(50))
            )
            metrics.takes(look(row()))
            eventually(lambda: assert_scraped(metrics, WORKERS))
            assert time.monotonic() - start < 55  # sooner than by the end of their time
            assert psutil.Process(metrics.process.pid).num_threads() < 25
            assert ended(metrics) < 5


def test_a_connection_ends_after_its_time_whatever_it_sends():
    with child(first="scrape.PATIENCE = 0.5") as metrics:
        eventually(lambda: assert_scraped(metrics, "memreap_pools 0.0"))
        with hanging(metrics.port, 3) as connections:
            for connection in connections:
                eventually(lambda connection=connection: assert_closed(connection))
        until(lambda: psutil.Process(metrics.process.pid).num_threads() <= 2)
        assert metrics.troubles == []


def assert_closed(connection: socket.socket) -> None:
    try:
        connection.sendall(b"G")
    except OSError:
        return
    raise AssertionError("it is still open")


def test_garbage_on_the_port_does_no_harm(metrics):
    for say in (b"\0" * 70000, b"GET\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n"):
        with hanging_connection(metrics.port, b"") as connection, contextlib.suppress(OSError):
            connection.sendall(say)
            connection.recv(100)
    with pytest.raises(urllib.error.HTTPError) as refused:
        metrics.scrape(query="/../" + "x" * 70000)
    refused.value.close()
    assert_scraped(metrics, "memreap_build_info")


# The file.


def assert_written(path: Path, *texts: str) -> str:
    assert path.exists()
    for text in texts:
        assert_in(text, path.read_text())
    return path.read_text()


def test_the_file_is_written_after_each_look_world_readable_and_removed_with_the_listener(tmp_path):
    path = tmp_path / "memreap.prom"
    with child("", file=path, first="os.umask(0o077)") as metrics:
        metrics.takes(look(row()))
        eventually(lambda: assert_written(path, WORKERS))
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        metrics.takes(look(row(), at=2e9))
        eventually(lambda: assert_written(path, "memreap_last_look_timestamp_seconds 2e+09"))
        assert list(tmp_path.iterdir()) == [path]
        assert not psutil.Process(metrics.process.pid).net_connections()
        assert ended(metrics) < 5
        assert list(tmp_path.iterdir()) == []
        assert metrics.troubles == []


def test_the_file_has_what_a_scrape_has_whatever_has_changed_since_the_last_look():
    tally, now, odd = Tally(), time.monotonic(), 'b "c" \\ \n# HELP é'
    exposed = exposition.Exposition(tally, threading.Lock())
    registry = exposition.registry(exposed)
    looks = (
        look(row("a"), row(odd)),
        look(row("a"), row(odd), at=9.0),
        look(row("a", due=1), row(odd)),
        look(row("a")),
    )
    shortage = event(events.TotalUnreadable("a", 1.0))
    messages = (watching("a", "unseen"), *looks[:2], *reap(pool=odd), shortage, *looks[2:], watching(), *looks[:1])
    texts = []
    for message in messages:
        tally.take(message, now)
        texts.append(exposed.text())
        assert texts[-1] == exposed.text() == generate_latest(registry)
    assert len({*texts}) > len(looks)
    tally.take(looks[0], now - 1e6)
    assert exposed.text() == generate_latest(registry)
    assert b'memreap_pool_blind{pool="a"} 1.0' in exposed.text()


def test_a_pool_that_is_as_before_is_not_rendered_again(monkeypatch):
    tally, rendered, render = Tally(), [], exposition._text
    monkeypatch.setattr(exposition, "_text", lambda metrics: rendered.append(metrics) or render(metrics))
    exposed = exposition.Exposition(tally, threading.Lock())
    counts = []
    for message in (look(row("a"), row("b")), look(row("a"), row("b"), at=9.0), *reap(pool="b"), look(row("b", due=1))):
        tally.take(message, time.monotonic())
        rendered.clear()
        exposed.text()
        counts.append(len(rendered) - 1)  # that of the listener always is
    assert counts == [3, 0, 1, 1, 1]  # all two and what belongs to no pool


def test_a_reader_always_reads_a_complete_file(tmp_path):
    path = tmp_path / "memreap.prom"
    with child("", file=path) as metrics:
        metrics.takes(look(row()))
        eventually(lambda: assert_written(path))
        versions = set()
        for number in range(200):
            metrics.takes(look(row(), at=number + 0.5))
            text = path.read_text()
            versions.add(text)
            assert text.startswith("# HELP memreap_build_info")
            assert text.endswith('memreap_oom_killed_total{pool=""} 0.0\n')
        assert len(versions) > 1


def test_the_file_of_a_listener_that_no_longer_looks_does_not_look_fine(tmp_path):
    path = tmp_path / "memreap.prom"
    with child("", file=path, first=IMPATIENT) as metrics:
        metrics.takes(look(row()))
        eventually(lambda: assert_written(path, 'memreap_pool_blind{pool="myapp"} 1.0'))

        def assert_looked() -> None:
            metrics.takes(look(row()))
            assert_written(path, 'memreap_pool_blind{pool="myapp"} 0.0')

        eventually(assert_looked)


def test_a_missing_directory_is_reported_once_and_the_file_is_written_when_it_exists(tmp_path):
    path = tmp_path / "later/memreap.prom"
    with child("", file=path) as metrics:
        trouble = f"cannot write {path}: No such file or directory: node_exporter gets nothing; trying again after"
        metrics.takes(look(row()))
        eventually(lambda: assert_troubles(metrics, trouble))
        path.parent.mkdir()
        for at in (2.5, 3.5):
            metrics.takes(look(row(), at=at))
            eventually(lambda at=at: assert_written(path, WORKERS, f"memreap_last_look_timestamp_seconds {at}"))
        eventually(lambda: assert_troubles(metrics, trouble, ""))


def test_a_full_disk_leaves_no_partial_or_stale_file_and_is_reported_until_there_is_room(tmp_path):
    path = tmp_path / "memreap.prom"
    with child("", file=path) as metrics:
        metrics.takes(look(row()))
        eventually(lambda: assert_written(path, WORKERS))
        process = psutil.Process(metrics.process.pid)
        _, hard = process.rlimit(resource.RLIMIT_FSIZE)
        process.rlimit(resource.RLIMIT_FSIZE, (1000, hard))
        metrics.takes(look(row()))
        trouble = f"cannot write {path}: File too large: node_exporter gets nothing"
        eventually(lambda: assert_troubles(metrics, trouble))
        assert list(tmp_path.iterdir()) == []
        process.rlimit(resource.RLIMIT_FSIZE, (hard, hard))
        for at in (2.5, 3.5):
            metrics.takes(look(row(), at=at))
            eventually(lambda at=at: assert_written(path, WORKERS, f"memreap_last_look_timestamp_seconds {at}"))
        eventually(lambda: assert_troubles(metrics, trouble, ""))


@pytest.mark.parametrize("is_free_at_once", [True, False])
def test_a_disk_with_room_for_one_version_is_no_trouble_or_one_line(tmp_path, monkeypatch, is_free_at_once):
    path, told, opened = tmp_path / "memreap.prom", [], os.open
    held: list[bool] = []
    """Whether the version before, also one that has just been removed, still holds its room, at each open."""

    def full(*arguments, **keywords):
        has_room = not path.exists() and (is_free_at_once or not (held and held[-1]))
        held.append(path.exists())
        if not has_room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return opened(*arguments, **keywords)

    file = exports._File(str(path), bytes, exports._Troubles(told.append))
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", full)
        written = [file._write() or path.exists() for _ in range(6)]
    assert written == ([True] * 6 if is_free_at_once else [True, False] * 3)
    trouble = f"cannot write {path}: No space left on device: node_exporter gets nothing; trying again after each look"
    assert told == ([] if is_free_at_once else [{"trouble": trouble}])
    file._write()
    file._write()
    assert told[1:] == ([] if is_free_at_once else [{"trouble": ""}])


def test_a_link_in_place_of_the_new_file_is_never_followed(tmp_path):
    path, precious = tmp_path / "memreap.prom", tmp_path / "precious"
    precious.write_text("mine")
    path.with_name("memreap.prom.new").symlink_to(precious)
    path.symlink_to(precious)
    with child("", file=path) as metrics:
        metrics.takes(look(row()))
        eventually(lambda: assert_written(path, WORKERS))
        assert precious.read_text() == "mine"
        assert not path.is_symlink()


def test_a_file_now_exports_another_memreap_is_left_alone(tmp_path):
    path = tmp_path / "memreap.prom"
    with child("", file=path) as old, child("", file=path) as new:
        old.takes(look(row("old")))
        eventually(lambda: assert_written(path, 'pool="old"'))
        new.takes(look(row("new")))
        eventually(lambda: assert_written(path, 'pool="new"'))
        ended(old)
        assert_written(path, 'pool="new"')
        ended(new)
        assert not path.exists()


def test_a_hanging_disk_blocks_neither_messages_nor_scrapes(tmp_path):
    """A fifo in place of the disk: open blocks forever."""
    path = tmp_path / "memreap.prom"
    os.mkfifo(tmp_path / "fifo")
    hang = f"open_file = os.open; os.open = lambda *_, **__: open_file({str(tmp_path / 'fifo')!r}, os.O_WRONLY)"
    with child(file=path, first=hang) as metrics:
        for number in range(100):
            metrics.takes(look(row(junk="x" * 10000), at=number + 0.5))
        eventually(lambda: assert_scraped(metrics, "memreap_last_look_timestamp_seconds 99.5", WORKERS))
        assert ended(metrics) < 8


# The rest.


def test_problems_of_both_exports_are_reported_together(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port, path = other.getsockname()[1], tmp_path / "later/memreap.prom"
        with child(port=port, file=path, first="metrics._RETRY = 0.1") as metrics:
            eventually(lambda: assert_troubles(metrics, "cannot listen"))
            metrics.takes(look(row()))
            eventually(lambda: assert_troubles(metrics, "cannot listen", "cannot listen"))
            assert "; cannot write " in metrics.troubles[1]
            other.close()
            eventually(lambda: assert_troubles(metrics, "cannot listen", "cannot listen", "cannot write"))


def test_without_prometheus_client_one_line_names_the_package_and_messages_are_accepted(tmp_path):
    lacking = "sys.modules['prometheus_client'] = None; del sys.modules['supervisor_memreap.outputs.scrape']"
    with child(first=lacking) as metrics:
        for _ in range(100):
            metrics.takes(look(row(junk="x" * 10000)))
        eventually(
            lambda: assert_troubles(
                metrics, f"Python's prometheus-client is missing, or older than 0.16: {sys.executable} -m pip"
            )
        )
        assert "'prometheus-client>=0.16'; checking again every 30 s" in metrics.troubles[0]
        assert ended(metrics) < 5


def test_concurrent_messages_and_scrapes_do_not_disturb_each_other(metrics):
    failed = []

    def scrape() -> None:
        try:
            metrics.scrape()
        except OSError as error:
            failed.append(error)

    with repeating(scrape, 4):
        for number in range(300):
            metrics.takes(look(row(f"pool{number % 7}")), *reap(worker().pid, f"pool{number % 7}"))
        eventually(lambda: assert_scraped(metrics, 'memreap_reaps_total{pool="pool5",reason="limit"} 1.0'))
    assert failed == []
