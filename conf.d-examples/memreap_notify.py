#!/usr/bin/env -S python3 -I
"""Pass memreap's announcements to a command on its standard input: memreap_notify.py COMMAND [ARGUMENT …]

Needs only supervisor. docs/interfaces.md describes an announcement.
"""

import json
import subprocess
import sys

from supervisor import childutils

while True:
    headers, payload = childutils.listener.wait(sys.stdin, sys.stdout)
    kind, _, data = payload.partition("\n")
    if kind == "type:memreap":
        # A line of JSON for each thing that happened in a tick.
        announcements = map(json.loads, data.splitlines())
        text = "".join(f"{item['event']}: {item['pool']}: {item['message']}\n" for item in announcements)
        try:
            # Our stdout carries the event protocol, so the command must not write to it. Events wait while it runs,
            # so its time is limited.
            subprocess.run(sys.argv[1:], input=text, text=True, stdout=sys.stderr, timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            sys.stderr.write(f"{text}not passed on: {error}\n")
            sys.stderr.flush()
    childutils.listener.ok(sys.stdout)
