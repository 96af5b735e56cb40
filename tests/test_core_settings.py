"""Sizes, durations, names and keys: what is taken, and the one line for what is not."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import HealthCheck
from hypothesis import given as for_any
from hypothesis import settings as drawn_with
from hypothesis import strategies as st

from supervisor_memreap.core.listenerevents import Watching
from supervisor_memreap.core.model import Program
from supervisor_memreap.core.reasons import REASONS
from supervisor_memreap.core.settings import (
    KEYS,
    POOL_KEYS,
    REASON_KEYS_TEXT,
    RECORDING_KEYS,
    Address,
    Given,
    PoolSettings,
    Recording,
    SettingsError,
    field_of,
    has_reason,
    overlay,
    parse_name_size,
    resolve,
    shown,
)
from supervisor_memreap.core.state import PoolState, decode, encode
from supervisor_memreap.core.values import duration, size

MIB = 1024**2
WHERE = "/etc/supervisor/conf.d/myapp.conf [memreap:myapp]"


def section(**values: str) -> dict[str, Given]:
    return {key: Given(value, WHERE) for key, value in values.items()}


def program(name: str, group: str = "") -> Program:
    return Program(group or name, name, "RUNNING", 42)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("150MB", 150 * MIB),
        ("150 mb", 150 * MIB),
        ("150M", 150 * MIB),
        ("150MiB", 150 * MIB),
        ("1.5GB", 1536 * MIB),
        ("2G", 2048 * MIB),
        ("102400K", 100 * MIB),
        ("104857600", 100 * MIB),
        ("104857600B", 100 * MIB),
        ("0.5m", MIB // 2),
    ],
)
def test_sizes_are_read_in_the_notation_of_supervisor_and_of_people(text, expected):
    assert size(text) == expected


@pytest.mark.parametrize(
    "text", ["", "MB", "150 monkeys", "-1MB", "1e9", "1,5GB", "150MBit", "0x10", "\u0661\u0665MB", "nan"]
)
def test_an_invalid_size_is_refused(text):
    with pytest.raises(ValueError, match="not a size, such as 150MB"):
        size(text)


@pytest.mark.parametrize(
    ("text", "expected"), [("30s", 30), ("5min", 300), ("5m", 300), ("2h", 7200), ("1.5", 1.5), ("1d", 86400), ("0", 0)]
)
def test_a_duration_is_read(text, expected):
    assert duration(text) == expected


@pytest.mark.parametrize("text", ["", "s", "5 years", "-5s", "inf", "5min30s"])
def test_an_invalid_duration_is_refused(text):
    with pytest.raises(ValueError, match="not a duration, such as 30s, 5min or 2h"):
        duration(text)


def test_the_defaults_are_those_of_the_documentation():
    settings = resolve({"myapp": section(limit="150MB")}).of(program("myapp"))
    assert settings == PoolSettings(
        limit=150 * MIB,
        metric="uss",
        signal=None,
        checks=1,
        min_age=30,
        settle=10,
        grace=300,
        stuck="report",
        idle_wait=60,
        hold=True,
        announce=True,
        depth=1,
    )


FOR_ONE = {
    "limit": "1GB",
    "max_age": "6h",
    "total": "2GB",
    "yield": "no",
    "metric": "PSS",
    "signal": "sigterm",
    "checks": "3",
    "min_age": "1min",
    "settle": "0s",
    "grace": "2h",
    "stuck": "sigkill",
    "idle_wait": "never",
    "hold": "no",
    "announce": "no",
    "depth": "2",
    "target": "self",
    "observe": "yes",
}
FOR_ALL = {"headroom": "10%", "pressure": "20%"}
RECORDED = {
    "history": "/var/lib/memreap/history.sqlite",
    "history_size": "1GB",
    "summary": "daily",
    "metrics": "[::1]:9402",
    "metrics_file": "/var/lib/node_exporter/memreap.prom",
    "log": "json",
}
all_recorded = resolve({"": section(**RECORDED)}).recording


def of_values(values: dict[str, str]) -> PoolSettings:
    for_all = {key: values[key] for key in FOR_ALL}
    own = {key: values[key] for key in FOR_ONE}
    return resolve({"": section(**for_all), "myapp": section(**own)}).of(program("myapp"))


all_set = of_values({**FOR_ONE, **FOR_ALL})


def test_every_key_can_be_set():
    assert {*FOR_ONE, *FOR_ALL, *RECORDED} == set(KEYS)
    assert all_recorded == Recording(
        history="/var/lib/memreap/history.sqlite",
        history_size=1024 * MIB,
        summary="daily",
        metrics=Address("::1", 9402),
        metrics_file="/var/lib/node_exporter/memreap.prom",
        log="json",
    )
    assert all_set == PoolSettings(
        limit=1024 * MIB,
        max_age=6 * 3600,
        total=2048 * MIB,
        headroom=0.1,
        pressure=20.0,
        yields=False,
        metric="pss",
        signal="TERM",
        checks=3,
        min_age=60,
        settle=0,
        grace=7200,
        stuck="KILL",
        idle_wait=float("inf"),
        hold=False,
        announce=False,
        depth=2,
        target="self",
        observe=True,
    )


def test_no_key_is_set_to_its_default_above():
    assert [key for key in POOL_KEYS if getattr(all_set, field_of(key)) == getattr(PoolSettings(), field_of(key))] == []


def test_every_value_is_the_same_after_a_restart():
    assert decode(json.loads(json.dumps(encode(PoolState(settings=all_set))))).settings == all_set


def test_every_value_is_shown_as_it_may_be_written():
    assert of_values({key: shown(all_set, key) for key in POOL_KEYS}) == all_set
    written = {key: all_recorded.shown(key) for key in RECORDING_KEYS}
    assert resolve({"": section(**written)}).recording == all_recorded


@pytest.mark.parametrize("key", [reason.setting for reason in REASONS if reason.setting])
def test_each_reason_suffices_in_a_section_and_is_named_when_the_listener_starts(key):
    assert has_reason([key])
    assert key in Watching("", 0.0, (("myapp", PoolSettings(**{key: getattr(all_set, key)})),)).text


@pytest.mark.parametrize(("value", "expected"), [("10%", 0.1), ("2.5 %", 0.025), ("512MB", 512 * MIB), ("1G", 1 << 30)])
def test_headroom_is_a_share_of_the_memory_or_a_size(value, expected):
    settings = resolve({"": section(headroom=value), "myapp": {}}).of(program("myapp"))
    assert settings.headroom == pytest.approx(expected)
    assert resolve({"": section(headroom=shown(settings, "headroom")), "myapp": {}}).of(program("myapp")) == settings


@pytest.mark.parametrize("key", ["headroom", "pressure"])
def test_settings_for_all_pools_are_refused_in_the_section_of_one_pool(key):
    with pytest.raises(SettingsError, match=rf" {key}=20%: belongs in \[memreap\].* yield=no exempts this pool"):
        resolve({"myapp": section(limit="150MB", **{key: "20%"})})


@pytest.mark.parametrize("key", RECORDING_KEYS)
def test_settings_of_the_listener_are_refused_in_the_section_of_a_program(key):
    value = {"history_size": "64MB", "summary": "daily", "log": "json"}.get(key, "off")
    with pytest.raises(
        SettingsError, match=rf" {key}={value}: belongs in \[memreap\], since it applies to the listener"
    ):
        resolve({"myapp": section(limit="150MB", **{key: value})})


@pytest.mark.parametrize("key", ["history", "metrics", "metrics_file", "summary"])
def test_what_is_recorded_can_be_turned_off(key):
    recording = resolve({"": section(**{key: "off"})}).recording
    assert recording.shown(key) == "off" if key in ("history", "summary") else getattr(recording, key) is None


@pytest.mark.parametrize("sections", [{"": {}, "myapp": {"observe": "yes"}}, {"": {"observe": "yes"}, "myapp": {}}])
def test_a_pool_that_is_only_observed_needs_no_limit(sections):
    settings = resolve({name: section(**given) for name, given in sections.items()})
    assert settings.of(program("myapp")).observe


def test_a_program_that_is_not_only_observed_needs_a_limit():
    with pytest.raises(SettingsError, match="add one, such as limit=100MB, or observe=yes to only watch"):
        resolve({"": section(observe="yes"), "myapp": section(observe="no")})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "history",
            "history.sqlite",
            "not the absolute path of a file, such as /var/lib/memreap/history.sqlite, or off",
        ),
        ("history_size", "1MB", "must be from 4MB to 1TB"),
        ("summary", "hourly", "must be daily or off"),
        ("metrics", "9402", "not an address and a port, such as 127.0.0.1:9402 or [::1]:9402, or off"),
        ("metrics", "localhost:99999", "not an address and a port, such as 127.0.0.1:9402 or [::1]:9402, or off"),
        (
            "metrics_file",
            "/var/lib/memreap",
            "not the absolute path of a .prom file, such as /var/lib/node_exporter/memreap.prom, or off",
        ),
        ("log", "xml", "must be text or json"),
        ("limit", "150 monkeys", "not a size, such as 150MB"),
        ("limit", "150", "that is 150 bytes, and the minimum is 1MB; is a unit missing, as in 150MB?"),
        ("limt", "150MB", "unknown key; did you mean limit?"),
        ("colour", "red", f"unknown key; the keys are {', '.join(KEYS)}"),
        ("stuck", "HUP", "must be report (send nothing more), TERM or KILL"),
        ("total", "big", "not a size, such as 150MB"),
        ("yield", "maybe", "must be yes or no"),
        ("metric", "heap", "not a metric; must be one of uss, pss, rss, vms"),
        (
            "signal",
            "KILL",
            "not a signal on which a worker can finish; must be one of HUP, TERM, QUIT, INT, USR1, USR2, WINCH",
        ),
        ("checks", "0", "must be a number from 1 to 9999"),
        ("max_age", "30s", "must be at least 1min, since it is the age at which a worker is replaced"),
        ("min_age", "0s", "must be at least 1s, since a new worker still runs its manager's signal handlers"),
        ("settle", "soon", "not a duration, such as 30s, 5min or 2h"),
        ("grace", "0", "must be at least 1s, since it is the time that a worker has to finish its request"),
        ("idle_wait", "always", "not a duration, such as 30s, 5min or 2h, or never"),
        ("idle_wait", "366d", "longer than a year; the maximum is 365d, or never"),
        ("limit", "9" * 30 + "TB", "more memory than any machine has; the maximum is 1024TB"),
        ("limit", "1025TB", "more memory than any machine has; the maximum is 1024TB"),
        ("grace", "9" * 38 + "s", "longer than a year; the maximum is 365d"),
        ("min_age", "366d", "longer than a year; the maximum is 365d"),
        ("settle", "8761h", "longer than a year; the maximum is 365d"),
        ("hold", "maybe", "must be yes or no"),
        ("depth", "3", "must be 1 (workers are children of what supervisord started) or 2 (with a wrapper between)"),
    ],
)
def test_a_bad_value_gets_one_line_with_file_section_key_value_and_allowed_values(key, value, message):
    with pytest.raises(SettingsError) as caught:
        resolve({"myapp": section(**{key: value})})
    assert str(caught.value) == f"{WHERE} {key}={value}: {message}"


def test_the_largest_sensible_values_are_accepted():
    given = section(limit="1024TB", min_age="365d", settle="8760h", grace="31536000", idle_wait="365d")
    settings = resolve({"myapp": given}).of(program("myapp"))
    assert (settings.limit, settings.min_age, settings.idle_wait) == (1024**5, 365 * 86400, 365 * 86400)


LONG = "v" * 100_000


@pytest.mark.parametrize(
    "sections",
    [
        {"myapp": section(limit=LONG)},
        {"myapp": section(limit="9" * 100_000)},
        {"myapp": section(signal=LONG)},
        {"myapp": section(idle_wait=LONG)},
        {"myapp": section(**{LONG: "1MB"})},
        {"myapp": section(limt=LONG)},
        {LONG: {}},
        {f"{LONG} /": section(limit="1MB")},
        {f"{LONG} /": {}},
    ],
    ids=range(9),
)
def test_an_error_quotes_at_most_100_characters_of_the_value(sections):
    with pytest.raises(SettingsError) as caught:
        resolve(sections)
    text = str(caught.value).replace(", ".join(KEYS), "")  # the more keys, the longer
    assert len(text) < 300
    assert "v" * 101 not in str(caught.value)
    assert "..." in str(caught.value)


@pytest.mark.parametrize("argument", [LONG, f"limit={LONG}", f"={LONG}"])
def test_an_error_in_the_command_quotes_at_most_100_characters(argument):
    with pytest.raises(SettingsError) as caught:
        parse_name_size([argument], "there")
    assert len(str(caught.value)) < 300


def test_a_section_without_a_reason_to_reap_is_refused():
    where = Given("1s", "s.conf [memreap:myapp]")
    for given, begin in (({"settle": where}, r"s\.conf "), ({}, "")):
        with pytest.raises(
            SettingsError,
            match=rf"^{begin}\[memreap:myapp\]: no {REASON_KEYS_TEXT}, here or in \[memreap\]",
        ):
            resolve({"myapp": given})


@pytest.mark.parametrize("keys", [["limit"], ["settle", "max_age"]])
def test_a_limit_and_an_age_are_reasons_to_reap(keys):
    assert has_reason(keys)
    resolve({"myapp": section(**dict.fromkeys(keys, "1h" if "max_age" in keys else "1GB"))})


@pytest.mark.parametrize("keys", [[], ["settle", "metric"]])
def test_other_settings_are_not_a_reason_to_reap(keys):
    assert not has_reason(keys)


@pytest.mark.parametrize("name", ["my app", "a:b:c", ":a", "a:", "a/b"])
def test_an_impossible_program_name_is_refused(name):
    with pytest.raises(SettingsError, match="is not a program, a group, or group:name"):
        resolve({name: section(limit="150MB")})


def test_the_most_specific_section_wins_for_each_key():
    settings = resolve(
        {
            "": section(limit="100MB", checks="2", settle="1s", grace="1min"),
            "shop": section(limit="200MB", checks="3", settle="2s"),
            "web": section(limit="300MB", checks="4"),
            "shop:web": section(limit="400MB"),
        }
    )
    web = settings.of(program("web", "shop"))
    assert web
    assert (web.limit // MIB, web.checks, web.settle, web.grace) == (400, 4, 2, 60)
    assert settings.of(program("api", "shop")).limit == 200 * MIB
    assert settings.of(program("web", "blog")).limit == 300 * MIB


def test_defaults_alone_watch_nothing():
    settings = resolve({"": section(limit="100MB")})
    assert settings.names == ()
    assert settings.of(program("postgres")) is None


def test_names_unknown_to_supervisord_are_listed():
    settings = resolve({name: section(limit="100MB") for name in ("web", "shop", "shop:web", "shop:wbe", "wbe")})
    assert settings.unmatched([program("web", "shop")]) == ("shop:wbe", "wbe")
    assert settings.where("wbe") == section(limit="100MB")["limit"].where
    assert settings.where("none") == "[memreap:none]"


_KEY = st.one_of(st.sampled_from(KEYS), st.text(max_size=8))
_VALUE = st.one_of(st.text(max_size=12), st.from_regex(r"[0-9]{1,20}(\.[0-9]+)?[a-zA-Z]{0,3}", fullmatch=True))


# Not as conftest.py sets it: on other Pythons this runs without that.
@pytest.mark.dear
@drawn_with(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@for_any(st.dictionaries(st.text(max_size=8), st.dictionaries(_KEY, _VALUE, max_size=4), max_size=3))
def test_any_input_is_accepted_completely_or_refused_with_one_error(sections):
    given = {name: {key: Given(value, WHERE) for key, value in section.items()} for name, section in sections.items()}
    settings = None
    with contextlib.suppress(SettingsError):
        settings = resolve(given)
    for name in settings.names if settings else ():
        group, _, single = name.rpartition(":")
        of = settings.of(program(single, group or single))
        sizes = [size for size in (of.limit, of.total) if size is not None]
        assert all(size >= MIB for size in sizes)
        assert of.max_age is None or of.max_age >= 60
        assert of.observe or any(getattr(of, reason.setting) is not None for reason in REASONS if reason.setting)


@for_any(st.integers(min_value=1, max_value=1 << 60))
def test_sizes_in_bytes_are_exact(number):
    assert size(str(number)) == number


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("limit", "150MB"),
        ("limit", "3GB"),
        ("limit", "1048577"),
        ("min_age", "30s"),
        ("settle", "0s"),
        ("settle", "1.5s"),
        ("grace", "5min"),
        ("grace", "3h"),
        ("idle_wait", "never"),
        ("idle_wait", "60s"),
        ("hold", "no"),
        ("target", "self"),
        ("metric", "rss"),
    ],
)
def test_a_value_is_shown_as_a_user_may_write_it(key, text):
    given = {"limit": Given("1MB", "here"), key: Given(text, "there")}
    pool_settings = resolve({"myapp": given}).of(Program("myapp", "myapp", "RUNNING", 1))
    assert shown(pool_settings, key) == text


def test_the_origin_of_a_value_is_the_most_specific_section():
    settings = resolve(
        {
            "": {"limit": Given("1MB", "all"), "grace": Given("1h", "all")},
            "g": {"limit": Given("2MB", "group")},
            "a": {"checks": Given("2", "name")},
        }
    )
    origins = settings.origins(Program("g", "a", "RUNNING", 1))
    assert {key: origin.where for key, origin in origins.items()} == {
        "limit": "group",
        "grace": "all",
        "checks": "name",
    }


def group(*states: str) -> list[Program]:
    return [Program("g", f"a{number}", state, number, 77, True) for number, state in enumerate(states, 1)]


def test_with_target_self_the_processes_of_a_group_are_one_pool_below_supervisord():
    settings = resolve({"g": {"limit": Given("1MB", ""), "target": Given("self", "")}})
    programs = group("RUNNING", "BACKOFF")
    (pool,) = settings.pools([Program("other", "other", "RUNNING", 9, 77), *programs])
    assert pool.program == Program("g", "g", "RUNNING", 77)
    assert pool.members == tuple(programs)


@pytest.mark.parametrize(
    ("states", "shown"),
    [
        (["FATAL", "STARTING", "STOPPED"], "STARTING"),
        (["A STATE OF TOMORROW", "STOPPED"], "STOPPED"),
        (["A STATE OF TOMORROW"], "A STATE OF TOMORROW"),
    ],
)
def test_a_group_has_the_state_of_its_liveliest_process_and_unknown_states_pass_through(states, shown):
    settings = resolve({"g": {"limit": Given("1MB", ""), "target": Given("self", "")}})
    (pool,) = settings.pools(group(*states))
    assert (pool.program.state, type(pool.program.state)) == (shown, str)


def test_a_process_with_its_own_settings_is_its_own_pool():
    own = {"target": Given("self", ""), "limit": Given("1MB", "")}
    settings = resolve({"g": own, "a2": {"limit": Given("2MB", "")}})
    pools = settings.pools(group("STOPPED", "STOPPED", "FATAL"))
    assert [(watch.program.namespec, watch.program.state, len(watch.members)) for watch in pools] == [
        ("g", "FATAL", 2),
        ("g:a2", "STOPPED", 1),
    ]


def test_without_target_self_each_program_is_a_pool():
    settings = resolve({"g": {"limit": Given("1MB", "")}})
    assert [watch.program.namespec for watch in settings.pools(group("RUNNING", "STOPPED"))] == ["g:a1", "g:a2"]


def test_limits_in_a_command_become_sections():
    assert parse_name_size(["a=1MB", "g:b=2MB"], "there") == {
        "a": {"limit": Given("1MB", "there a:")},
        "g:b": {"limit": Given("2MB", "there g:b:")},
    }
    with pytest.raises(SettingsError, match="there a: not NAME=SIZE"):
        parse_name_size(["a"], "there")


@pytest.mark.parametrize("key", ["headroom", "pressure"])
def test_a_share_of_all_memory_or_time_that_cannot_be_is_refused(key):
    for value in ("0%", "101%", "half"):
        with pytest.raises(SettingsError, match=rf" {key}={value}: .*%"):
            resolve({"": section(**{key: value}), "myapp": {}})


def test_a_headroom_that_no_host_could_keep_is_refused():
    with pytest.raises(SettingsError, match="must be more than 0% and at most 90%"):
        resolve({"": section(headroom="91%"), "myapp": {}})
    with pytest.raises(SettingsError, match="not a size, such as 150MB, or 10%"):
        resolve({"": section(headroom="much"), "myapp": {}})


def test_a_value_that_is_not_set_is_shown_as_a_dash():
    assert shown(PoolSettings(), "limit") == "-"


def test_settings_are_equal_if_all_values_are_wherever_these_are_written():
    def of(limit: str, where: str, **for_all: str):
        return resolve({"": section(**for_all), "myapp": {"limit": Given(limit, where)}})

    assert of("150MB", "here") == of("153600KB", "there")
    assert of("150MB", "here") != of("151MB", "here")
    assert of("150MB", "here") != of("150MB", "here", log="json")
    assert of("150MB", "here") != "150MB"


def test_where_the_values_for_all_pools_are_written_is_known():
    written = section(limit="150MB")
    assert resolve({"": written, "myapp": {}}).origins_for_all == written
    assert resolve({"myapp": written}).origins_for_all == {}


def test_values_of_a_command_line_are_above_those_of_each_section_and_those_for_all_pools_only_in_theirs():
    given = section(limit="1MB", headroom="10%")
    sections = {"": section(grace="1h", limit="2MB"), "a": section(limit="3MB", checks="2"), "b": {}}
    assert overlay(sections, given) == {
        "": section(grace="1h", limit="2MB", headroom="10%"),
        "a": section(limit="1MB", checks="2"),
        "b": section(limit="1MB"),
    }
    assert overlay({}, {}) == {"": {}}
