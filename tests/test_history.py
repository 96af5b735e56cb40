"""The history: recorded data is read back, whatever happens to its file; and the file stays within its size."""

from __future__ import annotations

import os
import re
import sqlite3
import stat
import subprocess
from contextlib import closing

import pytest
from support import stack
from support.histories import MIB, Messages, left, look, now, signalled
from test_core_events import EXAMPLES

from supervisor_memreap.core import events
from supervisor_memreap.core.recording import Recording
from supervisor_memreap.history import historyfile, historywriter
from supervisor_memreap.history.historyfile import Writer
from supervisor_memreap.history.historypath import HistoryError, default_path
from supervisor_memreap.outputs import fields
from supervisor_memreap.supervisord import mainlog
from supervisor_memreap.supervisord.configfile import Contents
from supervisor_memreap.supervisord.mainlog import MainLog

NOW = now()
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to another user")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "memreap.sqlite"


@pytest.fixture(autouse=True)
def no_test_waits(monkeypatch):
    """Half a minute for the next try."""
    monkeypatch.setattr(historywriter, "RETRY", 0.0)
    monkeypatch.setattr(historywriter, "HANDOVER", 0.0)
    monkeypatch.setattr(os, "nice", lambda _: 0)


def record(path, messages, size=64 * MIB, **options):
    reported = []
    recording = Recording(history=str(path), history_size=size)
    historywriter.consume(Messages(messages, **options), reported.append, recording)
    return reported


def troubles(reported):
    return [
        message[key].removesuffix("; trying again every 0 s")
        for message in reported
        for key in ("trouble", "note")
        if key in message
    ]


def test_pools_workers_and_events_are_read_as_recorded(path):
    reported = record(
        path,
        [
            look(NOW, {11: 100, 12: 40}, ages={11: 600, 12: 60}),
            signalled(NOW + 30),
            left(NOW + 31),
            look(NOW + 60, {12: 41, 13: 20}, ages={12: 120, 13: 29}),
        ],
    )
    (history,) = historyfile.load(str(path))
    assert (history.name, history.metric, history.since) == ("myapp", "uss", NOW)
    assert [tuple(reading) for reading in history.readings] == [
        (NOW, 2, 150 * MIB, 140 * MIB, 100 * MIB),
        (NOW + 60, 2, 150 * MIB, 61 * MIB, 41 * MIB),
    ]
    assert [(each.pid, each.started, each.was_reaped) for each in history.workers] == [
        (11, NOW - 600, True),
        (12, NOW - 60, False),
        (13, NOW + 31, False),
    ]
    assert history.workers[1].readings == ((NOW, 40 * MIB), (NOW + 60, 41 * MIB))
    assert [(event.name, event.pid, event.at) for event in history.events] == [
        ("Signalled", 11, NOW + 30),
        ("Left", 11, NOW + 31),
    ]
    assert history.events[1].values["came_back"] == 100 * MIB
    assert (history.reaps, history.freed) == (1, 95 * MIB)
    assert troubles(reported) == []


def test_the_counters_continue_with_the_next_listener(path):
    record(path, [look(NOW, {11: 100}), left(NOW + 1), left(NOW + 2, pid=12)])
    assert record(path, [look(NOW + 60, {13: 20})])[0] == {
        "totals": {"myapp": {"since": NOW, "reaps": 2, "returned": 190 * MIB}}
    }


def test_a_worker_is_recognised_after_a_restart_of_the_listener_and_its_pid_may_be_reused(path):
    record(path, [look(NOW, {11: 100}, ages={11: 600})])
    record(path, [look(NOW + 60, {11: 101}, ages={11: 661}), look(NOW + 120, {11: 20}, ages={11: 10})])
    (history,) = historyfile.load(str(path))
    assert [(each.started, len(each.readings)) for each in history.workers] == [(NOW - 600, 2), (NOW + 110, 1)]


