"""conf.d-examples/mail.conf: mail through the sendmail of msmtp, to an SMTP server of the test."""

from __future__ import annotations

import contextlib
import email
import email.policy
import email.utils
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from support import needs, stack
from support.driver import OK, POOL, READY, eventually, supervisord, until
from support.operated import Operated

EXAMPLE = stack.ROOT / "conf.d-examples/mail.conf"
SCRIPT = EXAMPLE.with_name("memreap_mail.py")
EVERY = 2


class Inbox:
    """Takes mails. What is sent to it in SMTP is kept."""

    def __init__(self) -> None:
        self.mails: list[tuple[list[str], EmailMessage, float]] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 # the name that aiosmtpd calls
        mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert isinstance(mail, EmailMessage)
        self.mails.append((envelope.rcpt_tos, mail, time.monotonic()))
        return "250 OK"

    def about(self, pool: str) -> list[EmailMessage]:
        return [mail for _, mail, _ in self.mails if f" memreap: {pool}: " in mail["Subject"]]


@contextlib.contextmanager
def receiving() -> Iterator[Inbox]:
    taken = Inbox()
    server = Controller(taken, hostname="127.0.0.1", port=stack.free_port())
    server.start()
    taken.port = server.port  # type: ignore[attr-defined]
    try:
        yield taken
    finally:
        server.stop()


@pytest.fixture
def inbox():
    with receiving() as taken:
        yield taken


def sendmail(where: Path, port: int) -> str:
    """The command of a sendmail that hands mails to this server."""
    needs.skip_without("msmtp")
    conf = where / "msmtprc"
    conf.write_text(f"account default\nhost 127.0.0.1\nport {port}\nfrom memreap@example.org\n")
    return f"/usr/sbin/sendmail -C {conf} -t -i"


@pytest.fixture(scope="module")
def mails():
    """What the listener of `mailing` sends; each test has pools of its own."""
    with receiving() as taken:
        yield taken


@pytest.fixture(scope="module")
def mailing(tmp_path_factory, mails):
    """A supervisord with memreap, a pool whose limit is too low, and the listener of the example."""
    tmp_path = tmp_path_factory.mktemp("mail")
    command = f"{sys.executable} -I {SCRIPT} --to root@example.org --every {EVERY}s"
    section = EXAMPLE.read_text().replace(
        "/usr/bin/python3 -I /etc/supervisor/memreap_mail.py --to root",
        f'{command} --sendmail "{sendmail(tmp_path, mails.port)}"',
    )
    section = section.replace("/var/log/supervisor/", f"{tmp_path}/")
    assert str(SCRIPT) in section
    programs = (
        f"[program:myapp]\ncommand={sys.executable} {POOL} 2 40\nstopasgroup=true\nkillasgroup=true\n"
        "[memreap:myapp]\nlimit=30MB\nmin_age=1h\n"
        f"[eventlistener:memreap]\ncommand={Path(sys.executable).parent}/memreap listen\n"
        f"events=TICK_5\nstderr_logfile={tmp_path}/memreap.log\npriority=1002\n"
    )
    with supervisord(tmp_path, section + programs):
        yield Operated(tmp_path, sys.executable, f"unix://{tmp_path}/s.sock", "", "")


def announcement(pool: str, message: str, event: str = "stuck", at: float = 1e9) -> str:
    return json.dumps({"version": 1, "event": event, "pool": pool, "pid": 1, "message": message, "at": at})


def announce(mailing, *lines: str) -> None:
    mailing.rpc().supervisor.sendRemoteCommEvent("memreap", "\n".join(lines))


def assert_mails(inbox, pool: str, count: int) -> list[EmailMessage]:
    mails = inbox.about(pool)
    assert len(mails) == count
    return mails


def body(mail: EmailMessage) -> list[str]:
    return str(mail.get_content()).splitlines()


def log_of(mailing) -> str:
    return (mailing.directory / "memreap_mail.log").read_text()


def test_a_suspended_pool_causes_a_mail(mailing, mails):
    (mail,) = eventually(lambda: assert_mails(mails, "myapp", 1))
    assert mail["To"] == "root@example.org"
    assert mail["From"].addresses[0].addr_spec == "memreap@example.org"
    assert mail["Subject"].endswith(" memreap: myapp: suspended")
    assert mail["Auto-Submitted"] == "auto-generated"
    assert re.fullmatch(r"<[^<>@\s]+@[^<>@\s]+>", mail["Message-ID"])
    assert abs(email.utils.parsedate_to_datetime(mail["Date"]).timestamp() - time.time()) < 60
    (line,) = body(mail)
    assert re.match(r"[0-9: -]{19} myapp: suspended: even a fresh worker holds 4\d MiB", line)
    assert log_of(mailing) == ""


def test_later_events_go_into_the_next_mail_and_other_pools_do_not_wait(mailing, mails):
    announce(mailing, announcement("a", "first"))
    eventually(lambda: assert_mails(mails, "a", 1))
    again = announcement("a", "first")  # a line may arrive twice
    announce(mailing, again, announcement("a", "second"), announcement("a", "reaped", "reap"))
    announce(
        mailing, announcement("a", "third", "resumed"), announcement("b", "other"), announcement("", "host", "short")
    )
    eventually(lambda: assert_mails(mails, "b", 1))
    eventually(lambda: assert_mails(mails, "memory of the host", 1))
    first, second = eventually(lambda: assert_mails(mails, "a", 2))
    assert [line.split()[-1] for line in body(first)] == ["first"]
    assert [line.split()[-1] for line in body(second)] == ["second", "third"]
    assert second["Subject"].endswith(": a: stuck, resumed")
    start, end = (at for _, mail, at in mails.mails if mail in (first, second))
    assert end - start > EVERY - 0.5
    assert second["Message-ID"] != first["Message-ID"]


