"""A listener that writes down what memreap announces: python recorder.py FILE"""

from __future__ import annotations

import sys

from supervisor import childutils

while True:
    headers, payload = childutils.listener.wait(sys.stdin, sys.stdout)
    kind, _, data = payload.partition("\n")
    if kind == "type:memreap":
        with open(sys.argv[1], "a") as file:
            file.write(f"{data}\n")
    childutils.listener.ok(sys.stdout)