def test_another_metric_starts_over_and_the_counters_continue(path):
    record(path, [look(NOW, {11: 100}), left(NOW + 1)])
    record(path, [look(NOW + 60 * number, {12: 200}, metric="rss") for number in (1, 2, 3)])
    (history,) = historyfile.load(str(path))
    assert (history.metric, [each.largest for each in history.readings]) == ("rss", [200 * MIB])
    assert ([each.pid for each in history.workers], history.reaps) == ([12], 1)


def test_another_metric_at_two_looks_as_in_a_half_written_file_removes_nothing(path):
    record(path, [look(NOW, {11: 100}), *(look(NOW + number, {11: 200}, metric="rss") for number in (1, 2))])
    record(path, [look(NOW + 60, {11: 101}), left(NOW + 61), look(NOW + 120, {12: 300}, metric="rss")])
    (history,) = historyfile.load(str(path))
    assert (history.metric, [each.largest for each in history.readings]) == ("uss", [100 * MIB, 101 * MIB])


@pytest.mark.parametrize("number", [50, 1])
def test_new_data_without_room_replaces_older_data(path, number):
    """A backlog of looks at many workers, or a single one at very many."""
    many = dict.fromkeys(range(1000, 1000 + (1000 if number > 1 else 6000)), 50.0)
    older = [look(NOW - 6000 + each, dict.fromkeys(range(100, 200), 50.0), name="old") for each in range(900)]
    reported = record(path, [*older, *(look(NOW + each, many) for each in range(number))], size=4 * MIB, at_once=10_000)
    assert troubles(reported) == []
    newest = historyfile.load(str(path))[0]
    assert (newest.name, newest.readings[-1].at) == ("myapp", NOW + number - 1)


def test_an_entry_that_never_fits_is_dropped_and_the_rest_is_written(path):
    huge = look(NOW + 1, dict.fromkeys(range(1000, 18000), 50.0))
    reported = record(path, [look(NOW, {11: 100}), huge, look(NOW + 2, {11: 102})], size=MIB, at_once=100)
    assert troubles(reported) == ["an entry is too large for history_size= and was not recorded"]
    assert historyfile.load(str(path))[0].readings[-1].at == NOW + 2


def test_an_entry_that_causes_an_internal_error_is_dropped_and_the_rest_is_written(path):
    reported = record(path, [look(NOW, {11: 100}), look(NOW + 1, {11: 101}, name="\udc80"), look(NOW + 2, {11: 102})])
    (trouble,) = troubles(reported)
    assert trouble.startswith("internal error, please report it: UnicodeEncodeError")
    assert len(historyfile.load(str(path))[0].readings) == 2


def test_unread_workers_count_as_average(path):
    message = look(NOW, {11: 100, 12: 40})
    message["pools"][0]["workers"].append({"pid": 13, "age_seconds": 5.0})
    record(path, [message])
    assert historyfile.load(str(path))[0].readings[0].total == 210 * MIB


def test_old_readings_are_thinned_and_the_oldest_removed_but_the_peak_and_counters_kept(path):
    begin = NOW - 40 * 86400
    looks = [look(begin + hour * 3600, {1: 10}) for hour in range(24)]
    begin = (NOW - 3 * 86400) // 900 * 900
    looks += [look(begin + 60 * minute, {2: 20 + minute % 7, 3: 1}) for minute in range(30)]
    looks += [look(NOW - 600 + 60 * minute, {4: 30}) for minute in range(10)]
    record(path, [*looks, left(NOW - 40 * 86400)])
    (history,) = historyfile.load(str(path))
    assert len(history.readings) == len(looks) - 1  # a writer thins when it begins
    record(path, [look(NOW, {4: 31})])
    (history,) = historyfile.load(str(path))
    assert [each.at for each in history.readings if each.at < NOW - 600] == [begin + 14 * 60, begin + 29 * 60]
    assert [each.largest for each in history.readings if each.at < NOW - 600] == [26 * MIB, 26 * MIB]
    assert len([each for each in history.readings if each.at >= NOW - 600]) == 11
    assert {each.pid: len(each.readings) for each in history.workers} == {2: 2, 3: 2, 4: 11}
    assert (history.events, history.reaps) == ((), 1)