def test_no_text_becomes_a_header_or_ends_the_mail(mailing, mails):
    hostile = "\r\n.\r\nBcc: thief@example.org\n\nw\u00f6rld \u4e16\u754c \x1b[31m \u2028 \udcff"
    announce(
        mailing, announcement(f"evil{hostile}", hostile, at=2e9), "{", "[]", '{"event": 1}', announcement("c", "x")
    )
    eventually(lambda: assert_mails(mails, "c", 1))
    ((to, mail, _),) = [each for each in mails.mails if "evil" in each[1]["Subject"]]
    assert to == ["root@example.org"]
    assert "Bcc" not in mail
    shown = "??.??Bcc: thief@example.org??w\u00f6rld \u4e16\u754c ?[31m ? ?"
    assert mail["Subject"].endswith(f" memreap: evil{shown}: stuck")
    (line,) = body(mail)
    assert line.endswith(f" evil{shown}: {shown}")
    refused = log_of(mailing).splitlines()
    assert len(refused) == 3
    assert all(" memreap_mail: not an announcement (" in each for each in refused)


class Running:
    """The script, with the test in the place of supervisord."""

    def __init__(self, where: Path, command: str, *words: str):
        self.log = where / "mail.log"
        options = ["--to", "root@example.org", "--every", f"{EVERY}s", "--sendmail", command]
        with self.log.open("w") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, str(SCRIPT), *options, *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
            )
        self.expect(READY)

    def expect(self, expected: bytes) -> None:
        assert self.process.stdout
        assert self.process.stdout.read(len(expected)) == expected

    def event(self, *lines: str) -> None:
        """An announcement, or a tick; it is answered with OK."""
        assert self.process.stdin
        name, payload = ("REMOTE_COMMUNICATION", "\n".join(["type:memreap", *lines])) if lines else ("TICK_5", "when:1")
        self.process.stdin.write(f"ver:3.0 server:a:b eventname:{name} len:{len(payload)}\n{payload}".encode())
        self.process.stdin.flush()
        self.expect(OK + READY)

    def lines(self) -> list[str]:
        return [line.partition(" memreap_mail: ")[2] for line in self.log.read_text().splitlines()]

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            assert stream
            stream.close()
        self.process.kill()
        self.process.wait()


def script(where: Path, text: str) -> str:
    path = where / "sendmail"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("echo 'no route'; echo 'to host' >&2; exit 75", "WHERE/sendmail failed with status 75: no route to host"),
        ("exec sleep 1000", "WHERE/sendmail did not end in time, and was killed"),
    ],
    ids=["fails", "hangs"],
)
def test_when_sendmail_fails_events_are_answered_and_the_mail_is_sent_later(tmp_path, inbox, fault, expected):
    command = script(tmp_path, fault)
    with Running(tmp_path, command) as running:
        running.event(announcement("a", "first"))
        for number in range(5):
            start = time.monotonic()
            running.event(announcement("a", f"line {number}"))
            assert time.monotonic() - start < 10

        # In which it has tried a second time.
        later = time.monotonic() + 2.5 * EVERY
        until(lambda: running.event() or (time.monotonic() > later and running.lines()))
        expected = expected.replace("WHERE", str(tmp_path))
        assert running.lines() == [f"{expected}; trying again; lines about a waiting: 1"]
        script(tmp_path, f"exec {sendmail(tmp_path, inbox.port)}")

        def assert_sent() -> EmailMessage:
            running.event()
            (mail,) = inbox.about("a")
            return mail

        mail = eventually(assert_sent)
        assert [line.split(": ")[-1] for line in body(mail)] == ["first", *(f"line {number}" for number in range(5))]
        running.event()
        assert running.lines()[1:] == ["mail is being sent again"]


def test_a_missing_command_is_reported_in_one_line(tmp_path):
    with Running(tmp_path, "/nowhere/sendmail -t") as running:
        running.event(announcement("a", "first"))
        assert running.lines() == [
            "/nowhere/sendmail: No such file or directory; trying again; lines about a waiting: 1"
        ]


@pytest.mark.parametrize("ending", ["TERM", "end of file"])
def test_unsent_mails_are_logged_at_the_end(tmp_path, ending):
    with Running(tmp_path, script(tmp_path, "exec sleep 1000"), "--every", "1h") as running:
        running.event(announcement("a", "first"))
        running.event(announcement("a", "second"))
        if ending == "TERM":
            running.process.send_signal(signal.SIGTERM)
        else:
            assert running.process.stdin
            running.process.stdin.close()
        assert running.process.wait(20) == 0
        lost = [line for line in running.lines() if line.startswith("not mailed, since this listener ends: ")]
        assert [line.split()[-1] for line in lost] == ["first", "second"]


def test_events_beyond_the_maximum_of_a_mail_are_counted(tmp_path, inbox):
    with Running(tmp_path, "false") as running:
        running.event(*(announcement("a", f"line {number}") for number in range(1200)))
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(20) == 0
        assert next(line.split()[-1] for line in running.lines() if "not mailed" in line) == "200"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "the following arguments are required: --to"),
        (["--to", "a\nBcc: b"], r"'a\nBcc: b' is not an address such as ops@example.com"),
        (["--to", "a", "--every", "1 hour"], "'1 hour' is not a time such as 30min or 1h"),
        (["--to", "a", "--events", "stuk"], "'stuk' is not a list of reap, left, stuck"),
    ],
)
def test_a_mistake_in_the_command_is_named(words, expected):
    result = subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert expected in result.stderr
