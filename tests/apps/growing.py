"""The application of growing.psgi in WSGI."""

import hashlib
import os
import time
from urllib.parse import parse_qs

kept = []


def application(environ, start_response):
    query = parse_qs(environ["QUERY_STRING"])
    if "mb" in query:
        kept.append(b"x" * (int(query["mb"][0]) * 1024 * 1024))
    if "kb" in query:
        kept.append(b"x" * (int(query["kb"][0]) * 1024))
    if "s" in query:
        time.sleep(float(query["s"][0]))
    got = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    answer = f"{len(got)} {hashlib.md5(got).hexdigest()}\n{'.' * 4000}\nend\n".encode()
    head = [("Content-Type", "text/plain"), ("Content-Length", str(len(answer))), ("X-Worker", str(os.getpid()))]
    start_response("200 OK", head)
    return [answer]
