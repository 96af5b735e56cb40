"""The wording of events: figures with units, one line each, with the cause and the remedy."""

from __future__ import annotations

import pytest

from supervisor_memreap.core import events
from supervisor_memreap.core.hindrance import GROUP, of_attempt
from supervisor_memreap.core.model import HOST, Holder, Nested, ProcessId, Program, Result, SentMoment, WorkerDetail
from supervisor_memreap.core.reasons import OverLimit, Requested, ShortOfHeadroom, TooOld
from supervisor_memreap.core.settings import PoolSettings
from supervisor_memreap.core.shortage import Kind, Shortage
from supervisor_memreap.core.text import memory, quote, seconds

MIB = 1024**2
STAMP = ("myapp", 1_700_000_000.0)
LISTENER = ("", 1_700_000_000.0)
WORKER, NEW = ProcessId(4242, 1.0), ProcessId(4250, 2.0)
SHORT = Shortage(Kind.HEADROOM, HOST, 412 * MIB, 512 * MIB, 614.4 * MIB)
OVER_TOTAL = Shortage(Kind.TOTAL, "myapp", 912 * MIB, 800 * MIB, 800 * MIB)
PRESSURE = Shortage(Kind.PRESSURE, HOST, 31.0, 20.0, 10.0)
OVER = OverLimit(312 * MIB, 150 * MIB, "uss")
ALWAYS_BUSY = of_attempt(Result.BUSY, WorkerDetail(102 * MIB, True, "Starman", "HUP"), PoolSettings(limit=40 * MIB))
assert ALWAYS_BUSY

