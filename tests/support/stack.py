"""The real stack in a private directory: supervisord, FCGI::ProcManager under Plack or Catalyst, nginx in front."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import xmlrpc.client
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import supervisor

import supervisor_memreap
from supervisor_memreap import __version__
from support import needs
from support.driver import Transport, eventually, is_alive, processes_in, supervisord, workers_below

INTERFACE = (
    "[rpcinterface:memreap]\nsupervisor.rpcinterface_factory=supervisor_memreap.rpcinterface:make_rpcinterface\n"
)
PLUGIN = "[ctlplugin:memreap]\nsupervisor.ctl_factory=supervisor_memreap.ctlplugin:make_ctlplugin\n"
ROOT = Path(__file__).parent.parent.parent
APPS = ROOT / "tests/apps"
# Environments by the version of supervisor in them: ours, and the one that Debian 12 has.
ENVIRONMENTS = {
    importlib.metadata.version("supervisor"): Path(sys.prefix),
    "4.2.5": Path(os.environ.get("MEMREAP_SUPERVISOR_425", ROOT / ".venv-supervisor-4.2.5")),
}


def python_with(version: str) -> str:
    """A Python with this version of supervisor; skips where tests/run made none, fails where it does not work."""
    if not ENVIRONMENTS[version].exists():
        pytest.skip(f"no environment with supervisor {version}: tests/run makes it")
    python = str(ENVIRONMENTS[version] / "bin/python")
    command = [python, "-m", "supervisor.supervisord", "--version"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"{version}\n"
    return python


def statefiles(supervisord: int) -> list[Path]:
    """What a listener of our user has saved of this supervisord."""
    return [*Path(os.environ["XDG_RUNTIME_DIR"], "memreap").glob(f"memreap-*-{supervisord}-*")]


def directory() -> Path:
    """A directory that every user may enter, with a path short enough for a socket's."""
    path = Path(tempfile.mkdtemp(prefix="memreap-")).resolve()
    path.chmod(0o755)
    return path


