"""What a child process of supervisor_memreap.outputs.child does in tests; it imports this module."""

from __future__ import annotations

import os
import sys
import time

import psutil

from supervisor_memreap.history import historywriter


def echo(messages, send, _recording):
    for message in messages:
        send({"got": message, "more": messages.has_more()})


def hang(_messages, _send, _recording):
    while True:
        time.sleep(1000)


def count(messages, send, _recording):
    send({"begun": True})
    send({"kinds": sum(1 for _ in messages)})


def slow(messages, send, _recording):
    send({"begun": True})
    for _ in messages:
        time.sleep(0.1)
        send({"done": True})


def broken(_messages, _send, _recording):
    raise KeyError("x")


def describe(messages, send, recording):
    for _ in messages:
        listed = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd") if int(fd) > 2]
        send(
            {
                "fds": [fd for fd in listed if os.path.exists(fd)],
                "name": psutil.Process().name(),
                "path": sys.path,
                "recording": recording,
            }
        )


def history_that_tries_again_at_once(messages, send, recording):
    historywriter.RETRY = historywriter.HANDOVER = 0.0
    historywriter.consume(messages, send, recording)