# One of each class at least; with what a line of it must have.
EXAMPLES = [
    (
        events.Signalled(*STAMP, WORKER, OVER, "HUP", SentMoment.IDLE, 60.0),
        "worker 4242 holds 312 MiB (uss), limit 150 MiB: HUP sent while idle",
    ),
    (events.Signalled(*STAMP, WORKER, OVER, "HUP", SentMoment.HELD, 60.0), ": HUP sent between two requests"),
    (
        events.Signalled(*STAMP, WORKER, OVER, "USR1", SentMoment.BUSY, 60.0, "0 of 300 lost a request"),
        "USR1 sent while busy, since it was not seen between two requests for 60 s (0 of 300 lost a request)",
    ),
    (
        events.Signalled(*STAMP, WORKER, OVER, "HUP", SentMoment.BUSY, 60.0),
        ": HUP sent while busy, since it was not seen between two requests for 60 s",
    ),
    (
        events.Signalled(*STAMP, WORKER, OVER, "HUP", SentMoment.UNKNOWN, 60.0),
        ": HUP sent; could not tell whether it was idle",
    ),
    (
        events.Signalled(*STAMP, WORKER, Requested(20 * MIB, "uss"), "HUP", SentMoment.IDLE, 60.0),
        "worker 4242 was requested by a user (holds 20 MiB uss): HUP sent while idle",
    ),
    (
        events.Signalled(*STAMP, WORKER, TooOld(21_700.0, 21_600.0), "HUP", SentMoment.IDLE, 60.0),
        "worker 4242 is 6.0 h old, max_age 6.0 h: HUP sent while idle",
    ),
    (
        events.SignalledAgain(*STAMP, WORKER, "HUP", SentMoment.HELD, True),
        "worker 4242 is waiting for its next connection and has not left: the first HUP",
    ),
    (events.SignalledAgain(*STAMP, WORKER, "HUP", SentMoment.IDLE, False), "before it could signal it; HUP sent"),
    (events.Forced(*STAMP, WORKER, "TERM"), "worker 4242: TERM sent (stuck=TERM)"),
    (events.NotForced(*STAMP, WORKER, "KILL", "gone"), "KILL (stuck=KILL) could not be sent: gone"),
    (events.LeftByItself(*STAMP, WORKER, OVER), "limit 150 MiB: it exited on its own; nothing sent"),
    (events.WouldReap(*STAMP, WORKER, OVER), "limit 150 MiB: it would be replaced now; nothing sent (observe=yes)"),
    (events.Changed(*STAMP, WORKER, OVER), "nothing sent"),
    (events.OutOfResources(*STAMP, WORKER, OVER), "trying again"),
    (events.NotPermitted(*STAMP, WORKER, OVER), "run memreap as the worker's user or as root"),
    (events.Locked(*STAMP, WORKER, OVER, "process 1 (x) holds its lock"), "nothing sent, process 1 (x) holds its lock"),
    (events.CannotHold(*STAMP), "CAP_SYS_PTRACE"),
    (
        events.Overdue(*STAMP, 4, 102 * MIB, 40 * MIB, "uss", 600.0, GROUP),
        "4 workers are due (the largest holds 102 MiB uss, limit 40 MiB) and none could be signalled for 10 min: a",
    ),
    (
        events.Overdue(*STAMP, 1, None, None, "uss", 10.0, GROUP),
        "1 worker is due and could not be signalled for 10 s: ",
    ),
    (
        events.Overdue(*STAMP, 2, 102 * MIB, 40 * MIB, "uss", 600.0, ALWAYS_BUSY),
        "none of them was seen between two requests, and Starman can lose requests on HUP at any other moment; if",
    ),
    (events.OverdueEnded(*STAMP, 600.0), "no worker is overdue any longer, after 10 min"),
    (
        events.NotCaught(*STAMP, WORKER, "HUP", False),
        "HUP would kill worker 4242 (no handler): nothing sent; set signal= to one",
    ),
    (events.NotCaught(*STAMP, WORKER, "HUP", True), "(FastCGI without a manager: TERM)"),
    (
        events.SignalOfServer(*STAMP, "gunicorn", "TERM"),
        "gunicorn finishes its requests on TERM, so TERM is used (signal= is not set)",
    ),
    (
        events.WrongSignal(*STAMP, WORKER, "gunicorn", "HUP", ("TERM",)),
        "drops its request on HUP: nothing sent; set signal=TERM",
    ),
    (events.WrongSignal(*STAMP, WORKER, "multiwatch", "HUP", ()), "gives up a worker that ends 4 times"),
    (events.WrongSignal(*STAMP, WORKER, "fcgiwrap", "HUP", ()), "remove this program's"),
    (events.LooksLikeManager(*STAMP, WORKER, False), "set depth=2"),
    (
        events.Wrapped(*STAMP, (Nested(WORKER, "perl-fcgi-pm", 5),), 1),
        "not watched: its child 4242 (perl-fcgi-pm) has 5 children, and no other child can be a worker: the pool is"
        " below it; use exec in the program's command, or set depth=2",
    ),
    (events.Wrapped(*STAMP, (Nested(WORKER, "su", 1),), 2), "(su) has a child, and no other child can be a worker: de"),
    (
        events.Wrapped(*STAMP, (Nested(WORKER, "perl", 2), Nested(NEW, "perl", 2)), 1),
        "its children 4242 (perl) and 4250 (perl) are managers themselves",
    ),
    (events.LooksLikeManager(*STAMP, WORKER, True), "target=self is for programs that serve in one process"),
    (events.NotShared(*STAMP, WORKER, False), "clients queued there are refused when it leaves: nothing sent; let"),
    (events.NotShared(*STAMP, WORKER, True), "let supervisord hold one socket for all ([fcgi-program], socket=)"),
    (
        events.NeverServed(*STAMP, WORKER, OVER, 400.0),
        "in 7 min it was never seen waiting for a connection or handling",
    ),
    (
        events.ServingUnknown(*STAMP, True),
        "no permission to read the sockets of its processes, so memreap cannot tell when",
    ),
    (
        events.ServingUnknown(*STAMP, False),
        "none of its workers listens, so memreap cannot tell when a replacement serves",
    ),
    (
        events.SizesUnreadable(*STAMP, WORKER, "uss"),
        "no permission to read the uss of worker 4242: the pool is not watched; run",
    ),
    (
        events.Unreadable(*STAMP, WORKER, 330 * MIB, 150 * MIB, "uss", False),
        "; if it may signal it (root may), metric=rss is enough",
    ),
    (
        events.Unreadable(*STAMP, WORKER, 330 * MIB, 150 * MIB, "uss", True),
        "the worker may be holding the lock of its own memory map",
    ),
    (
        events.NotVisible(*STAMP, "its processes are hidden"),
        "the program runs, but its processes are hidden: not watched",
    ),
    (events.NoWorkers(*STAMP, ProcessId(41, 1.0)), "process 41 has no workers: not watched"),
    (events.TooFewWorkers(*STAMP, 1, 5, 30.0), "older than min_age=30 s (1 of the usual 5): nothing is sent"),
    (
        events.Left(*STAMP, WORKER, 0.4, NEW, 307 * MIB),
        "worker 4242 left after 0.4 s, 307 MiB freed, 4250 took its place",
    ),
    (events.Left(*STAMP, WORKER, 0.4, None), "worker 4242 left after 0.4 s"),
    (
        events.Left(*STAMP, WORKER, 0.4, NEW, 57 * MIB, 16 * MIB, 57 * MIB, "uss"),
        "worker 4242 left after 0.4 s, 57 MiB freed, 4250 took its place and already uses 16 MiB",
    ),
    (
        events.Left(*STAMP, WORKER, 0.4, NEW, 57 * MIB, 0, 262 * MIB, "rss"),
        "left after 0.4 s, 57 MiB of its 262 MiB (rss) freed, the rest is shared, 4250 took its place",
    ),
    (
        events.Left(*STAMP, WORKER, 0.4, NEW, 57 * MIB, 0, 412 * MIB, "vms"),
        "57 MiB of its 412 MiB (vms) freed, the rest is shared or was never used, 4250 took its place",
    ),
    (
        events.Signalled(*STAMP, WORKER, ShortOfHeadroom(SHORT, 57 * MIB), "HUP", SentMoment.HELD, 60.0),
        "worker 4242 holds 57 MiB of its own, and this host has 412 MiB available, headroom 512 MiB: HUP sent between",
    ),
    (
        events.NotRelieved(*LISTENER, SHORT, 4, 120 * MIB, 600.0, (Holder(812, "java", 3 << 30),)),
        "this host has 412 MiB available, headroom 512 MiB, and reaping does not help: replacing 4 workers freed"
        " 120 MiB; most is held by java (812) 3.0 GiB; no more workers are replaced for headroom; trying again in 10"
        " min",
    ),
    (
        events.OomKilled(*STAMP, HOST, None, 3, (WORKER, NEW), ProcessId(41, 1.0), 312 * MIB, 3, 3),
        "the manager 41 and workers 4242, 4250 (the largest up to 312 MiB) left without a signal while the kernel's OOM"
        " killer ended 3 processes on this host: any request in progress",
    ),
    (
        events.OomKilledOther(*LISTENER, "control group /web", 450 * MIB, 1),
        "ended 1 process in control group /web (limit 450 MiB), and no worker of a watched pool left without a signal",
    ),
    (
        events.NotMet(*LISTENER, SHORT, (("myapp", "paused"), ("shop", "yield=no"))),
        "headroom 512 MiB, and no worker could be signalled for it now (myapp: paused; shop: yield=no); trying again",
    ),
    (events.NotMet(*LISTENER, SHORT, ()), "could be signalled for it now; trying again at each look"),
    (
        events.NotRelieved(*STAMP, OVER_TOTAL, 0, 0, 600.0, (Holder(41, "manager", 600 * MIB),)),
        "the pool holds 912 MiB, total 800 MiB, and reaping cannot help: no worker holds clearly more than a fresh one;"
        " most is held by manager (41) 600 MiB; raise total=, run fewer workers, or restart the program when"
        " convenient",
    ),
    (
        events.Relieved(*LISTENER, SHORT, 812 * MIB, 40.0, 300 * MIB),
        "this host has its headroom of 512 MiB again (812 MiB available) after 40 s: workers that held 300 MiB",
    ),
    (
        events.Outgrown(*STAMP, OVER_TOTAL, 8, 120.0),
        "the pool holds 912 MiB, total 800 MiB, though 8 workers were replaced in 2 min: workers grow as fast as",
    ),
    (events.Relieved(*STAMP, OVER_TOTAL, 5 * MIB, 40.0, 300 * MIB), "the pool fits in its total of 800 MiB again"),
    (
        events.Relieved(*LISTENER, PRESSURE, None, 40.0, 0),
        "the memory pressure of this host is below 20 % again after 40 s",
    ),
    (events.TotalUnreadable(*STAMP), "so total= has no effect; run memreap as their user"),
    (events.Replaced(*STAMP, WORKER, 3.0, NEW), "worker 4250 took the place of 4242 after 3.0 s"),
    (
        events.Settled(*STAMP, WORKER, NEW, 8.3),
        "worker 4250 has settled in place of 4242; first seen serving 8.3 s after",
    ),
    (events.NotReplaced(*STAMP, WORKER, 300.0, 3, 4), "(3 of 4 workers): no more workers are replaced until it has"),
    (events.NoReplacement(*STAMP, WORKER, 300.0, 3, 4), "so the next one may be signalled"),
    (events.Stuck(*STAMP, WORKER, 300.0, "HUP"), "raise grace="),
    (events.Stuck(*STAMP, WORKER, 300.0, "HUP", forced="KILL"), "5 min after HUP and KILL: stuck"),
    (
        events.Stuck(*STAMP, WORKER, 300.0, "HUP", next="KILL", activity="state D, in nfs_wait"),
        "worker 4242 has not left 5 min after HUP: stuck (state D, in nfs_wait)",
    ),
    (
        events.Remembered(*STAMP, WORKER, 9.0),
        "before memreap was restarted: waiting for it to leave first",
    ),
    (
        events.WrongSetting(*STAMP, OVER, "limit=330MB", 12.0, 21600.0),
        "limit 150 MiB, 12 s after its start; set limit=330MB or higher",
    ),
    (
        events.FastLeak(*STAMP, 150 * MIB, (40.0, 35.0, 55.0), 60.0),
        "within 60 s of their start; the last 3 were over 150 MiB when they were at most 55 s old",
    ),
    (events.ManagerLost(*STAMP, WORKER, NEW, 600.0, 5.0, True), "daemonized (-d)"),
    (events.ManagerLost(*STAMP, WORKER, NEW, 60.0, 5.0, False), "did not report whether it was stopped"),
    (events.Resumed(*STAMP, "its settings changed"), "resumed: its settings changed"),
    (events.Paused(*STAMP, "paused"), "paused"),
    (events.ResumedByUser(*STAMP, "resumed"), "resumed"),
    (events.WorkersRequested(*STAMP, "worker 11 will be replaced"), "worker 11 will be replaced"),
    (events.Rolled(*STAMP, 4), "the roll is done: workers replaced: 4"),
    (
        events.RollStopped(*STAMP, 1, 4, "the pool is paused"),
        "the roll stopped after 1 of 4 workers: the pool is paused;",
    ),
    (events.OrphansFound(*STAMP, (11, 12), 80 * MIB, True), "kill 11 12"),
    (events.OrphansFound(*STAMP, (11,), 80 * MIB, False), "stopwaitsecs="),
    (events.NotUnderSupervisord(*LISTENER), "by hand, use memreap once"),
    (events.AnotherListener(*LISTENER, "process 7 holds its lock"), "already running (process 7 holds its lock)"),
    (events.OtherListenersUnknown(*LISTENER, "the lock cannot be taken"), "the lock cannot be taken: cannot tell"),
    (events.SupervisordHidden(*LISTENER, 7), "supervisord (process 7) is hidden from this user"),
    (events.Started(*LISTENER, "1.0.0", "/etc/supervisord.conf"), "version 1.0.0, configuration /etc/supervisord.conf"),
    (events.Started(*LISTENER, "1.0.0", ""), "from the command line only"),
    (events.SettingsRefused(*LISTENER, "limit=150 monkeys: not a size", True), "(the earlier settings stay in force)"),
    (events.SettingsRefused(*LISTENER, "limit=x: not a size", False), "(nothing is watched until it is corrected)"),
    (events.SettingsRefused(*LISTENER, "limit=x: not a size", None), "limit=x: not a size"),
    (events.SettingsWarned(*LISTENER, ("a", "b")), "a; b"),
    (
        events.NoAlarm(*LISTENER, "/proc/pressure/memory: Operation not supported"),
        "(/proc/pressure/memory: Operation not supported): a sudden shortage is noticed only at the next tick",
    ),
    (events.Watching(*LISTENER, (("myapp", PoolSettings(150 * MIB, 21_600.0)),)), "(limit 150 MiB uss, max_age 6.0 h)"),
    (events.Watching(*LISTENER, ()), "watching nothing"),
    (
        events.ProgramsMissing(*LISTENER, ("myap", "x"), ("cat", "myapp")),
        "group 'myap' in supervisord; no program or group 'x' in supervisord; there are: cat, myapp",
    ),
    (events.SupervisordUnavailable(*LISTENER, "refused"), "refused; trying again at every tick"),
    (events.SupervisordAvailable(*LISTENER), "answers again"),
    (events.SettingsAccepted(*LISTENER), "valid again and in force"),
    (events.RecordedAgain(*LISTENER), "history: recording resumed"),
    (events.ExposedAgain(*LISTENER), "metrics: export resumed"),
    (
        events.NotRemembered(*LISTENER, "/tmp/x: torn"),
        "/tmp/x: torn: the state that an earlier listener saved there, such as a pause, is lost",
    ),
    (
        events.NotSaved(*LISTENER, "/run/memreap/x: No space left on device; free space in that directory"),
        "no worker is signalled, since the state cannot be saved: /run/memreap/x: No space left on"
        " device; free space in that directory",
    ),
    (events.SavedAgain(*LISTENER), "the state can be saved again: signalling resumed"),
    (events.NotPublished(*LISTENER, "refused"), "could not publish the status: refused"),
    (
        events.NotRecorded(*LISTENER, "/h.sqlite: disk full"),
        "history: /h.sqlite: disk full (reaping does not depend on this",
    ),
    (events.NotExposed(*LISTENER, "the port is taken"), "metrics: the port is taken (reaping does not depend on this"),
    (events.Summary(*STAMP, "in the last 24 h: 3 workers replaced"), "3 workers replaced"),
    (events.LimitSuggested(*STAMP, "set limit=120MB"), "set limit=120MB"),
    (events.CommandRefused(*LISTENER, "no pool 'x'"), "a command was refused: no pool 'x'"),
    (events.Planned(*STAMP, WORKER, OVER, "HUP would be sent"), "limit 150 MiB: HUP would be sent"),
    (events.Noted(*STAMP, "5 workers, none to replace"), "5 workers, none to replace"),
    (events.LinesMissing(*LISTENER, 3), "3 log lines lost: nothing was reading the log"),
    (events.InternalError(*STAMP, "ValueError()", "pool.py:1"), "please report it: ValueError() at pool.py:1"),
]


