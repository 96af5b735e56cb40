"""A WSGI application whose import takes IMPORT seconds, or as many as a file `import` in the working directory says.

A file in MARKS names each process that has it behind it.
"""

import os
import time
from pathlib import Path

seconds = Path("import")
time.sleep(float(seconds.read_text() if seconds.exists() else os.environ["IMPORT"]))
Path(os.environ["MARKS"], str(os.getpid())).touch()
held = []


def application(environ, start_response):
    if environ["PATH_INFO"] == "/grow":
        held.append(bytearray(60 << 20))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
