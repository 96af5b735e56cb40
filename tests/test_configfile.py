"""The place of the configuration, and the parts of it that are read."""

from __future__ import annotations

import errno
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
from supervisor.options import ClientOptions, ServerOptions
from support.driver import eventually, is_alive

from supervisor_memreap.core.model import Program
from supervisor_memreap.core.settings import Given, SettingsError, resolve
from supervisor_memreap.supervisord import ancestor, configfile, mainlog
from supervisor_memreap.supervisord.configfile import ConfigFile, find, merge


def written(tmp_path, text: str, name: str = "supervisord.conf") -> ConfigFile:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    return ConfigFile(str(tmp_path / name))


def test_only_memreap_sections_are_read(tmp_path):
    contents = written(
        tmp_path, "[program:x]\ncommand=y\n[memreap]\nchecks=2\n[memreap:g:n]\nlimit = 1MB ; small\n"
    ).read()
    where = f"{tmp_path}/supervisord.conf"
    assert contents.sections == {
        "": {"checks": Given("2", f"{where} [memreap]")},
        "g:n": {"limit": Given("1MB", f"{where} [memreap:g:n]")},
    }
    assert contents.warnings == []


def test_includes_are_followed_as_supervisord_does(tmp_path):
    written(tmp_path, "[memreap:a]\nlimit=1MB\n", "conf.d/a.conf")
    written(tmp_path, "[memreap:a]\nlimit=2MB\n[memreap:b]\nlimit=%(here)s\n", "conf.d/b.conf")
    sections = (
        written(tmp_path, "[include]\nfiles=conf.d/*.conf nowhere/*.conf\n[memreap:a]\nchecks=2\n").read().sections
    )
    assert sections["a"]["limit"] == Given("2MB", f"{tmp_path}/conf.d/b.conf [memreap:a]")  # the later file wins
    assert sections["a"]["checks"].value == "2"
    assert sections["b"]["limit"].value == f"{tmp_path}/conf.d"


def test_a_memreap_section_that_appears_twice_is_a_warning_with_both_places(tmp_path):
    written(tmp_path, "\n[memreap:a]\nlimit=1MB\n[memreap:b]\nlimit=1MB\n", "conf.d/a.conf")
    text = (
        "[include]\nfiles=conf.d/*.conf conf.d/a.conf\n[memreap:a]\nlimit=2MB\n[memreap:c]\n[program:x]\n[memreap:c]\n"
    )
    main = f"{tmp_path}/supervisord.conf"
    ends = ": of a key in both the last one counts; keep one section"
    contents = written(tmp_path, f"{text}[program:x]\n;[memreap:c]\n").read()
    assert contents.warnings == [
        f"[memreap:a] appears at {main} line 3 and {tmp_path}/conf.d/a.conf line 2{ends}",
        f"[memreap:c] appears at {main} line 5 and {main} line 7{ends}",
    ]
    assert contents.sections["a"]["limit"].value == "1MB"


def test_a_section_of_supervisor_in_two_files_is_merged_as_supervisord_does_and_reported(tmp_path):
    a = (
        "[program:x]\ncommand=%(here)s/a\nnumprocs=2\nprocess_name=%(process_num)s\n"
        "[eventlistener:m]\ncommand=memreap listen\nevents=TICK_5\n"
    )
    written(tmp_path, a, "conf.d/a.conf")
    written(tmp_path, "[program:x]\nuser=nobody\nautorestart=false\n", "extra/b.conf")
    main = "[supervisord]\n[include]\nfiles=conf.d/*.conf conf.d/a.conf extra/*.conf\n"
    contents = written(tmp_path, main).read()
    x, listener = sorted(contents.others, key=lambda section: section.kind, reverse=True)
    assert (x.options["command"], x.options["user"], x.processes) == (f"{tmp_path}/conf.d/a", "nobody", ("0", "1"))
    options = ServerOptions()
    options.realize(["-c", f"{tmp_path}/supervisord.conf"])
    (theirs,) = [group for group in options.process_group_configs if group.name == "x"]
    assert [(each.name, each.command) for each in theirs.process_configs] == [
        (name, x.options["command"]) for name in x.processes
    ]
    assert listener.listens  # its file is included twice, which makes it one listener
    places = f"{tmp_path}/conf.d/a.conf line 1 and {tmp_path}/extra/b.conf line 1"
    assert contents.repeated == [
        f"[program:x] appears at {places}: of a key in both the last one counts; keep one section"
    ]


