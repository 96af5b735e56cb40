"""A listener that writes down what memreap announces, a line of JSON each: python recorder.py FILE"""

from __future__ import annotations

import os
import sys

from supervisor_memreap.supervisord.client import ANNOUNCEMENT
from supervisor_memreap.supervisord.protocol import Protocol


def main() -> None:
    protocol = Protocol(0, os.dup(1))
    protocol.ready()
    while True:
        try:
            events = list(protocol.feed())
        except EOFError:
            return
        for event in events:
            kind, _, data = event.payload.partition("\n")
            if kind == f"type:{ANNOUNCEMENT}":
                with open(sys.argv[1], "a", encoding="utf-8") as file:
                    file.write(f"{data}\n")
            protocol.ok()
            protocol.ready()


if __name__ == "__main__":
    main()