def test_the_file_stays_within_its_size_and_the_newest_data_stays(path):
    size = MIB
    sizes = []

    def messages():
        for minute in range(1000):
            yield look(NOW - 60000 + 60 * minute, dict.fromkeys(range(50), 50 + minute % 50))
            if minute % 25 == 0:
                yield left(NOW - 60000 + 60 * minute)
                sizes.append(path.stat().st_size if path.exists() else 0)

    reported = record(path, messages(), size, at_once=20)
    (history,) = historyfile.load(str(path))
    assert troubles(reported) == []
    assert max(sizes) < size
    assert history.readings[-1].at == NOW - 60
    assert history.readings[0].at > NOW - 60000 + 3600
    assert history.reaps == 40


def test_a_month_of_ten_workers_takes_as_much_space_as_the_page_says(path):
    """A reading each 15 minutes, of the last 25 hours each minute."""
    times = [*range(-31 * 86400, -25 * 3600, 900), *range(-25 * 3600, 0, 60)]
    with closing(historyfile.Writer(str(path), 64 * MIB)) as file:
        file.db.execute("BEGIN")
        rows = ((int(NOW) + at, worker, 51200 + at % 9973) for at in times for worker in range(100, 110))
        file.db.executemany("INSERT INTO worker_reading VALUES (?, ?, ?)", rows)
        pools = ((1, int(NOW) + at, 10, 157286400, 524288000 + at, 52428800 - at) for at in times)
        file.db.executemany("INSERT INTO reading VALUES (?, ?, ?, ?, ?, ?)", pools)
        file.db.execute("COMMIT")
    (said,) = re.findall(r"pool of 10 workers takes ([0-9.]+) MB", (stack.ROOT / "docs/history.md").read_text())
    assert path.stat().st_size / 1e6 == pytest.approx(float(said), rel=0.25)


def test_a_replaced_worker_takes_as_much_space_as_the_page_says(path):
    """Its signal, that it left, and that another one has settled in its place."""
    first: dict[type, events.Event] = {}
    for event, _ in EXAMPLES:
        first.setdefault(type(event), event)
    reap = [{"kind": "event", **fields.of(first[kind])} for kind in (events.Signalled, events.Left, events.Settled)]
    record(path, reap * 2000, at_once=300)
    (said,) = re.findall(r"a replaced worker ([0-9.]+) kB", (stack.ROOT / "docs/history.md").read_text())
    assert path.stat().st_size / 2000 / 1e3 == pytest.approx(float(said), rel=0.25)


def test_a_smaller_size_makes_an_existing_file_smaller(path):
    record(path, [look(NOW - 90000 + 60 * minute, dict.fromkeys(range(50), 50)) for minute in range(1500)], at_once=50)
    assert path.stat().st_size > MIB
    record(path, [look(NOW, {1: 50})], size=MIB)
    assert path.stat().st_size < MIB
    assert historyfile.load(str(path))[0].readings[-1].at == NOW


def test_waiting_events_are_written_when_the_directory_is_back(path):
    path = path.parent / "later/memreap.sqlite"
    seen = []

    def mend():
        seen.append(path.parent.exists())
        if len(seen) == 3:
            path.parent.mkdir()

    messages = [left(NOW + number) for number in range(5)]
    reported = record(path, messages, between=mend)
    assert troubles(reported) == [f"{path}: No such file or directory", ""]
    (history,) = historyfile.load(str(path))
    assert (len(history.events), history.reaps) == (5, 5)


def test_a_full_disk_is_one_line_and_no_event_is_lost(path):
    """SQLite reports a full disk and a file that has reached its maximum in the same way."""
    record(path, [look(NOW, {11: 100})])
    pages = []

    def fill(writer):
        prepare(writer)
        (used,) = writer.db.execute("PRAGMA page_count").fetchone()
        pages.append(used)
        if len(pages) < 4:
            writer.db.execute(f"PRAGMA max_page_count = {used}")

    prepare = Writer._prepare
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Writer, "_prepare", fill)
        messages = [left(NOW + number, pid=number) for number in range(200)]
        reported = record(path, messages, at_once=20)
    assert troubles(reported) == [f"{path}: database or disk is full", ""]
    assert historyfile.load(str(path))[0].reaps == 200


