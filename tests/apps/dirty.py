"""The application of growing.py, each request of which asks a dirty worker of gunicorn first."""

import growing  # type: ignore[import-not-found]
from gunicorn.dirty import DirtyApp, get_dirty_client  # type: ignore[import-untyped]


class Echoes(DirtyApp):
    def __call__(self, action, *args, **kwargs):
        return action


def application(environ, start_response):
    assert get_dirty_client().execute("dirty:Echoes", "ok") == "ok"
    return growing.application(environ, start_response)