def wheel(where: Path) -> Path:
    """The wheel of this checkout, built in the directory `where`."""
    # Of a copy: building leaves files in the directory, in which other tests may be building as well.
    source = where / "source"
    source.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("supervisor_memreap", "docs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(where), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    shutil.rmtree(source)
    (path,) = where.glob("*.whl")
    return path


def with_version(wheel: Path, where: Path, version: str) -> Path:
    """The same wheel as if it were of that version, in a moment instead of the 10 s of a build."""
    path = where / wheel.name.replace(__version__, version)
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith(("/METADATA", "/RECORD", "supervisor_memreap/__init__.py")):
                content = content.replace(__version__.encode(), version.encode())
            new.writestr(name.replace(__version__, version), content)
    return path


def set_version(source: Path, version: str) -> None:
    path = source / "supervisor_memreap/__init__.py"
    path.write_text(re.sub(r'(?m)^__version__ = ".*"$', f'__version__ = "{version}"', path.read_text()))


def catalyst(where: Path) -> Path:
    """The script of an application as catalyst.pl makes it, less the plugins of other packages, with our controller."""
    needs.skip_without("catalyst.pl")
    subprocess.run(["catalyst.pl", "MyApp"], cwd=where, check=True, stdout=subprocess.DEVNULL)
    main = where / "MyApp/lib/MyApp.pm"
    main.write_text(re.sub(r"^ *(-Debug|ConfigLoader|Static::Simple)$", "", main.read_text(), flags=re.MULTILINE))
    shutil.copy(APPS / "Root.pm", where / "MyApp/lib/MyApp/Controller/Root.pm")
    return where / "MyApp/script/myapp_fastcgi.pl"


class Pool:
    """A pool that supervisord runs under this name, and nginx behind /name/."""

    def __init__(self, where: Path, port: int, name: str):
        self.directory = where
        self.port = port
        self.name = name

    def another(self, name: str) -> Pool:
        return Pool(self.directory, self.port, name)

    def ask(self, query: str = "", body: bytes | None = None) -> tuple[int, bytes]:
        """The pid of the worker that answered, and its answer; raises OSError for all but a whole 200."""
        url = f"http://127.0.0.1:{self.port}/{self.name}/?{query}"
        request = urllib.request.Request(url, body, {"Content-Type": "application/octet-stream"})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                assert answer.status == 200
                return int(answer.headers["X-Worker"]), answer.read()
        except urllib.error.HTTPError as error:
            error.close()  # it has the connection
            raise

    def grow(self, count: int, mb: int) -> set[int]:
        """Let `count` workers grow by `mb` MB, each busy while the others are asked; returns their pids.

        One of them may be asked again, where the others have only begun to serve.
        """
        grown: set[int] = set()
        deadline = time.monotonic() + 30
        while len(grown) < count and time.monotonic() < deadline:
            with ThreadPoolExecutor(count) as threads:
                asked = [threads.submit(self.ask, f"mb={mb}&s=1") for _ in range(count - len(grown))]
            grown |= {answer.result()[0] for answer in asked}
        assert len(grown) == count
        return grown

    def managers(self) -> list[int]:
        """The pids that supervisord gave to this program, the last one last."""
        return [int(pid) for pid in re.findall(rf"spawned: '{self.name}' with pid ([0-9]+)", self.log("s.log"))]

    def manager(self) -> psutil.Process:
        return psutil.Process(self.managers()[-1])

    def workers(self) -> set[int]:
        return workers_below(self.manager().pid)

    def largest(self) -> float:
        """The private memory of the largest worker, in MiB, including swap."""
        infos = [psutil.Process(pid).memory_full_info() for pid in self.workers()]
        return max(info.uss + info.swap for info in infos) / 1024**2

    def log(self, name: str = "memreap.log") -> str:
        path = self.directory / name
        return path.read_text() if path.exists() else ""

    def lines(self, text: str) -> list[str]:
        """The log lines about this pool that contain the text."""
        return [line for line in self.log().splitlines() if f" memreap: {self.name}: " in line and text in line]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@contextlib.contextmanager
def running(
    text: str,
    name: str,
    where: Path,
    python: str = sys.executable,
    http: str | None = None,
    nginx_conf: Path | None = APPS / "nginx.conf",
    within: Sequence[str] = (),
    port: int = 0,
    prompt: bool = True,
) -> Iterator[Pool]:
    """The pool `name` of a supervisord with the configuration `text`, whose pools listen on where/NAME.sock.

    Without `nginx_conf` the pool itself speaks HTTP, on `port`. `within` and `prompt` are those of driver.supervisord.
    At the end supervisord is asked to end, as by an administrator. A process that is still there then is ended by
    force, and the test fails.
    """
    port = port or free_port()
    if nginx_conf:
        conf = nginx_conf.read_text().replace("FOLDER", str(where)).replace("PORT", str(port))
        (where / "nginx.conf").write_text(conf)
        command = f"/usr/sbin/nginx -e {where}/nginx-error.log -c {where}/nginx.conf -p {where}/"
        text += f"[program:nginx]\ncommand={command}\n"
    with supervisord(where, text, http, python=python, within=within, prompt=prompt) as process:
        pool = Pool(where, port, name)
        try:
            eventually(lambda: assert_answers(pool), timeout=30)
            yield pool
        finally:
            with contextlib.suppress(AssertionError):
                eventually(lambda: assert_grown_up(process.pid), timeout=5)
            # Not reaped here: driver.supervisord does that.
            os.kill(process.pid, 15)
            end(where)


def assert_grown_up(supervisord: int) -> None:
    """A newborn of FCGI::ProcManager that gets TERM before it has handlers of its own spins for a minute."""
    below = psutil.Process(supervisord).children(recursive=True)
    assert time.time() - max((process.create_time() for process in below), default=0.0) > 0.5


def end(where: Path) -> None:
    """A newborn of FCGI::ProcManager that still got TERM, where workers are forked all the time, is not an error."""
    try:
        eventually(lambda: assert_none_left(where), timeout=20)
    except AssertionError:
        if len(left_in(where)) > len(left_in(where, name="perl-fcgi")):
            raise
    finally:
        for process in left_in(where):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def assert_none_left(where: Path) -> None:
    left = left_in(where)
    assert not left, f"still there after supervisord's end: {left}"


def left_in(where: Path, name: str = "", words: str = "", children: int | None = None) -> list[psutil.Process]:
    """supervisord and what it started, which run in its directory; perl and nginx write over their environment.

    Those whose name begins with `name`, with `words` in their command line, and with `children` children. All is of
    one reading: a process that ends meanwhile is no error.
    """
    here = processes_in(where, "name", "cmdline", "ppid")
    return [
        process
        for process in here
        if (process.info["name"] or "").startswith(name)
        and words in " ".join(process.info["cmdline"] or ())
        and children in (None, sum(other.info["ppid"] == process.pid for other in here))
    ]


def rpc(where: Path) -> Any:
    """The supervisord of this directory."""
    transport = Transport(None, None, f"unix://{where}/s.sock")
    return xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport)