@pytest.mark.parametrize(("event", "text"), EXAMPLES, ids=[type(event).__name__ for event, _ in EXAMPLES])
def test_each_event_is_one_line_with_its_figures_and_remedy(event, text):
    assert text in event.text
    assert "\n" not in event.text
    assert event.text.split() == event.text.split(" ")


def test_every_class_of_event_has_an_example():
    kinds = list(events.kinds())
    assert set(kinds) == {type(event) for event, _ in EXAMPLES}
    assert all(vars(events)[kind.__name__] is kind for kind in kinds)
    assert len(kinds) > 70


def test_the_class_of_an_event_defines_whether_it_is_announced_and_fails_a_run():
    announced = {kind.__name__: kind.announced_as for kind in events.kinds() if kind.announced_as}
    assert announced == {
        "Signalled": "reap",
        "Left": "left",
        "Stuck": "stuck",
        "WrongSetting": "suspended",
        "ManagerLost": "suspended",
        "Resumed": "resumed",
        "ResumedByUser": "resumed",
        "NotRelieved": "short",
        "Relieved": "relieved",
    }
    ends_wait = {kind.__name__ for kind in events.kinds() if kind.ends_wait}
    assert ends_wait == {"NotPermitted", "NeverServed", "TooFewWorkers", "NotSaved"}
    assert all(kind.fails for kind in events.kinds() if kind.ends_wait)


