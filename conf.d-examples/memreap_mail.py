#!/usr/bin/env -S python3 -I
"""Mail memreap's announcements through sendmail, at most one mail an hour for each pool.

What is announced within the hour is collected, and sent with the next mail. If sendmail fails, it is tried again
after a minute. Needs only Python 3.9; docs/interfaces.md describes an announcement.
"""

import argparse
import collections
import email.message
import email.utils
import json
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time

ANNOUNCEMENTS = ("reap", "left", "stuck", "suspended", "resumed", "short", "relieved")
# Seconds that sendmail may take, and after which it is tried again; not more than --every.
PATIENCE = 60
# Lines that are kept for a pool while they cannot be sent.
MOST = 1000


def main() -> None:
    mailer = Mailer(arguments())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        for headers, payload in events():
            kind, _, data = payload.partition("\n")
            if headers.get("eventname") == "REMOTE_COMMUNICATION" and kind == "type:memreap":
                for line in data.splitlines():
                    mailer.add(line)
            mailer.send()  # also with each TICK
    finally:
        mailer.close()


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--to", required=True, type=address, metavar="ADDRESS", help="recipients, separated by commas")
    add(
        "--every",
        type=duration,
        default=3600,
        metavar="TIME",
        help="at most one mail per pool in this time (default: 1h)",
    )
    add(
        "--events",
        type=choice,
        default=["stuck", "suspended", "resumed", "short", "relieved"],
        help=f"announcements to mail, separated by commas: {', '.join(ANNOUNCEMENTS)} (default: all but reap and left)",
    )
    add(
        "--sendmail",
        type=shlex.split,
        default=["/usr/sbin/sendmail", "-t", "-i"],
        metavar="COMMAND",
        help="reads a mail from standard input (default: /usr/sbin/sendmail -t -i)",
    )
    return parser.parse_args()


def address(text):
    if not text.strip() or not text.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r} is not an address such as ops@example.com")
    return text


def duration(text):
    match = re.fullmatch("([0-9]{1,6})(s|min|h)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 30min or 1h")
    return int(match[1]) * {"s": 1, "min": 60, "h": 3600}[match[2]]


def choice(text):
    chosen = text.split(",")
    if not set(chosen) <= set(ANNOUNCEMENTS):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of {', '.join(ANNOUNCEMENTS)}")
    return chosen


def events():
    """supervisord's events, each answered before it is handled."""
    while True:
        write(sys.stdout, "READY\n")
        words = sys.stdin.readline().split()
        headers = dict(word.split(":", 1) for word in words if ":" in word)
        if not headers:
            return  # supervisord has ended
        payload = sys.stdin.read(int(headers["len"]))
        write(sys.stdout, "RESULT 2\nOK")
        yield headers, payload


class Mailer:
    def __init__(self, options):
        self.options = options
        self.patience = min(PATIENCE, options.every)
        self.pools = {}
        # After a trouble with supervisord, the same line may come twice.
        self.recent = collections.deque(maxlen=MOST)
        self.sending = None
        self.trouble = ""
        self.retry = 0.0

    def add(self, line):
        try:
            item = json.loads(line)
            event, name, message, at = (item[key] for key in ("event", "pool", "message", "at"))
            name = clean(name) or "memory of the host"
            text = f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(at))} {name}: {clean(message)}"
        except (ValueError, KeyError, TypeError, OverflowError, OSError) as error:
            log(f"not an announcement ({error!r}): {line[:200]}")
            return
        if event in self.options.events and line not in self.recent:
            self.recent.append(line)
            self.pools.setdefault(name, Pool(name)).add([(event, text)])

    def send(self):
        """Send what is due, one mail at a time. Takes about a second for each; events wait."""
        while self.sending is None or self.has_ended():
            now = time.monotonic()
            due = [pool for pool in self.pools.values() if pool.lines and now >= max(pool.next, self.retry)]
            if not due:
                return
            self.sending = Sending(due[0], self.options, self.patience)

    def has_ended(self):
        """Whether sendmail has; what it could not send waits."""
        trouble = self.sending.trouble()
        if trouble is None:
            return False
        pool, lines = self.sending.pool, self.sending.lines
        if trouble:
            pool.add(lines, first=True)
            pool.missing += self.sending.missing
            # The mails of other pools wait too: each could take as long to fail.
            self.retry = time.monotonic() + self.patience
            if not self.trouble:
                log(f"{trouble}; trying again; lines about {pool.name} waiting: {len(lines)}")
        else:
            pool.next = time.monotonic() + self.options.every
            if self.trouble:
                log("mail is being sent again")
        self.sending = None
        self.trouble = trouble
        return True

    def close(self):
        """Nothing is lost without a line: what was not sent is in the log."""
        if self.sending:
            self.sending.deadline = 0.0
            self.has_ended()
        for pool in self.pools.values():
            for _, text in pool.lines:
                log(f"not mailed, since this listener ends: {text}")