def test_a_read_only_file_system_is_one_line(path, monkeypatch):
    def refuse(*_arguments, **_options):
        raise OSError(30, "Read-only file system")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", refuse)
        reported = record(path, [look(NOW, {11: 1}), look(NOW, {11: 1})])
    assert troubles(reported) == [f"{path}: Read-only file system"]


@pytest.mark.parametrize("damage", [lambda data: data[:100] + b"x" * 8000 + data[8100:], lambda data: data[:5000]])
def test_a_damaged_history_is_kept_and_a_new_one_started(path, damage):
    record(path, [look(NOW, dict.fromkeys(range(300), 50)), left(NOW)])
    path.write_bytes(damage(path.read_bytes()))
    reported = record(path, [look(NOW + 60, {11: 1}), look(NOW + 120, {11: 1})])
    (line,) = [trouble for trouble in troubles(reported) if trouble]
    assert line.endswith(f"it was kept as {path}.damaged, and a new history was started")
    assert (path.parent / "memreap.sqlite.damaged").exists()
    assert historyfile.load(str(path))[0].readings[-1].at == NOW + 120


@pytest.mark.parametrize("content", [b"root:x:0:0:root:/root:/bin/bash\n", b"SQLite format 3\0" + bytes(200)])
def test_a_file_of_another_user_is_not_touched(path, content):
    path.write_bytes(content)
    reported = record(path, [look(NOW, {11: 1}), look(NOW, {11: 1})])
    assert troubles(reported) == [f"{path}: not a memreap history; set history=PATH in [memreap] to another file"]
    assert path.read_bytes() == content
    with pytest.raises(HistoryError, match="not a memreap history"):
        historyfile.load(str(path))


def test_a_database_of_another_program_is_not_touched(path):
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE mine (x)")
    before = path.read_bytes()
    assert "not a memreap history" in troubles(record(path, [look(NOW, {11: 1})]))[0]
    assert path.read_bytes() == before


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_an_irregular_file_is_refused_at_once(path, make):
    make(path)
    assert troubles(record(path, [look(NOW, {11: 1})]))[0].startswith(f"{path}: ")


def test_a_link_is_not_followed(path):
    target = path.parent / "target"
    path.symlink_to(target)
    assert f"{path} is a symbolic link: set history=PATH" in troubles(record(path, [look(NOW, {11: 1})]))[0]
    assert not target.exists()


def test_no_history_is_written_where_every_user_may_create_files(path):
    path.parent.chmod(0o1777)
    assert f"{path.parent} is writable by every user: set history=" in troubles(record(path, [look(NOW, {11: 1})]))[0]
    assert not path.exists()


@needs_root
@pytest.mark.parametrize("whose", ["directory", "file"])
def test_no_history_is_written_to_the_directory_or_file_of_another_user_but_root_can_read_it(path, whose):
    record(path, [look(NOW, {11: 1})])
    theirs = {"directory": path.parent, "file": path}[whose]
    os.chown(theirs, 12345, 12345)
    (trouble,) = troubles(record(path, [look(NOW + 60, {11: 2})]))
    assert f"{theirs} belongs to another user: set history=" in trouble
    assert len(historyfile.load(str(path))[0].readings) == 1


@needs_root
def test_root_removes_nothing_in_the_directory_of_another_user(path):
    record(path, [look(NOW, {11: 100})])
    end_in_the_middle(path)
    before = path.read_bytes()
    os.chown(path.parent, 12345, 12345)
    with pytest.raises(HistoryError, match="try again when the listener has written to it"):
        historyfile.load(str(path))
    assert path.read_bytes() == before


