#!/usr/bin/env python3
"""Hands each announcement of memreap to a command, on its standard input: memreap_notify.py COMMAND [ARGUMENT …]

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
        what = json.loads(data)
        line = f"{what['event']}: {what['pool']}: {what['message']}\n"
        try:
            # Its output must not get into ours, which is the event protocol; and it must not keep supervisord waiting.
            subprocess.run(sys.argv[1:], input=line, text=True, stdout=sys.stderr, timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            sys.stderr.write(f"{line}not handed on: {error}\n")
            sys.stderr.flush()
    childutils.listener.ok(sys.stdout)
