"""\
Check for anything that would stop memreap on this machine or make it unsafe, and suggest how to
fix it: the configuration, and whether supervisord and supervisorctl can load what it names; the
listener and its rights; the watched programs and their workers. Signals no process and changes
nothing. Asks the Pythons of supervisord and supervisorctl what they can import, and the managers'
Perl which FCGI::ProcManager it has.

    memreap doctor                     run as root, it can check more
    memreap doctor --json              as JSON
    supervisorctl memreap doctor       the same, run by the listener, also from another machine

A line with "note:" is about something that works but could work better, or that is unknown.

exit status: 0 no problems found; 1 problems found; 2 bad usage; 70 internal error; 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback

from supervisor_memreap import doctor
from supervisor_memreap.commands.arguments import add_configuration, add_json
from supervisor_memreap.outputs import log
from supervisor_memreap.supervisord.client import connect_as_supervisorctl


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_json(parser)
    add_configuration(parser)


def run(args: argparse.Namespace) -> int:
    """The exit status, as above."""
    try:
        if not args.json:
            return doctor.run(args.configuration, connect_as_supervisorctl, log.to(sys.stdout))
        findings = doctor.document(args.configuration, connect_as_supervisorctl)
        print(json.dumps(findings, indent=2))
        return 1 if findings["problems"] else 0
    except Exception:
        # 1 would mean that there are problems.
        traceback.print_exc()
        return os.EX_SOFTWARE