def test_a_fifo_in_place_of_the_history_does_not_block_readers(path):
    os.mkfifo(path)
    with pytest.raises(HistoryError, match="not a memreap history"):
        historyfile.load(str(path))


def test_a_reap_is_recorded_even_if_the_writer_has_not_seen_the_pool(path):
    """It was restarted, or its transaction was rolled back."""
    record(path, [look(NOW, {11: 100})])
    record(path, [signalled(NOW + 1)])
    (history,) = historyfile.load(str(path))
    assert [worker.was_reaped for worker in history.workers] == [True]


def test_two_listeners_do_not_write_to_one_file(path):
    first = Writer(str(path), 64 * MIB)
    try:
        reported = record(path, [look(NOW, {11: 1}), look(NOW, {11: 1})])
    finally:
        first.close()
    assert troubles(reported) == [
        f"{path}: another memreap writes to it; set another history=PATH in [memreap] for this supervisord"
    ]
    assert troubles(record(path, [look(NOW, {11: 1})])) == []


def test_the_previous_writer_is_waited_for_silently(path, monkeypatch):
    monkeypatch.setattr(historywriter, "HANDOVER", 1000.0)
    first = Writer(str(path), 64 * MIB)
    reported = record(path, [look(NOW, {11: 1})])
    first.close()
    assert troubles(reported) == []


def test_the_rest_is_written_once_the_previous_writer_has_ended(path, monkeypatch):
    monkeypatch.setattr(historywriter, "HANDOVER", 1000.0)
    first = Writer(str(path), 64 * MIB)
    waits = []

    class Quiet(Messages):
        def has_more(self, timeout=0.0):
            waits.append(timeout)
            if len(waits) == 3:
                first.close()
            return False

    reported = []
    historywriter.consume(Quiet([look(NOW, {11: 1})]), reported.append, Recording(history=str(path)))
    assert troubles(reported) == []
    assert len(historyfile.load(str(path))[0].readings) == 1
    assert waits[0] == 0
    assert all(wait <= 1 for wait in waits)


def test_a_file_that_cannot_be_written_is_reported_at_once(tmp_path, monkeypatch):
    """Only what another memreap has is waited for."""
    monkeypatch.setattr(historywriter, "HANDOVER", 1000.0)
    (trouble,) = troubles(record(tmp_path / "no/h.sqlite", [look(NOW, {11: 1})]))
    assert "No such file or directory" in trouble


def test_a_history_written_by_a_newer_memreap_is_not_touched(path):
    record(path, [look(NOW, {11: 1})])
    with sqlite3.connect(path) as database:
        database.execute(f"PRAGMA user_version = {historyfile.SCHEMA + 1}")
    before = path.read_bytes()
    (trouble,) = troubles(record(path, [look(NOW, {11: 1}), look(NOW, {11: 1})]))
    assert f"written by a newer memreap (schema {historyfile.SCHEMA + 1}" in trouble
    assert path.read_bytes() == before
    with pytest.raises(HistoryError, match="upgrade memreap"):
        historyfile.load(str(path))


def test_a_history_of_an_older_schema_is_upgraded_with_all_its_data(path, monkeypatch):
    record(path, [look(NOW, {11: 100}), left(NOW)])
    newer = (*historyfile._SCHEMAS, "ALTER TABLE pool ADD COLUMN note TEXT;")
    monkeypatch.setattr(historyfile, "_SCHEMAS", newer)
    monkeypatch.setattr(historyfile, "SCHEMA", len(newer))
    assert troubles(record(path, [look(NOW + 60, {11: 101})])) == []
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT name, reaps, note FROM pool").fetchall() == [("myapp", 1, None)]
        assert database.execute("PRAGMA user_version").fetchone() == (len(newer),)


