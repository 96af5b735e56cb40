"""The children of the listener that record: the listener never waits for them, and survives their faults."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import socket
import sys
import time

import psutil
import pytest
from support.driver import eventually, stop, until
from support.histories import MIB, left, look, now

from supervisor_memreap.core import events
from supervisor_memreap.core.model import ProcessId
from supervisor_memreap.core.recording import Address, Recording
from supervisor_memreap.core.settings import RECORDING_KEYS, PoolSettings
from supervisor_memreap.history import historyfile
from supervisor_memreap.history.historypath import HistoryError
from supervisor_memreap.listener import slowoutputs
from supervisor_memreap.outputs import child
from supervisor_memreap.outputs.child import Child
from supervisor_memreap.outputs.lasting import Once
from supervisor_memreap.supervisord.configfile import Contents

NOW = now()
OFF = Recording(history=None)


@contextlib.contextmanager
def running(consume, recording=OFF):
    started = Child("test", f"support.consumers:{consume}", recording)
    try:
        yield started
    finally:
        started.close()


def replies(started, count=1):
    """The reports of the child, after `count` messages."""
    received = []

    def assert_reported():
        started.flush()
        received.extend(started.read() or ())
        assert len(received) >= count

    eventually(assert_reported)
    return received


def test_messages_arrive_whole_and_in_order():
    with running("echo") as started:
        sent = [{"number": number, "text": "x" * 100_000} for number in range(30)]
        for message in sent:
            started.send(message, is_event=True)
        assert [reply["got"] for reply in replies(started, 30)] == sent
        assert started.stalled() == 0.0


def test_a_child_has_only_its_two_pipes_and_its_own_name():
    secret, other = os.pipe()

    with running("describe") as started:
        started.send({}, is_event=True)
        (reply,) = replies(started)
    os.close(secret)
    os.close(other)
    assert len(reply["fds"]) == 2
    assert reply["name"] == "memreap test"


def test_a_child_gets_the_settings_and_imports_from_where_the_listener_does_and_nowhere_else(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "json.py").write_text("raise SystemExit('the current directory is imported')")
    monkeypatch.setattr(sys, "path", [*sys.path, "/last"])
    recording = Recording("/h", summary="daily", metrics=Address("::1", 9))
    with running("describe", recording) as started:
        started.send({}, is_event=True)
        (reply,) = replies(started)
    assert reply["path"] == sys.path
    assert reply["recording"] == json.loads(json.dumps(recording))


def test_where_its_python_cannot_be_started_the_reason_is_reported(monkeypatch):
    monkeypatch.setattr(child, "_PYTHON", "/no/python")
    with running("echo") as started:
        (reply,) = replies(started)
        assert reply == {"trouble": "/no/python could not be started: No such file or directory"}
        until(started.read, None)


@pytest.mark.skipif(sys.platform != "linux", reason="the file of a running process can be started there")
@pytest.mark.parametrize("executable", ["/no/python", ""], ids=["removed", "not in PATH"])
def test_a_child_is_the_python_of_the_listener_also_where_its_file_is_not_known(monkeypatch, executable):
    monkeypatch.setattr(sys, "executable", executable)
    with running("echo") as started:
        started.send({}, is_event=True)
        assert replies(started) == [{"got": {}, "more": False}]


@pytest.mark.parametrize("call", ["pipe", "fork"])
def test_a_child_that_cannot_be_made_leaves_no_descriptor(monkeypatch, call):
    calls = [lambda real=os.pipe: real(), None] if call == "pipe" else [None]

    def fails():
        succeeds = calls.pop(0)
        if succeeds:
            return succeeds()
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    before = os.listdir("/dev/fd")
    monkeypatch.setattr(os, call, fails)
    with pytest.raises(OSError, match="Too many open files"):
        Child("test", "support.consumers:echo", OFF)
    assert len(os.listdir("/dev/fd")) == len(before)


def test_messages_waiting_for_a_working_child_are_delivered_before_the_end():
    started = Child("test", "support.consumers:count", OFF)
    assert replies(started) == [{"begun": True}]
    stop(started._pid)
    for _ in range(10):
        started.send({"kind": "look", "text": "x" * 100_000}, is_event=False)
    started.send({"kind": "event"}, is_event=True)
    waits = started.wants() is not None
    os.kill(started._pid, signal.SIGCONT)
    read = []
    started.read = lambda: read.append(Child.read(started)) or read[-1]
    started.close()
    assert waits
    assert {"kinds": 11} in [message for part in read for message in part or ()]


def test_a_child_works_where_the_listener_has_a_thousand_descriptors():
    with contextlib.ExitStack() as open_:
        for _ in range(1030):
            open_.enter_context(open(os.devnull))
        started = Child("test", "support.consumers:echo", OFF)
        try:
            started.send({"kind": "event"}, is_event=True)
            (reply,) = replies(started)
            assert reply == {"got": {"kind": "event"}, "more": False}
        finally:
            started.close()


def test_a_metrics_child_that_starts_later_knows_the_watched_pools(listener, monkeypatch):
    got = []
    monkeypatch.setattr(slowoutputs.Child, "send", lambda _self, message, is_event: got.append(message))
    listener.outputs.apply(OFF, Contents())
    listener.outputs.take(events.Watching("", 1.0, (("myapp", PoolSettings()),)))
    listener.outputs.apply(Recording(history=None, metrics=Address("127.0.0.1", 1)), Contents())
    assert [(message["event"], message["pools"][0][0]) for message in got[1:]] == [("watching", "myapp")]


def test_a_child_that_reads_nothing_is_never_waited_for_and_loses_looks_before_events():
    started = Child("test", "support.consumers:hang", OFF)
    pid = started._pid
    try:
        began = time.monotonic()
        for _ in range(100):
            started.send({"kind": "look", "text": "x" * 100_000}, is_event=False)
        lost = started.lost
        assert lost > 70
        started.send({"kind": "event"}, is_event=True)
        assert started.lost == lost
        for _ in range(100):
            started.send({"kind": "event", "text": "x" * 100_000}, is_event=True)
        assert started.lost > lost + 70
        assert time.monotonic() - began < 5
        assert started.stalled() > 0.0
        began = time.monotonic()
        started.close()
        assert time.monotonic() - began < 5
        assert psutil.pid_exists(pid)  # as one that waits for a disk, it ends when that is back
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_child_ends_with_the_listener_after_finishing_its_work():
    started = Child("test", "support.consumers:slow", OFF)
    pid = started._pid
    assert replies(started) == [{"begun": True}]
    os.kill(pid, signal.SIGTERM)  # as with stopasgroup, where it gets what the listener gets
    started.send({}, is_event=True)
    started.close()
    assert not psutil.pid_exists(pid)


def test_an_error_in_a_child_is_reported_with_its_place():
    with running("broken") as started:
        (reply,) = replies(started)
        assert reply["trouble"].startswith("internal error, please report it: KeyError('x') at consumers.py:")
        until(started.read, None)


class Listener:
    """The slow outputs of a listener, and its loop."""

    def __init__(self):
        self.log = []
        self.once = Once(self.log.append)
        self.outputs = slowoutputs.SlowOutputs(self.log.append, self.once)

    def tries_again_at_once(self):
        history = self.outputs._history
        history._kind = history._kind._replace(consume="support.consumers:history_that_tries_again_at_once")

    def loop(self):
        self.outputs.wake(self.outputs.fds())

    def look(self, workers=None):
        rows = look(time.time(), workers or {11: 100})["pools"]
        self.outputs.look(self.outputs.with_totals(rows), 5)
        self.loop()

    def texts(self):
        return [event.text for event in self.log]


@pytest.fixture
def listener(monkeypatch):
    monkeypatch.setattr(slowoutputs, "_EARLY", 60.0)  # each look is recorded
    listener = Listener()
    yield listener
    listener.outputs.close()


def history(path):
    return Recording(history=str(path))


def left_event(pid=11):
    return events.Left(
        "myapp", time.time(), ProcessId(pid, 1.0), 0.4, None, 100 * MIB, 5 * MIB, used=100 * MIB, metric="uss"
    )


def test_the_listener_records_and_its_counters_continue_after_a_restart(listener, tmp_path):
    path = tmp_path / "h.sqlite"
    listener.outputs.apply(history(path), Contents())
    listener.look()
    listener.outputs.take(left_event())
    listener.outputs.close()
    eventually(lambda: assert_readings(path, 1))
    (recorded,) = historyfile.load(str(path))
    assert (len(recorded.readings), recorded.reaps) == (1, 1)

    second = Listener()
    second.outputs.apply(history(path), Contents())
    second.outputs.take(left_event(pid=12))
    (row,) = second.outputs.with_totals([{"name": "myapp", "reaps": 1, "given_back_bytes": 95 * MIB}])
    assert row == {"name": "myapp"}, "not 1: the earlier ones are not known yet"

    def assert_counted():
        second.look()
        (row,) = second.outputs.with_totals([{"name": "myapp"}])
        assert row == {
            "name": "myapp",
            "reaps": 2,
            "given_back_bytes": 190 * MIB,
            "counted_since": int(recorded.since),
        }

    try:
        assert not second.outputs.has_new_totals()
        eventually(assert_counted)
        assert [second.outputs.has_new_totals() for _ in range(2)] == [True, False]
    finally:
        second.outputs.close()
    assert second.log == []


def test_without_a_history_the_counters_start_with_the_listener(listener):
    listener.outputs.apply(OFF, Contents())
    listener.outputs.take(left_event())
    (row,) = listener.outputs.with_totals([{"name": "myapp"}])
    assert (row["reaps"], row["given_back_bytes"]) == (1, 95 * MIB)
    assert abs(row["counted_since"] - time.time()) < 60
    assert not listener.outputs.want_a_look()


def test_a_loss_of_entries_is_one_line_after_the_rest_is_written_and_then_cleared(listener, tmp_path):
    listener.outputs.apply(history(tmp_path / "h.sqlite"), Contents())
    listener.look()
    child = listener.outputs._history.child
    child.lost = 3

    def assert_reported():
        listener.look()
        assert listener.texts() != []

    eventually(assert_reported)
    listener.look()
    assert listener.texts() == [
        "history: some entries were dropped: the recorder fell behind (reaping does not depend on this)"
    ]
    assert listener.once.lasting("warnings") == []


def test_a_change_of_the_setting_takes_effect_at_once(listener, tmp_path):
    for name in ("a", "b"):
        listener.outputs.apply(history(tmp_path / name), Contents())
        listener.look()
    listener.outputs.apply(OFF, Contents())
    listener.look()
    for name in ("a", "b"):  # their children write on for a moment
        eventually(lambda: assert_readings(tmp_path / name, 1))  # noqa: B023
    assert not listener.outputs.want_a_look()


def test_a_problem_with_a_setting_is_cleared_only_by_a_change_of_that_setting(listener, tmp_path):
    def assert_lasting(*texts):
        listener.look()
        lasting = sorted(listener.once.lasting("warnings"))
        assert len(lasting) == len(texts)
        assert all(text in line for text, line in zip(texts, lasting))

    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as other:
        port, free = taken.getsockname()[1], other.getsockname()[1]
        other.close()
        wrong = Recording(history=f"{tmp_path}/no/h.sqlite", metrics=Address("127.0.0.1", port))
        listener.outputs.apply(wrong, Contents())
        eventually(lambda: assert_lasting("h.sqlite", f"cannot listen on 127.0.0.1:{port}"))
        listener.outputs.apply(wrong._replace(metrics=Address("127.0.0.1", free)), Contents())
        for _ in range(2):
            assert_lasting("h.sqlite")
        assert listener.texts()[-1] == "metrics: export resumed"
        listener.outputs.apply(OFF, Contents())
        assert_lasting()


def test_a_problem_with_the_history_is_one_line_however_often_it_is_tried(listener, tmp_path):
    listener.tries_again_at_once()
    listener.outputs.apply(history(tmp_path / "no/h.sqlite"), Contents())

    def assert_reported():
        listener.look()
        assert listener.texts() != []

    eventually(assert_reported)
    for _ in range(20):
        listener.look()
    assert listener.texts() == [
        f"history: {tmp_path}/no/h.sqlite: No such file or directory; trying again every 0 s"
        " (reaping does not depend on this)"
    ]


def test_without_a_log_file_of_supervisord_one_line_asks_for_a_path(listener):
    listener.outputs.apply(Recording(), Contents(logfile="/dev/stdout"))
    for _ in range(3):
        listener.look()
    (line,) = listener.texts()
    assert "supervisord does not log to a file (/dev/stdout): set history=PATH in [memreap], or off" in line


def test_a_killed_child_is_restarted_and_reported_in_one_line(listener, tmp_path, monkeypatch):
    path = tmp_path / "h.sqlite"
    listener.outputs.apply(history(path), Contents())
    listener.look()
    started = listener.outputs._history.child
    eventually(lambda: assert_readings(path, 1))
    os.kill(started._pid, signal.SIGKILL)

    def assert_reported():
        listener.look()
        assert [type(event) for event in listener.log] == [events.NotRecorded]

    eventually(assert_reported)
    assert "its process ended; restarting it in 30 s" in listener.texts()[0]
    monkeypatch.setattr(slowoutputs, "_RESTART", 0.0)
    listener.look({11: 200})  # with TICK_3600, the next one is an hour away

    def assert_recorded():
        (recorded,) = historyfile.load(str(path))
        assert recorded.readings[-1].total == 200 * MIB  # perhaps in the same second as the first

    eventually(assert_recorded)


def test_a_child_that_was_killed_is_one_line_also_after_an_earlier_trouble_that_is_over(listener, tmp_path):
    listener.tries_again_at_once()
    listener.outputs.apply(history(tmp_path / "later/h.sqlite"), Contents())

    def assert_reported(count, text):
        listener.look()
        assert len(listener.texts()) == count
        assert text in listener.texts()[-1]

    eventually(lambda: assert_reported(1, "No such file or directory"))
    (tmp_path / "later").mkdir()
    eventually(lambda: assert_reported(2, "recording resumed"))
    os.kill(listener.outputs._history.child._pid, signal.SIGKILL)
    eventually(lambda: assert_reported(3, "its process ended; restarting it in 30 s"))


def assert_readings(path, count):
    try:
        (recorded,) = historyfile.load(str(path)) or (None,)
    except HistoryError as error:
        raise AssertionError(str(error)) from None
    assert recorded
    assert len(recorded.readings) >= count


def test_a_hanging_disk_is_one_line_and_delays_no_look(listener, tmp_path, monkeypatch):
    monkeypatch.setattr(child, "PATIENCE", 0.0)
    listener.outputs.apply(history(tmp_path / "h.sqlite"), Contents())
    started = listener.outputs._history.child
    os.kill(started._pid, signal.SIGSTOP)  # its state while it waits for a disk
    try:
        for _ in range(5):
            listener.look(dict.fromkeys(range(1000), 100))
        (line,) = listener.texts()
        assert "the disk may be hanging" in line
    finally:
        os.kill(started._pid, signal.SIGCONT)

    def assert_written():
        listener.loop()
        assert_readings(tmp_path / "h.sqlite", 1)

    eventually(assert_written)


def test_an_error_in_recording_is_one_line_and_affects_nothing_else(listener, tmp_path, monkeypatch):
    listener.outputs.apply(history(tmp_path / "h.sqlite"), Contents())

    def broken(_event):
        raise KeyError("x")

    monkeypatch.setattr("supervisor_memreap.outputs.fields.of", broken)
    for _ in range(3):
        listener.outputs.take(left_event())
        listener.look()
    (line,) = listener.texts()
    assert "internal error, please report it: KeyError('x')" in line


def test_a_failed_fork_is_one_line_and_tried_again(listener, tmp_path, monkeypatch):
    def refuse():
        raise BlockingIOError(11, "Resource temporarily unavailable")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fork", refuse)
        listener.outputs.apply(history(tmp_path / "h.sqlite"), Contents())
        listener.look()
    assert "no process could be started: Resource temporarily unavailable" in listener.texts()[0]
    monkeypatch.setattr(slowoutputs, "_RESTART", 0.0)
    listener.look()
    listener.look()
    eventually(lambda: assert_readings(tmp_path / "h.sqlite", 1))


def test_an_earlier_event_is_recorded_unchanged(tmp_path):
    """The messages of the tests are those of the listener."""
    assert {"kind", "name", "came_back", "taken", "metric", "pid", "at", "pool"} <= set(left(NOW))


def test_each_output_is_started_and_each_setting_of_one_restarts_it():
    kinds = slowoutputs._KINDS
    # `log` is of the listener's own log.
    assert {key for kind in kinds for key in kind.keys} == set(RECORDING_KEYS) - {"log"}
    assert all(set(kind.wanted_by) <= set(kind.keys) for kind in kinds)
    assert sorted(map(str, (kind.over for kind in kinds))) == sorted(map(str, events.OutputWorks.__subclasses__()))