def test_keys_of_two_files_and_of_the_defaults_count_as_supervisord_merges_them(tmp_path):
    program = "autorestart=%s\nstopwaitsecs=%d\nstdout_logfile=%s\n"
    written(tmp_path, "[supervisord]\nminfds=100\n[program:b]\ncommand=%(here)s/b\n", "c/a.conf")
    written(tmp_path, "[DEFAULT]\nstartsecs=3\n[program:b]\n" + program % ("false", 60, "/b.log"), "c/b.conf")
    written(tmp_path, "[program:b]\n" + program % ("true", 50, "/c.log"), "c/c.conf")
    main = (
        f"[DEFAULT]\nstopwaitsecs=5\nautorestart=false\nstdout_logfile=%(here)s/a.log\npidfile={tmp_path}/s.pid\n"
        f"[supervisord]\nlogfile={tmp_path}/s.log\n[program:a]\ncommand=/a\nstopwaitsecs=70\n"
        "[include]\nfiles=c/b.conf c/*.conf c/b.conf\n"
    )
    contents = written(tmp_path, main).read()
    options = ServerOptions()
    options.realize(["-c", f"{tmp_path}/supervisord.conf"])
    assert (contents.logfile, contents.pidfile) == (options.logfile, options.pidfile)
    theirs = [group.process_configs[0] for group in options.process_group_configs]
    assert len(theirs) == 2
    for section, process in zip(contents.others, theirs):
        ours = [section.options[key] for key in ("command", "stopwaitsecs", "startsecs", "stdout_logfile")]
        assert ours == [
            process.command,
            str(process.stopwaitsecs),
            str(process.startsecs),
            process.stdout_logfile,
        ]
        assert section.is_off("autorestart") is (process.autorestart is False)
    assert contents.others[1].where_of("command") == f"{tmp_path}/c/a.conf [program:b]"
    assert contents.others[1].where_of("user") == f"{tmp_path}/c/b.conf [program:b]"


def test_a_limit_counts_though_the_defaults_have_one_which_is_ignored_with_a_warning(tmp_path):
    contents = written(tmp_path, "[DEFAULT]\nlimit=300MB\nuser=x\n[memreap:a]\nlimit=100MB\n").read()
    assert contents.sections == {"a": {"limit": Given("100MB", f"{tmp_path}/supervisord.conf [memreap:a]")}}
    assert contents.warnings == [f"{tmp_path}/supervisord.conf [DEFAULT] limit: ignored; use [memreap] for all pools"]


def test_the_server_is_that_of_supervisorctl_which_reads_the_main_file_alone(tmp_path):
    written(tmp_path, "[supervisorctl]\nserverurl=http://127.0.0.1:2\nusername=b\n", "a.ini")
    main = "[DEFAULT]\npassword=c\n[supervisorctl]\nserverurl=unix://%(here)s/s\n[include]\nfiles=*.ini\n"
    contents = written(tmp_path, main).read()
    options = ClientOptions()
    options.realize(["-c", f"{tmp_path}/supervisord.conf"])
    keys = ("serverurl", "username", "password")
    assert [contents.server.get(key) for key in keys] == [getattr(options, key) for key in keys]