def test_what_a_report_counts_is_a_refusal_or_other_trouble_and_only_an_error_can_last_as_one():
    assert [kind.__name__ for kind in events.kinds() if kind.refusal and kind.trouble] == []
    assert [kind.__name__ for kind in events.kinds() if kind.may_last and not kind.is_error] == []


def test_what_must_never_be_signalled_is_a_refusal_reported_once_by_its_class_alone():
    vetoes = list(events.kinds(events.Veto))
    assert len(vetoes) == 4
    assert all(kind.refusal and kind.is_reported_once and not kind.told_apart_by for kind in vetoes)


def test_each_end_of_a_lasting_state_names_that_state():
    ends = {kind.__name__: kind.ends.__name__ for kind in events.kinds() if issubclass(kind, events.Over)}
    assert ends == {
        "OverdueEnded": "Overdue",
        "SettingsAccepted": "SettingsRefused",
        "SupervisordAvailable": "SupervisordUnavailable",
        "SavedAgain": "NotSaved",
        "RecordedAgain": "NotRecorded",
        "ExposedAgain": "NotExposed",
    }


def test_of_two_events_that_are_reported_once_those_with_the_same_key_are_one():
    assert events.NotPermitted(*STAMP, WORKER, OVER).key == events.NotPermitted(*STAMP, NEW, OVER).key == "NotPermitted"
    assert events.NotVisible(*STAMP, "its processes are hidden").key == "NotVisible: its processes are hidden"
    assert events.InternalError(*STAMP, "ValueError()", "pool.py:1").key == "InternalError: ValueError() at pool.py:1"


