"""The application of aging.psgi in WSGI."""

import os
import random
import time
from urllib.parse import parse_qsl

PAGES = 256 * int(os.environ.get("AGING_SHARED", "0"))
shared = bytearray(b"x") * (4096 * PAGES)
leaked = []
cache = {}
# What every worker keeps, and what the last large request needs; until when that is not freed.
held = {"base": b"", "large": b""}
until = {"large": 0.0}


def application(environ, start_response):
    query = dict(parse_qsl(environ["QUERY_STRING"]))
    if not held["base"]:
        held["base"] = b"x" * int(query.get("base", 0))
    if "leak" in query:
        leaked.append(b"x" * int(query["leak"]))
    for _ in range(int(query.get("touch", 0))):
        shared[4096 * random.randrange(PAGES)] = 1
    if "cache" in query:
        key = random.randrange(int(query["cache"]))
        if key not in cache:
            cache[key] = b"x" * int(query["entry"])
    if until["large"] and time.time() > until["large"]:
        held["large"], until["large"] = b"", 0.0
    if "large" in query:
        grow(int(query["large"]), query["stays"], float(query.get("hold", 0)))
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "3"), ("X-Worker", str(os.getpid()))])
    return [b"ok\n"]


def grow(size, stays, hold):
    if stays == "add":
        leaked.append(b"x" * size)
        return
    if size > len(held["large"]):
        held["large"] = b""
        held["large"] = b"x" * size
    if stays == "no":
        until["large"] = time.time() + hold