def test_a_command_of_supervisorctl_is_repeated_only_within_the_main_file(tmp_path):
    plugin = "[ctlplugin:memreap]\nsupervisor.ctl_factory=supervisor_memreap.ctlplugin:make\n"
    written(tmp_path, plugin, "a.ini")
    main = f"[include]\nfiles=*.ini\n{plugin}"
    assert written(tmp_path, main).read().repeated == []
    (line,) = written(tmp_path, main + plugin).read().repeated
    path = f"{tmp_path}/supervisord.conf"
    assert line.startswith(f"[ctlplugin:memreap] appears at {path} line 3 and {path} line 5: ")


def test_percent_here_and_the_environment_are_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMIT", "7MB")
    written(tmp_path, "[memreap:a]\nlimit=%(ENV_LIMIT)s\n", "extra/a.ini")
    assert written(tmp_path, "[include]\nfiles=%(here)s/extra/*.ini\n").read().sections["a"]["limit"].value == "7MB"


@pytest.mark.parametrize("written_as", ["10%", "10 %", "10%%", "10%  ; of the container"])
def test_a_percentage_may_be_written_with_one_or_two_percent_signs(tmp_path, written_as):
    sections = written(tmp_path, f"[memreap]\nheadroom={written_as}\n[memreap:a]\nlimit=1MB\n").read().sections
    assert resolve(sections).of(Program("a", "a", "RUNNING", 1)).headroom == 0.1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[memreap:a]\nlimit\n", "Source contains parsing errors"),
        ("limit=1MB\n", "File contains no section headers."),
        ("[memreap:a]\nlimit=%(ENV_NOWHERE_SET)s\n", "[memreap:a] limit=%(ENV_NOWHERE_SET)s: unknown expansion"),
        ("[memreap:a]\nlimit=5%0\n", "[memreap:a] limit=5%0: unknown expansion"),
        ("[memreap:]\nlimit=1MB\n", "[memreap:]: no name; use [memreap] or [memreap:PROGRAM]"),
    ],
)
def test_an_unreadable_file_is_reported_in_one_line_with_its_name(tmp_path, text, expected):
    with pytest.raises(SettingsError) as caught:
        written(tmp_path, text).read()
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("keys", ["", "signal=HUP\n"])
def test_an_error_about_a_whole_section_names_its_first_file(tmp_path, keys):
    written(tmp_path, "[memreap:a]\n", "b.ini")
    contents = written(tmp_path, f"[include]\nfiles=b.ini\n[memreap:a]\n{keys}").read()
    where = f"{tmp_path}/supervisord.conf [memreap:a]"
    with pytest.raises(SettingsError, match=rf"^{re.escape(where)}: no limit=, "):
        resolve(merge(contents.sections), contents.places)
    settings = resolve(merge(contents.sections, {"": {"limit": Given("1MB", "x")}}), contents.places)
    assert settings.where("a") == where


@pytest.mark.parametrize(
    "text",
    [
        "[memreap:a]\nlimit=%(x)sVALUE\n",
        "[memreap:a]\nVALUE\n",
        "VALUE\n",
        "[memreap:a]\nVALUE=%(x)s\n",
        "[memreap:a VALUE\n",
    ],
)
def test_an_error_about_a_long_value_quotes_at_most_100_characters(tmp_path, text):
    with pytest.raises(SettingsError) as caught:
        written(tmp_path, text.replace("VALUE", "v" * 100_000)).read()
    assert "v" * 101 not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_missing_file_is_reported_in_one_line():
    with pytest.raises(SettingsError, match=r"^/nowhere/x\.conf: cannot be read: No such file or directory$"):
        ConfigFile("/nowhere/x.conf").read()