def test_values_are_not_taken_for_a_wording():
    assert events.Noted(*STAMP, "{pool} {0} {").text == "{pool} {0} {"


def test_the_reason_of_an_event_is_the_setting_that_caused_it():
    reasons = (OVER, Requested(None, "uss"), TooOld(90.0, 60.0), ShortOfHeadroom(SHORT, 57 * MIB))
    signalled = [events.Signalled(*STAMP, WORKER, reason, "HUP", SentMoment.HELD, 60.0) for reason in reasons]
    assert [event.asked_by for event in signalled] == ["limit", "requested", "max_age", "headroom"]
    assert events.Left(*STAMP, WORKER, 0.4, NEW).asked_by == ""


def test_the_pid_of_an_event_is_the_pid_of_its_worker():
    assert events.Left(*STAMP, WORKER, 0.4, NEW).pid == 4242
    assert events.Resumed(*STAMP, "because").pid == 0


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0.0 MiB"),
        (5.3 * MIB, "5.3 MiB"),
        (312.4 * MIB, "312 MiB"),
        (1023 * MIB, "1023 MiB"),
        (1434 * MIB, "1.4 GiB"),
        (1000 * 1024**2 * MIB, "1000.0 TiB"),
    ],
)
def test_memory_is_written_with_its_unit(size, text):
    assert memory(int(size)) == text


@pytest.mark.parametrize(
    ("duration", "text"),
    [(0.012, "12 ms"), (0.4, "0.4 s"), (45, "45 s"), (300, "5 min"), (9000, "2.5 h")],
)
def test_time_is_written_with_its_unit(duration, text):
    assert seconds(duration) == text


def test_a_quotation_has_at_most_100_characters():
    assert quote("x" * 100) == "x" * 100
    assert quote("x" * 101) == "x" * 97 + "..."


def test_names_that_no_program_has_are_said_with_those_that_there_are():
    programs = [Program("g", "web", "RUNNING", 7), Program("cat", "cat", "RUNNING", 8)]
    missing = events.ProgramsMissing.of(["x"], programs, 9.0)
    assert missing == events.ProgramsMissing("", 9.0, ("x",), ("cat", "g:web"))
    assert events.ProgramsMissing.of([], programs, 9.0) is None
