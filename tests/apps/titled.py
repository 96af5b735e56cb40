"""The application of titled.psgi in WSGI. It is the application of dirty workers too, of which each only waits."""

import ctypes
import os

from gunicorn.dirty.app import DirtyApp  # type: ignore[import-untyped]


class Waits(DirtyApp):
    def __call__(self, action, *args, **kwargs):
        return action


def application(environ, start_response):
    ctypes.CDLL(None).prctl(15, b"myapp", 0, 0, 0)  # PR_SET_NAME
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Worker", str(os.getpid()))])
    return [b"ok"]