def test_what_supervisord_ignores_of_its_includes_is_ignored_with_a_warning_unless_it_is_a_directory(tmp_path):
    (tmp_path / "conf.d/disabled.conf").mkdir(parents=True)
    for name, target in (("gone.conf", "nowhere"), ("loop.conf", "loop.conf")):
        (tmp_path / "conf.d" / name).symlink_to(target)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "conf.d/s.conf"))
    (tmp_path / "conf.d/z.conf").write_text("[memreap:a]\nlimit=1MB\n")
    contents = written(tmp_path, "[include]\nfiles=conf.d/*\n").read()
    assert contents.sections["a"]["limit"].value == "1MB"
    assert [line.split("conf.d/")[1] for line in contents.warnings] == [
        f"{name}: ignored, as supervisord does: {os.strerror(number)}"
        for name, number in [
            ("gone.conf", errno.ENOENT),
            ("loop.conf", errno.ELOOP),
            ("s.conf", errno.ENXIO),
        ]
    ]


@pytest.mark.parametrize("has_end", [True, False])
def test_a_file_that_is_far_too_large_is_refused_before_it_is_read_as_a_whole(tmp_path, has_end):
    huge = tmp_path / "huge.ini"
    if has_end:
        huge.touch()
        os.truncate(huge, 1 << 40)
    else:
        huge.symlink_to("/dev/zero")
    file = written(tmp_path, "[include]\nfiles=*.ini\n")
    with pytest.raises(SettingsError, match=r"huge\.ini: cannot be read: it has more than 16 MiB$"):
        file.read()


def test_a_pipe_without_an_end_is_refused(tmp_path):
    with subprocess.Popen(["cat", "/dev/zero"], stdout=subprocess.PIPE) as writer:
        with pytest.raises(SettingsError, match=r"cannot be read: it has more than 16 MiB$"):
            ConfigFile(f"/proc/self/fd/{writer.stdout.fileno()}").read()
        writer.kill()


def test_any_error_in_reading_a_file_is_one_line_and_the_listener_keeps_its_settings(tmp_path, monkeypatch):
    file = written(tmp_path, "[memreap:a]\nlimit=1MB\n")
    monkeypatch.setattr(configfile, "_text", lambda _: "x" * (1 << 60))
    with pytest.raises(SettingsError, match=r"supervisord\.conf: cannot be read: MemoryError\(\)$"):
        file.read_apart()
    assert not file.has_changed()  # it is not tried again at each tick


def test_a_number_of_processes_that_no_supervisord_starts_is_no_obstacle(tmp_path):
    assert written(tmp_path, f"[program:a]\ncommand=b\nnumprocs={'9' * 5000}\n").read().programs()


def test_a_path_with_a_nul_is_none(tmp_path):
    contents = written(tmp_path, "[supervisord]\nlogfile=~\0x/y\npidfile=/tmp/a\0b/c\n").read()
    assert (contents.logfile, contents.pidfile) == ("", "")
    assert mainlog.directories(contents, os.getpid())


def test_a_pipe_is_read_to_its_end_and_one_that_nothing_writes_to_is_refused_at_once(tmp_path):
    pipe = tmp_path / "x.conf"
    os.mkfifo(pipe)
    with pytest.raises(SettingsError, match=r"x\.conf: cannot be read: it is a pipe, and nothing writes to it$"):
        ConfigFile(str(pipe)).read()
    with subprocess.Popen(["sh", "-c", 'printf "[memreap:myapp]\nlimit=1GB\n"'], stdout=subprocess.PIPE) as writer:
        path = f"/proc/self/fd/{writer.stdout.fileno()}"
        assert ConfigFile(path).read().sections["myapp"]["limit"].value == "1GB"


@pytest.mark.parametrize("text", [b"", b"[memreap:myapp]\nlimit=1GB\n"])
def test_a_pipe_that_is_not_closed_is_refused_after_a_while(tmp_path, monkeypatch, text):
    monkeypatch.setattr(configfile, "_PIPE", 0.2)
    pipe = tmp_path / "x.conf"
    os.mkfifo(pipe)
    with open(os.open(pipe, os.O_RDWR), "wb", buffering=0) as writer:
        writer.write(text)
        with pytest.raises(SettingsError, match=r"it is a pipe, and who writes to it has not closed it within 0\.2 s$"):
            ConfigFile(str(pipe)).read()


