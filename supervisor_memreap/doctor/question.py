"""Runs in the Python of supervisord or supervisorctl (`python -c`), and prints as JSON what doctor.interpreter asks.

Only the standard library, and no syntax that an old Python 3 does not have: this text runs in an interpreter that may
know nothing of memreap. It opens no socket and no log, and writes nothing: supervisor's own parser reads the file, and
the modules that its sections name are imported, as at a start.
"""

import sys

# Before any import that is not built in: -c puts the current directory first on the path, where another user may have
# left a json.py.
if sys.path[:1] == [""]:
    del sys.path[0]

import importlib
import importlib.util
import json
import os
import sysconfig
from typing import Any, Dict  # noqa: UP035 # Python 3.8 and older have no dict[str, Any]


def import_ours(module: str) -> Dict[str, Any]:  # noqa: UP006
    try:
        importlib.import_module(module)
        return {"version": str(importlib.import_module("supervisor_memreap").__version__)}
    except BaseException as error:
        return {"error": type(error).__name__ + ": " + str(error)}


def read_configuration(kind: str, path: str) -> Dict[str, Any]:  # noqa: UP006
    def refuse(message: object) -> None:
        raise ValueError(str(message))

    from supervisor import options, rpcinterface

    whole = options.ServerOptions() if kind == "supervisord" else options.ClientOptions()
    whole.usage = refuse
    try:
        whole.realize(["-c", path])
    except BaseException as error:
        return {"refused": str(error) or type(error).__name__}
    if kind != "supervisord":
        return {}
    # Its values in the form in which supervisord gives those that it runs.
    whole.process_groups = {}
    supervisord = type("Supervisord", (), {"options": whole, "process_groups": {}})()
    processes = rpcinterface.SupervisorNamespaceRPCInterface(supervisord).getAllConfigInfo()
    return {"processes": processes, "serverurl": whole.serverurl}


def answer(kind: str, module: str, first: str, path: str, *included: str) -> Dict[str, Any]:  # noqa: UP006
    # With -I or -P, Python leaves out the directory of a script as well.
    if first and not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
        sys.path.insert(0, first)
    marker = os.path.join(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED")
    answer: Dict[str, Any] = {  # noqa: UP006
        "managed": os.path.exists(marker) and sys.prefix == sys.base_prefix,
        "pip": importlib.util.find_spec("pip") is not None,
    }
    answer.update(import_ours(module))
    for file in (path, *included):
        # supervisord may have read it before it became this user; its parser leaves out what it may not read.
        if os.path.exists(file) and not os.access(file, os.R_OK):
            answer["unread"] = file + " cannot be read by its user (no permission)"
            return answer
    try:
        answer.update(read_configuration(kind, path))
    except BaseException as error:
        answer["unread"] = type(error).__name__ + ": " + str(error)
    return answer


if __name__ == "__main__":
    # Whatever a module prints when it is imported must not be taken for the answer.
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    output.write(json.dumps(answer(*sys.argv[1:])))
    output.flush()
    os._exit(0)
