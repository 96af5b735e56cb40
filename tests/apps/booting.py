"""A configuration of gunicorn: while there is a file SOCKET.broken, no worker can start."""

import os


def post_fork(server, worker):
    for bind in server.cfg.bind:
        if os.path.exists(bind[len("unix:") :] + ".broken"):
            raise RuntimeError("a broken deployment")