@pytest.mark.parametrize("section", ["memreep:myapp", "memreap myapp", "memreap.myapp", "mem_reap:myapp"])
def test_a_section_that_resembles_a_memreap_section_gets_a_warning(tmp_path, section):
    contents = written(tmp_path, f"[{section}]\nlimit=1MB\n").read()
    assert contents.sections == {}
    (warning,) = contents.warnings
    assert warning.endswith(f"[{section}]: ignored; use [memreap] or [memreap:PROGRAM]")


@pytest.mark.parametrize("section", ["eventlistener:memreap", "program:memreap", "supervisord", "rpcinterface:memreap"])
def test_sections_of_supervisord_get_no_warning(tmp_path, section):
    assert written(tmp_path, f"[{section}]\nx=1\n").read().warnings == []


def test_bytes_that_are_not_text_do_no_harm(tmp_path):
    (tmp_path / "x.conf").write_bytes(b"; caf\xe9\n[memreap:a]\nlimit=1MB\n")
    assert ConfigFile(str(tmp_path / "x.conf")).read().sections["a"]["limit"].value == "1MB"


def has_changed(file: ConfigFile) -> bool:
    """Whether it has; it is read then, and is unchanged afterwards."""
    changed = file.has_changed()
    file.read()
    assert not file.has_changed()
    return changed


def test_a_file_has_changed_if_an_included_file_changed_appeared_or_disappeared(tmp_path):
    file = written(tmp_path, "[include]\nfiles=*.ini\n")
    assert has_changed(file)
    for count, name in enumerate(("a.ini", "b.ini", "b.ini")):
        written(tmp_path, f"[memreap:a]\nlimit={count}MB\n" + "\n" * count, name)
        assert has_changed(file)
    (tmp_path / "b.ini").unlink()
    assert has_changed(file)
    (tmp_path / "a.ini").chmod(0o600)
    assert has_changed(file)
    written(tmp_path, "[include]\nfiles=*.ini nothing\n")
    assert has_changed(file)
    assert not has_changed(file)


def test_removing_the_only_included_file_right_after_the_first_read_is_a_change(tmp_path):
    written(tmp_path, "[memreap:a]\nlimit=1MB\n", "a.ini")
    file = written(tmp_path, "[include]\nfiles=*.ini\n")
    file.read()
    (tmp_path / "a.ini").unlink()
    assert file.has_changed()


@pytest.mark.parametrize("name", ["supervisord.conf", "a.ini"])
def test_a_file_with_an_error_is_read_again_once_it_has_changed_and_else_only_now_and_then(tmp_path, monkeypatch, name):
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    main = "[include]\nfiles=*.ini\n"
    for ini in ("a.ini", "b.ini"):
        written(tmp_path, "[memreap:a]\nlimit=1MB\n", ini)
    file = written(tmp_path, main)
    file.read()
    written(tmp_path, f"{main}nonsense\n", name)
    assert file.has_changed()
    with pytest.raises(SettingsError):
        file.read_apart()
    assert not file.has_changed()
    now += configfile._AGAIN
    assert file.has_changed()
    with pytest.raises(SettingsError):
        file.read_apart()
    assert not file.has_changed()
    written(tmp_path, main, name)
    assert file.has_changed()
    file.read_apart()
    now += configfile._AGAIN
    assert not file.has_changed()


def test_the_last_source_wins_key_by_key():
    file = {"a": {"limit": Given("1MB", "file"), "checks": Given("2", "file")}}
    command = {"a": {"limit": Given("3MB", "command")}, "b": {"limit": Given("4MB", "command")}}
    merged = merge(file, command)
    assert merged["a"] == {"limit": Given("3MB", "command"), "checks": Given("2", "file")}
    assert set(merged) == {"a", "b"}
    assert file["a"]["limit"].value == "1MB"


