"""benchmarks/soak.py at a small scale: nothing grows, each event is answered, and what would grow is found."""

from __future__ import annotations

import json
import os
import random
import sys

import pytest
from support import stack

sys.path.insert(0, str(stack.ROOT / "benchmarks"))

import soak
import soak_fit
import soak_measure
import soak_month
import soak_report
from pages import RESULTS, read

from supervisor_memreap.core.model import Ending, Program
from supervisor_memreap.listener.reaper import Reaper
from supervisor_memreap.supervisord.endings import Endings
from supervisor_memreap.supervisord.protocol import Event

KIB, MIB = 1024, 1024**2
DAY = 86400


def samples(grows: float, noise: float = 100 * KIB, count: int = 500, step: float = 0.0):
    """Of 500,000 ticks: a figure that grows by so much in 100,000 of them, and by `step` while it warms up."""
    chance = random.Random(1)
    return [
        (at, {"anonymous": 20 * MIB + grows * at / 100_000 + chance.gauss(0, noise) + (step if at > 20_000 else 0.0)})
        for at in range(0, 500_000, 500_000 // count)
    ]


@pytest.mark.parametrize(
    ("grows", "step", "verdict"),
    [(0, 0, "no"), (-200 * KIB, 0, "no"), (0, 9 * MIB, "no"), (64 * KIB, 0, "not certain"), (200 * KIB, 0, "yes")],
)
def test_a_leak_is_found_and_what_a_start_loads_is_none(grows, step, verdict):
    found = soak_report.figures(samples(grows, step=step))["anonymous"]
    assert soak_report.verdict("anonymous", found, soak_report.UNITS["ticks"]) == verdict


def test_a_saw_tooth_does_not_grow():
    teeth = [(at, {"descriptors": 15 + at // 1000 % 7}) for at in range(0, 500_000, 1000)]
    (found,) = soak_report.figures(teeth).values()
    assert soak_report.verdict("descriptors", found, soak_report.UNITS["ticks"]) == "no"


def test_the_true_slope_is_within_the_bound_in_most_runs():
    within = 0
    for seed in range(200):
        chance = random.Random(seed)
        line = soak_fit.fit([(at, 3.0 * at + chance.gauss(0, 50.0)) for at in range(200)])
        within += abs(line.slope - 3.0) <= line.bound
    assert within > 180


def events(*lines):
    """A log as JSON; at one second each."""
    return [
        json.dumps({"name": name, "pool": "myapp", "pid": pid, "at": at, "message": ""})
        for at, (name, pid) in enumerate(lines)
    ]


ONE_BY_ONE = (("Signalled", 1), ("Left", 1), ("Settled", 1), ("Signalled", 2), ("Stuck", 2), ("Signalled", 3))


def test_a_worker_that_is_signalled_while_another_one_is_away_is_found():
    assert soak_measure.Story().read(events(*ONE_BY_ONE)).overlaps == []
    early = events(("Signalled", 1), ("Left", 1), ("Signalled", 2))
    assert soak_measure.Story().read(early).overlaps == ["myapp: 2 was signalled while 1 was away"]
    assert soak_measure.Story([(1.0, 1.5)]).read(early).overlaps == []  # they have all been restarted


def test_what_is_wrong_is_a_problem():
    good = {
        "unit": "ticks",
        "figures": soak_report.figures(samples(0)),
        "sent": 5,
        "answered": 5,
        "overlaps": [],
        "errors": [],
    }
    assert soak_report.problems(good) == []
    growing = {"figures": soak_report.figures(samples(200 * KIB))}
    wrong: list[dict] = [growing, {"answered": 4}, {"overlaps": ["two"]}, {"errors": ["internal"]}, {"failed": "it"}]
    wrong += [{"lost": 1, "lost_as": {"get TimeoutError": 1}}]
    assert [len(soak_report.problems({**good, **each})) for each in wrong] == [1] * len(wrong)


def test_a_session_without_a_group_of_its_own_has_no_priority_to_pass_on(tmp_path):
    empty = tmp_path / "autogroup"
    empty.write_text("")  # as of all that runs in the group of init
    soak._yield_too(os.getpid(), mine=empty)


def test_a_listener_whose_pool_is_disturbed_answers_each_event_and_takes_one_worker_at_a_time(where):
    with soak._private_state(where):
        result = soak.fast(where, 400, None, every=60, sampled=10, kb=12_000)
    # In seconds not all is loaded yet that is needed in a month. But one more at each look would be hundreds.
    assert [each for each in soak_report.problems(result) if not each.startswith("growth: ")] == []
    descriptors = result["figures"]["descriptors"]
    assert descriptors["last"] < descriptors["first"] + 20
    assert result["troubles"] == []
    assert result["sent"] >= 400
    assert result["events"]["Left"] > 0
    assert len(result["actions"]) > 1
    assert {"anonymous", "history", "state", "threads"} <= result["figures"].keys()
    assert "- 0 not answered" in soak_report.markdown([{**result, **soak.about()}])


def test_half_a_day_of_simulated_time_keeps_nothing_and_what_would_be_kept_is_found(monkeypatch):
    found = [soak_month.play(900, 60.0, sampled=20)]
    tick = Reaper.tick

    def leak(self, *args):
        self.__dict__.setdefault("kept", []).append(1)
        return tick(self, *args)

    monkeypatch.setattr(Reaper, "tick", leak)
    found.append(soak_month.play(900, 60.0, sampled=20))
    problems = [soak_report.problems(each) for each in found]
    assert problems[0] == []
    assert any(each.startswith("growth: values that are remembered: ") for each in problems[1])
    assert all(each["events"]["Left"] > 10 for each in found)


def test_how_programs_ended_is_not_kept_for_all_the_names_that_there_ever_were():
    endings = Endings(lambda: pytest.fail("supervisord need not be asked"))
    for number in range(5000):
        name = f"job{number}"
        endings.note(Event("PROCESS_STATE_EXITED", f"processname:{name} groupname:{name} from_state:RUNNING"))
        if number % 900 == 0:
            endings.note(Event("PROCESS_STATE_STOPPED", "processname:myapp groupname:myapp from_state:STOPPING"))
    assert len(endings._known) <= 1000
    assert endings.of(Program("myapp", "myapp", "STOPPED", 0), since=0.0) is Ending.STOPPED


def test_the_page_is_that_of_the_results():
    results = read(RESULTS / "soak.jsonl")
    assert {result["kind"] for result in results} == set(soak_report.TITLES)
    assert (RESULTS / "soak.md").read_text() == soak_report.markdown(results)