def test_an_upgrade_that_fails_leaves_the_older_schema(path, monkeypatch):
    record(path, [look(NOW, {11: 100})])
    broken = (*historyfile._SCHEMAS, "ALTER TABLE pool ADD COLUMN note TEXT; CREATE TABLE pool (x);")
    with monkeypatch.context() as patch:
        patch.setattr(historyfile, "_SCHEMAS", broken)
        patch.setattr(historyfile, "SCHEMA", len(broken))
        assert "pool already exists" in troubles(record(path, [look(NOW, {11: 1})]))[0]
    assert len(historyfile.load(str(path))[0].readings) == 1


def end_in_the_middle(path) -> None:
    """A writer is killed while it writes."""
    child = os.fork()
    if child == 0:
        try:
            writer = Writer(str(path), 64 * MIB)
            writer.db.execute("PRAGMA cache_size = 1")  # so that it must write before it commits
            writer.db.execute("BEGIN IMMEDIATE")
            for number in range(50_000):
                writer.db.execute("INSERT INTO worker_reading VALUES (1, ?, 1)", (number,))
            os.kill(os.getpid(), 9)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -9
    assert os.path.getsize(f"{path}-journal") > 0


def test_a_writer_killed_while_writing_leaves_the_earlier_data(path):
    record(path, [look(NOW, {11: 100})])
    end_in_the_middle(path)
    assert len(historyfile.load(str(path))[0].readings) == 1
    assert troubles(record(path, [look(NOW + 60, {11: 100})])) == []
    assert len(historyfile.load(str(path))[0].readings) == 2


def test_a_missing_history_is_reported_in_one_line(path):
    with pytest.raises(HistoryError, match="no history yet"):
        historyfile.load(str(path))


def test_only_the_requested_data_is_read(path):
    record(path, [look(NOW - 7200, {11: 1}), look(NOW, {11: 2}), left(NOW - 7200), left(NOW)])
    (history,) = historyfile.load(str(path), NOW - 3600)
    # What an old event began may still last.
    assert (len(history.readings), len(history.events), len(history.workers[0].readings)) == (1, 2, 1)
    assert (history.since, history.reaps) == (NOW - 7200, 2)


def test_the_default_is_beside_the_log_of_supervisord(tmp_path):
    for log in (f"{tmp_path}/supervisord.log", "/"), ("supervisord.log", str(tmp_path)):
        assert default_path(MainLog(*log, None)) == f"{tmp_path}/memreap.sqlite"


@pytest.mark.parametrize("logfile", ["/dev/stdout", "syslog", "/dev/null", "/nowhere/at/all/supervisord.log"])
def test_the_user_is_asked_for_a_path_where_supervisord_does_not_log_to_a_file(logfile):
    with pytest.raises(HistoryError, match=r"set history=PATH in \[memreap\], or off"):
        default_path(MainLog(logfile, "/", None))


@needs_root
def test_a_directory_of_another_user_is_not_the_default(tmp_path):
    os.chown(tmp_path, 12345, 12345)
    with pytest.raises(HistoryError, match="belongs to another user: set history=PATH"):
        default_path(MainLog(f"{tmp_path}/supervisord.log", "/", None))
    # But root finds the history of a supervisord that runs as that user.
    with subprocess.Popen(["sleep", "60"], user=12345, cwd=tmp_path) as process:
        log = mainlog.find(Contents(), process.pid)
        process.kill()
    assert default_path(log) == f"{tmp_path}/memreap.sqlite"


def test_data_waiting_for_an_unwritable_file_is_bounded_and_the_newest_stays(path):
    messages = [left(NOW + number) if number % 10 else look(NOW + number, {11: 10}) for number in range(3000)]
    record(path, messages, at_once=5000)
    (history,) = historyfile.load(str(path))
    assert (len(history.readings), history.readings[-1].at, history.reaps) == (60, NOW + 2990, 2000)


def test_a_world_writable_directory_is_not_the_default(tmp_path):
    tmp_path.chmod(stat.S_IRWXU | stat.S_IRWXG | stat.S_IRWXO | stat.S_ISVTX)
    with pytest.raises(HistoryError, match="is writable by every user"):
        default_path(MainLog(f"{tmp_path}/supervisord.log", "/", None))