def test_a_given_path_is_used(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find("x.conf") == str(tmp_path / "x.conf")


# Of the short option and of the long one; the rest is getopt, with the options of supervisord (below).
@pytest.mark.parametrize("option", [["-nc", "{}/my.conf"], ["--conf", "my.conf"], []], ids=" ".join)
def test_the_configuration_is_that_of_the_supervisord_that_started_the_listener(tmp_path, option):
    name = "my.conf" if option else "supervisord.conf"
    (tmp_path / name).write_text(
        f"[supervisord]\nnodaemon=true\nlogfile={tmp_path}/s.log\npidfile={tmp_path}/s.pid\n"
        f"[eventlistener:memreap]\ncommand={sys.executable} -m supervisor_memreap listen\nevents=TICK_5\n"
        f"directory=/\nstdout_logfile=NONE\nstderr_logfile={tmp_path}/memreap.log\n"
    )
    command = [sys.executable, "-m", "supervisor.supervisord", *(argument.format(tmp_path) for argument in option)]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            eventually(lambda: _assert_used(tmp_path, name))
        finally:
            process.terminate()


def _assert_used(tmp_path, name) -> None:
    log = tmp_path / "memreap.log"
    text = log.read_text() if log.exists() else ""
    assert text.partition("\n")[0].endswith(f", configuration {tmp_path / name}"), text


def test_a_password_with_a_percent_sign_is_not_shown_and_no_obstacle(tmp_path):
    contents = written(tmp_path, "[supervisorctl]\npassword=s3cr%et\n[memreap:a]\nlimit=1MB\n").read()
    assert set(contents.sections) == {"a"}
    (warning,) = contents.warnings
    assert "[supervisorctl] password: ignored" in warning
    assert "s3cr" not in warning


def test_a_process_section_is_looked_up_by_name_and_group(tmp_path):
    path = tmp_path / "supervisord.conf"
    path.write_text(
        "[program:a]\ncommand=run %(program_name)s %(process_num)d\nnumprocs=2\nnumprocs_start=5\n"
        "process_name=%(program_name)s_%(process_num)02d_of_%(numprocs)s\nautorestart=true\n"
        "[fcgi-program:b]\ncommand=b\n[program:c]\ncommand=c %(nothing)s\nexitcodes=0,1\n[group:g]\nprograms=b, c\n"
    )
    contents = ConfigFile(str(path)).read()
    programs = [
        Program(*name, "RUNNING", 1)
        for name in (("a", "a_05_of_2"), ("a", "a_06_of_2"), ("g", "b"), ("g", "c"), ("b", "b"))
    ]
    sections = [contents.section_of(program) for program in programs]
    assert [section and section.name for section in sections] == ["a", "a", "b", "c", None]
    assert sections[0].options["command"] == "run a 0"
    assert "command" not in sections[3].options  # only supervisord could expand it
    assert [program.namespec for program in contents.programs()] == ["a:a_05_of_2", "a:a_06_of_2", "g:b", "g:c"]


def test_a_listener_with_a_command_that_only_supervisord_can_expand_is_recognised(tmp_path):
    path = tmp_path / "supervisord.conf"
    path.write_text("[eventlistener:x]\ncommand=%(ENV_NOT_HERE)s/memreap listen a=1MB\nevents=TICK_5\n")
    contents = ConfigFile(str(path)).read()
    assert [section.listens for section in contents.others] == [True]
    assert contents.limits() == {}


@pytest.mark.parametrize(
    ("command", "limits"),
    [
        ("memreap listen", {}),
        ("/srv/venv/bin/memreap listen -c x.conf myapp=1MB web=2GB", {"myapp": "1MB", "web": "2GB"}),
        ("python3 -m supervisor_memreap listen a:b=3MB --configuration y.conf", {"a:b": "3MB"}),
        ("memmon -p listen=1MB", {}),
    ],
)
def test_limits_in_the_command_of_the_listener_are_read(tmp_path, command, limits):
    path = tmp_path / "supervisord.conf"
    path.write_text(f"[eventlistener:x]\ncommand={command}\nevents=TICK_5\n")
    given_limits = ConfigFile(str(path)).read().limits()
    assert {name: given["limit"].value for name, given in given_limits.items()} == limits


def test_the_known_options_are_those_of_the_installed_supervisor():
    options = ServerOptions()
    assert sorted("".join(options.short_options)) == sorted(ancestor.SHORT_OPTIONS)
    assert options.long_options == ancestor.LONG_OPTIONS


def _cut_short(monkeypatch):
    """As if the process was ended while it wrote its answer."""
    whole = pickle.dumps
    monkeypatch.setattr(pickle, "dumps", lambda value: whole(value)[:-1])


@pytest.mark.parametrize("end", [lambda _: os.kill(os.getpid(), signal.SIGKILL), _cut_short], ids=["before", "amid"])
def test_a_file_is_read_here_where_the_process_apart_was_ended(tmp_path, monkeypatch, end):
    file, parent, read = written(tmp_path, "[memreap:a]\nlimit=1MB\n"), os.getpid(), ConfigFile.read

    def ending(self):
        if os.getpid() != parent:
            end(monkeypatch)
        return read(self)

    monkeypatch.setattr(ConfigFile, "read", ending)
    assert set(file.read_apart().sections) == {"a"}
    assert not file.has_changed()


def test_a_process_apart_that_its_user_stops_is_ended_and_the_file_is_refused_in_one_line(tmp_path, monkeypatch):
    file, parent, read = written(tmp_path, "[memreap:a]\nlimit=1MB\n"), os.getpid(), ConfigFile.read
    fork, children = os.fork, []

    def forking():
        children.append(fork())
        return children[-1]

    def stopping(self):
        if os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGSTOP)
        return read(self)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fork", forking)
        patch.setattr(ConfigFile, "read", stopping)
        with pytest.raises(SettingsError, match=r"\.conf: cannot be read: its process did not end within 0\.2 s$"):
            file.read_apart(0.2)
    (child,) = children
    assert not is_alive(child)
    assert not file.has_changed()  # it is not tried again at each tick
    file._again = 0.0
    assert file.has_changed()
    assert set(file.read_apart().sections) == {"a"}


