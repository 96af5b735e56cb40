#!/usr/bin/env python3
"""Hands the announcements of memreap to a command, on its standard input: memreap_notify.py COMMAND [ARGUMENT …]

It needs nothing but supervisor itself. docs/operating.md says what is in an announcement.
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
        happened = map(json.loads, data.splitlines())
        text = "".join(f"{one['event']}: {one['pool']}: {one['message']}\n" for one in happened)
        try:
            # Its output must not get into ours, which is the event protocol; and it must not keep supervisord waiting.
            subprocess.run(sys.argv[1:], input=text, text=True, stdout=sys.stderr, timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            sys.stderr.write(f"{text}not handed on: {error}\n")
            sys.stderr.flush()
    childutils.listener.ok(sys.stdout)
