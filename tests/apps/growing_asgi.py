"""The application of growing.psgi in ASGI: requests that wait do so at the same time."""

import asyncio
import hashlib
import os
from urllib.parse import parse_qs

kept = []


async def application(scope, receive, send):
    if scope["type"] != "http":
        return
    query = parse_qs(scope["query_string"].decode())
    if "mb" in query:
        kept.append(b"x" * (int(query["mb"][0]) * 1024 * 1024))
    if "kb" in query:
        kept.append(b"x" * (int(query["kb"][0]) * 1024))
    if "s" in query:
        await asyncio.sleep(float(query["s"][0]))
    got, more = b"", True
    while more:
        message = await receive()
        got += message.get("body", b"")
        more = message.get("more_body", False)
    answer = f"{len(got)} {hashlib.md5(got).hexdigest()}\n{'.' * 4000}\nend\n".encode()
    pid = b"%d" % os.getpid()
    head = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(answer)), (b"x-worker", pid)]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": answer})