@pytest.mark.parametrize("value", ["a", b"\xe4".decode(errors="surrogateescape"), "%(ENV_NONE)s", "x" * 200_000])
def test_what_is_read_apart_is_what_is_read_here(tmp_path, value):
    text = f"[program:a]\ncommand=b\n[memreap:a]\nlimit={value}\n[memreap]\nlog=json\n[memraep]\n"
    path = tmp_path / "s.conf"
    path.write_bytes(text.encode(errors="surrogateescape"))
    here, apart = ConfigFile(str(path)), ConfigFile(str(path))
    results: list[object] = []
    for read in (here.read, apart.read_apart):
        try:
            results.append(read())
        except SettingsError as error:
            results.append(str(error))
    assert results[0] == results[1]
    now_and_then = {"_again": 0.0}  # with an error, at a time of its own
    assert {**here.__dict__, **now_and_then} == {**apart.__dict__, **now_and_then}


def test_while_supervisor_is_not_installed_as_in_an_upgrade_the_file_is_refused_in_one_line(tmp_path, monkeypatch):
    file = written(tmp_path, "[memreap:a]\nlimit=1MB\n")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "supervisor.options", None)
        with pytest.raises(SettingsError, match=r"supervisord.conf: cannot be read without supervisor's parser: "):
            file.read_apart()
        patch.setattr(configfile, "_AGAIN", 0.0)
        with pytest.raises(SettingsError):
            file.read_apart()
    assert file.has_changed()
    assert set(file.read_apart().sections) == {"a"}