def control(where: Path) -> Any:
    """What supervisorctl speaks with."""
    return rpc(where).supervisor


def listener_in(where: Path) -> psutil.Process:
    """Without its children, such as `memreap reader`."""
    (listener,) = (each for each in left_in(where, words=" listen") if not each.info["name"].startswith("memreap "))
    return listener


def assert_answers(pool: Pool) -> None:
    try:
        pool.ask()
    except OSError as error:
        raise AssertionError(f"{error}; {pool.log('nginx-error.log')[-500:]}") from None


def recorder(where: Path) -> str:
    """The section of a listener that writes down what memreap announces."""
    script = Path(__file__).with_name("recorder.py")
    return (
        f"[eventlistener:recorder]\ncommand={sys.executable} {script} {where}/announced\n"
        "events=REMOTE_COMMUNICATION\nbuffer_size=100\n"
    )


def announced(where: Path) -> list[dict[str, Any]]:
    """What it has written down."""
    path = where / "announced"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def assert_in_turn(where: Path, count: int) -> None:
    """`count` workers were signalled, each after the one before had left."""
    events = announced(where)
    happened = [(event["event"], event["pid"]) for event in events]
    assert [event for event, _ in happened] == ["reap", "left"] * count, [event["message"] for event in events]
    assert [pid for _, pid in happened[0::2]] == [pid for _, pid in happened[1::2]]


class Watch:
    """Looks at the pool every 20 ms, for what no log would admit. By files of /proc: psutil takes 20 times as long."""

    def __init__(self, pool: Pool):
        self._pool = pool
        self._stop = threading.Event()
        self._manager = pool.manager().pid
        self._last = workers_below(self._manager)
        self.fewest = len(self._last)
        self.most_gone_together = 0
        self._thread = threading.Thread(target=self._run)

    @property
    def managers(self) -> set[int]:
        """The pid of each manager that supervisord has started."""
        return set(self._pool.managers())

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            self._look()

    def _look(self) -> None:
        listed = workers_below(self._manager)
        # The kernel's list may lack one for a moment while another one ends.
        now = listed | {pid for pid in self._last - listed if is_alive(pid)}
        if not is_alive(self._manager):
            now = set()  # without a manager no worker is replaced
        self.most_gone_together = max(self.most_gone_together, len(self._last - now))
        self.fewest = min(self.fewest, len(now))
        self._last = now

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def python_for(user: str, where: Path) -> str:
    """The command of a Python that this user may run, with copies of the packages that this user may read."""
    for package in (supervisor_memreap, supervisor, psutil):
        source = Path(package.__file__).parent
        shutil.copytree(source, where / "lib" / source.name, ignore=shutil.ignore_patterns("__pycache__", "tests"))
    for python in (sys.executable, "/usr/bin/python3"):
        command = ["/usr/bin/env", f"PYTHONPATH={where}/lib", python, "-m", "supervisor_memreap"]
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            subprocess.run([*command, "--version"], user=user, cwd="/", check=True, capture_output=True)
            return " ".join(command)
    pytest.skip(f"no Python here that {user} may run")


NAMESPACE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]


def may_unshare() -> bool:
    return bool(shutil.which("unshare")) and not subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode
