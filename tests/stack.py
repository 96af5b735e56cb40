"""The real thing in a folder of its own: supervisord, FCGI::ProcManager under Plack or Catalyst, nginx in front."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
from driver import eventually, supervisord, workers_below

APPS = Path(__file__).with_name("apps")
ROOT = Path(__file__).parent.parent


def folder() -> Path:
    """A folder that every user may enter, with a path short enough for a socket's."""
    path = Path(tempfile.mkdtemp(prefix="memreap-"))
    path.chmod(0o755)
    return path


def catalyst(where: Path) -> Path:
    """The script of an application as catalyst.pl makes it, less the plugins of other packages, with our controller."""
    subprocess.run(["catalyst.pl", "MyApp"], cwd=where, check=True, stdout=subprocess.DEVNULL)
    main = where / "MyApp/lib/MyApp.pm"
    main.write_text(re.sub(r"^ *(-Debug|ConfigLoader|Static::Simple)$", "", main.read_text(), flags=re.MULTILINE))
    shutil.copy(APPS / "Root.pm", where / "MyApp/lib/MyApp/Controller/Root.pm")
    return where / "MyApp/script/myapp_fastcgi.pl"


class Stack:
    """One supervisord with one pool, one nginx and one listener."""

    def __init__(self, where: Path, port: int, name: str):
        self.folder = where
        self.port = port
        self.name = name

    def get(self, path: str) -> int:
        """The pid of the worker that answered."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
            assert answer.status == 200
            return int(answer.headers["X-Worker"])

    def grow(self, count: int, mb: int) -> set[int]:
        """The pids of `count` workers that grew by so many MB; each was busy while the others were asked."""
        grown: list[int] = []
        threads = [threading.Thread(target=lambda: grown.append(self.get(f"/grow?mb={mb}&s=1"))) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(grown)) == count
        return set(grown)

    def manager(self) -> psutil.Process:
        pids = re.findall(rf"spawned: '{self.name}' with pid ([0-9]+)", self.log("s.log"))
        return psutil.Process(int(pids[-1]))

    def workers(self) -> set[int]:
        return workers_below(self.manager().pid)

    def log(self, name: str = "memreap.log") -> str:
        path = self.folder / name
        return path.read_text() if path.exists() else ""

    def lines(self, word: str) -> list[str]:
        return [line for line in self.log().splitlines() if word in line]


@contextlib.contextmanager
def running(text: str, name: str, sock: Path, python: str = sys.executable, http: str | None = None) -> Iterator[Stack]:
    """supervisord with the configuration `text`, in the folder of `sock`, and an nginx in front of that."""
    where = sock.parent
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    conf = (APPS / "nginx.conf").read_text()
    for word, value in {"FOLDER": where, "PORT": port, "SOCKET": sock}.items():
        conf = conf.replace(word, str(value))
    (where / "nginx.conf").write_text(conf)
    nginx = f"[program:nginx]\ncommand=/usr/sbin/nginx -c {where}/nginx.conf -p {where}/\n"
    with supervisord(where, text + nginx, http, python=python):
        stack = Stack(where, port, name)
        eventually(lambda: answers(stack), timeout=30)
        yield stack


def answers(stack: Stack) -> None:
    try:
        stack.get("/")
    except OSError as error:
        raise AssertionError(f"{error}; {stack.log('nginx-error.log')}") from None


class Watch:
    """Looks at the pool every 20 ms, for what no log would admit."""

    def __init__(self, stack: Stack):
        self._stack = stack
        self._stop = threading.Event()
        self.fewest = len(stack.workers())
        self.managers = {stack.manager().pid}
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            with contextlib.suppress(psutil.NoSuchProcess):
                self.fewest = min(self.fewest, len(self._stack.workers()))
                self.managers.add(self._stack.manager().pid)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