class Pool:
    """What was announced of a pool and is not being sent yet."""

    def __init__(self, name):
        self.name = name
        self.next = 0.0
        self.lines = []
        self.missing = 0

    def add(self, lines, first=False):
        self.lines = [*lines, *self.lines] if first else [*self.lines, *lines]
        self.missing += max(0, len(self.lines) - MOST)
        self.lines = self.lines[-MOST:]

    def mail(self, to):
        host = socket.gethostname()
        events = ", ".join(dict.fromkeys(event for event, _ in self.lines))
        missing = [f"{self.missing} earlier lines were dropped: there were too many."] if self.missing else []
        message = email.message.EmailMessage()
        message["To"] = to
        message["Subject"] = f"[{host}] memreap: {self.name[:100]}: {events}"
        message["Date"] = email.utils.localtime()
        message["Message-ID"] = email.utils.make_msgid(domain=host)
        message["Auto-Submitted"] = "auto-generated"
        message.set_content("\n".join([*missing, *(text for _, text in self.lines), ""]), cte="quoted-printable")
        return bytes(message)


class Sending:
    """A sendmail that runs, with the lines of a pool."""

    def __init__(self, pool, options, patience):
        self.command = options.sendmail
        self.pool = pool
        self.process = None
        self.failed = ""
        self.deadline = time.monotonic() + patience
        # No pipes: sendmail may read late, and a process that it leaves behind may keep its output open.
        self.output = tempfile.TemporaryFile()  # noqa: SIM115 # it is read when sendmail has ended
        with tempfile.TemporaryFile() as mail:
            mail.write(pool.mail(options.to))
            mail.seek(0)
            try:
                self.process = subprocess.Popen(self.command, stdin=mail, stdout=self.output, stderr=self.output)
            except OSError as error:
                self.failed = f"{self.command[0]}: {error.strerror}"
        self.lines, pool.lines = pool.lines, []
        self.missing, pool.missing = pool.missing, 0

    def trouble(self):
        """Why it failed, in one line; empty: it did not; None: it still runs, also after a second."""
        try:
            status = self.process.wait(1) if self.process else None
        except subprocess.TimeoutExpired:
            if time.monotonic() < self.deadline:
                return None
            self.process.kill()
            self.process.wait()
            self.failed = f"{self.command[0]} did not end in time, and was killed"
            status = None
        with self.output:
            self.output.seek(0)
            stderr_text = clean(" ".join(self.output.read(1000).decode(errors="replace").split()))
        if status == 0:
            return ""
        return self.failed or f"{self.command[0]} failed with status {status}: {stderr_text}"


def clean(text):
    """One line: nothing in it can end a line or a header, or change a terminal."""
    return "".join(char if char.isprintable() else "?" for char in str(text))


def log(text):
    write(sys.stderr, f"{time.strftime('%Y-%m-%d %H:%M:%S')} memreap_mail: {clean(text)}\n")


def write(stream, text):
    stream.write(text)
    stream.flush()


if __name__ == "__main__":
    main()
