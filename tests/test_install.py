"""The ways of docs/install.md that need no Debian package, with its sections, on a real supervisord."""

from __future__ import annotations

import configparser
import contextlib
import importlib.metadata
import os
import pwd
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pip
import pytest
from support import inprocess, stack
from support.driver import POOL, PROMPT, eventually, started, until
from support.operated import Operated

from supervisor_memreap import __version__

# Building, installing and upgrading take their time, on a busy machine above all.
pytestmark = pytest.mark.timeout(600)

PAGE = (stack.ROOT / "docs/install.md").read_text()
DOCKER = (stack.ROOT / "conf.d-examples/docker/supervisord.conf").read_text()
FIRST_DAY = (stack.ROOT / "docs/first-day.md").read_text()
# The supervisord of a test: what it has without memreap.
PLAIN = """\
[unix_http_server]
file=WHERE/s.sock
[supervisord]
logfile=WHERE/s.log
pidfile=WHERE/s.pid
childlogdir=WHERE
[supervisorctl]
serverurl=unix://WHERE/s.sock
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
[program:myapp]
command=PYTHON WHERE/pool.py 1 40
"""
# So that a test need not wait for long. Pools have one worker: several that are all new and over the limit suspend it.
QUICK = "min_age=1s\nsettle=1s\n"
# What Docker gives to a container.
CAPABILITIES = (
    "chown,dac_override,fowner,fsetid,kill,setgid,setuid,setpcap,net_bind_service,net_raw,sys_chroot,mknod,"
    "audit_write,setfcap"
)


def block(heading: str, kind: str = "ini", page: str = PAGE) -> str:
    """The first block of this kind below this heading of the page."""
    section = page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    match = re.search(rf"^( *)```{kind}\n(.*?)^\1```$", section, re.MULTILINE | re.DOTALL)
    assert match, heading
    return re.sub(rf"(?m)^{match[1]}", "", match[2])


def changed(text: str, *replacements: tuple[str, str]) -> str:
    for old, new in replacements:
        assert old in text, old
        text = text.replace(old, new)
    return text


@pytest.fixture
def where():
    path = stack.directory()
    path.chmod(0o1777)
    shutil.copy(POOL, path)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def environment(wheel):
    """A virtual environment into which pip has installed the wheel; what that needs was there before.

    The last test of the file upgrades memreap there, and uninstalls it.
    """
    path = environment_without_memreap(stack.directory())
    copy_package("psutil", path)
    (packages_of(path) / "pip").symlink_to(Path(pip.__file__).parent)
    pip_install(path, wheel)
    yield path
    shutil.rmtree(path)


def base_python() -> str:
    check = "import sys, venv; sys.exit(sys.version_info < (3, 9))"
    for python in ("/usr/bin/python3", sys.executable):
        with contextlib.suppress(OSError):
            if subprocess.run([python, "-c", check], capture_output=True, check=False).returncode == 0:
                return python
    raise AssertionError(f"{sys.executable} has no venv")


def pip_install(environment: Path, package: Path) -> None:
    run_pip(environment, "install", "--no-index", str(package))


def run_pip(environment: Path, *words: str) -> None:
    subprocess.run([f"{environment}/bin/python", "-m", "pip", "-q", *words], check=True, capture_output=True)


def environment_without_memreap(path: Path) -> Path:
    """A virtual environment with our supervisor alone, in moments; of a Python that every user may run."""
    subprocess.run([base_python(), "-m", "venv", "--without-pip", str(path)], check=True)
    copy_package("supervisor", path)
    control = "from supervisor.supervisorctl import main\nmain()\n"
    # With a TICK_5 each second.
    for name, text in (("supervisord", PROMPT.read_text()), ("supervisorctl", control)):
        script = path / "bin" / name
        script.write_text(f"#!{path}/bin/python\n{text}")
        script.chmod(0o755)
    return path


def copy_package(name: str, environment: Path) -> None:
    """Ours, as pip installed it."""
    for path in importlib.metadata.files(name) or ():
        if ".." not in path.parts:  # its scripts
            copy = packages_of(environment) / path
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path.locate(), copy)


def packages_of(environment: Path) -> Path:
    (path,) = environment.glob("lib/python3*/site-packages")
    return path


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Without what is on the path of the tests, and in no directory in which Python would find memreap."""
    environment = plain_environment()
    environment["PATH"] = f"{Path(command[0]).parent}:{environment['PATH']}"  # as with that environment activated
    return subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=False)


def plain_environment(**more: str) -> dict[str, str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return {**environment, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **more}


class Installed:
    """A supervisord of the environment `python`, with this configuration in `directory`."""

    def __init__(self, directory: Path, environment: Path, text: str):
        self.directory = directory
        self.bin = environment / "bin"
        self.conf = directory / "supervisord.conf"
        self.conf.write_text(text.replace("WHERE", str(directory)).replace("PYTHON", f"{self.bin}/python"))

    @contextlib.contextmanager
    def running(self, within: tuple[str, ...] = (), **options) -> Iterator[None]:
        (self.directory / "s.log").unlink(missing_ok=True)
        command = [*within, *self.command("supervisord"), "-n"]
        with started(command, self.directory, env=plain_environment(TMPDIR=str(self.directory)), **options):
            yield

    def command(self, name: str) -> list[str]:
        return [f"{self.bin}/{name}", "-c", str(self.conf)]

    def control(self, *words: str, status: int = 0) -> str:
        result = run(*self.command("supervisorctl"), *words)
        assert result.returncode == status, result
        return result.stdout + result.stderr

    def edit(self, *replacements: tuple[str, str]) -> None:
        self.conf.write_text(changed(self.conf.read_text(), *replacements))

    def log(self) -> str:
        path = self.directory / "memreap.log"
        return path.read_text() if path.exists() else ""

    def assert_logged(self, text: str, of: str = "") -> None:
        assert any(text in line and of in line for line in self.log().splitlines()), self.log()

    def assert_shows(self, text: str, status: int = 0) -> None:
        """Its supervisorctl shows it as soon as the listener has published it."""

        def assert_published() -> None:
            result = inprocess.control("-c", str(self.conf), "memreap", "status")
            assert (text in result.stdout, result.returncode) == (True, status), result

        eventually(assert_published)
        assert text in self.control("memreap", "status", status=status)

    def assert_does_not_start(self, section: str) -> None:
        result = run(*self.command("supervisord"), "-n")
        assert result.returncode != 0
        assert f"cannot be resolved within [{section}]" in result.stderr

    def sees_memreap(self) -> str:
        """What the check of the page prints for this supervisord."""
        check = changed(block_of_check(), ("$(command -v supervisord)", f"{self.bin}/supervisord"))
        result = run("sh", "-c", check)
        return (result.stdout + result.stderr).strip().splitlines()[-1]


def block_of_check() -> str:
    return PAGE.partition("```sh\n")[2].partition("```")[0]


def test_the_page_names_files_of_the_current_version():
    assert set(re.findall(r"supervisor[-_]memreap[-_]([0-9.]+[0-9])", PAGE)) == {__version__}


def test_the_first_day_has_the_section_of_the_listener_alone_first_with_observe_and_then_with_a_limit():
    alone = parsed(block("A virtual environment for the listener alone"))
    first = parsed(block("3. Watch your pool", page=FIRST_DAY))
    assert first == alone
    assert first["memreap:myapp"] == {"observe": "yes"}
    (limited,) = parsed(block("6. Set it", page=FIRST_DAY)).items()
    assert limited == ("memreap:myapp", {"limit": "120MB"})


def parsed(text: str) -> dict[str, dict[str, str]]:
    parser = configparser.ConfigParser()
    parser.read_string(text)
    return {name: dict(parser[name]) for name in parser.sections()}


def test_a_listener_in_its_own_venv_reaps_and_supervisord_is_not_changed(where, environment):
    supervisors = environment_without_memreap(where / "supervisor")
    section = changed(
        block("A virtual environment for the listener alone"),
        ("/opt/memreap", str(environment)),
        ("events=TICK_5\n", f"events=TICK_5,REMOTE_COMMUNICATION\nstderr_logfile={where}/memreap.log\n"),
        ("observe=yes\n", f"limit=30MB\n{QUICK}"),
    )
    installed = Installed(where, supervisors, PLAIN + section)
    assert "No module named 'supervisor_memreap'" in installed.sees_memreap()
    with installed.running():
        eventually(lambda: installed.assert_logged("left after"))
        for name in ("status", "settings", "doctor"):
            result = run(f"{environment}/bin/memreap", name, "-c", str(installed.conf))
            assert result.returncode == 0, result
        assert "memreap status" in installed.control("memreap", "status", status=1)
        Operated.of(where).send("pause myapp id=1")
        eventually(lambda: installed.assert_logged("myapp: paused"))
        text = installed.conf.read_text()
        installed.conf.write_text(text + stack.PLUGIN)
        assert "cannot be resolved within [ctlplugin:memreap]" in installed.control("status", status=2)
    installed.conf.write_text(text + stack.INTERFACE)
    installed.assert_does_not_start("rpcinterface:memreap")


def yama_scope() -> int:
    try:
        return int(Path("/proc/sys/kernel/yama/ptrace_scope").read_text())
    except FileNotFoundError:
        return 0


class Container(NamedTuple):
    """A container where supervisord is process 1, and the log there for a pool of www-data."""

    row: str
    """Of the page's table of users."""
    user: str
    """Of the listener."""
    added: str
    """Capabilities beside Docker's own."""
    with_uss: str
    with_rss: str


HELD = "HUP sent between two requests"
OF_THE_SAME_USER = HELD if yama_scope() == 0 else "HUP sent"
OWNER = "the pool's user, `ptrace_scope` 0 or absent" if yama_scope() == 0 else "the pool's user, `ptrace_scope` 1"
CONTAINERS = [
    Container(OWNER, "www-data", "", OF_THE_SAME_USER, OF_THE_SAME_USER),
    Container("root without CAP_SYS_PTRACE", "root", "", "its uss cannot be read: nothing sent", "HUP sent"),
    Container("root |", "root", ",+sys_ptrace", HELD, HELD),
]


@pytest.mark.parametrize("container", CONTAINERS, ids=lambda container: container.row)
def test_the_table_of_users_says_what_each_may_do_in_a_container(container):
    (row,) = re.findall(rf"(?m)^\| {re.escape(container.row)}.*$", PAGE)
    signals, uss, rss, boundary, socket, _ = (cell.strip("* ") for cell in row.strip("|").split("|")[1:])
    assert (signals, uss) == ("yes", "yes" if "HUP sent" in container.with_uss else "no")
    assert (rss, boundary) == ("yes", "yes" if container.with_rss == HELD else "no")
    assert socket == ("yes" if container.user == "root" else "`chown=`")


def skip_without_containers() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make a namespace of pids")
    absent = [tool for tool in ("unshare", "setpriv") if not shutil.which(tool)]
    if absent:
        pytest.skip(f"not here: {', '.join(absent)}")
    if not stack.may_unshare():
        pytest.skip("may not make a namespace of pids")
    with contextlib.suppress(KeyError):
        pwd.getpwnam("www-data")
        return
    pytest.skip("there is no user www-data")


def test_in_a_container_the_user_of_the_pool_may_do_all_that_root_may_not(where, environment):
    skip_without_containers()
    with contextlib.ExitStack() as containers:
        running = [
            (container, containers.enter_context(contained(where, environment, container))) for container in CONTAINERS
        ]
        for container, installed in running:
            assert_matches_the_page(container, installed)


def assert_matches_the_page(container: Container, installed: Installed) -> None:
    assert installed.control("pid") == "1\n"
    for name, expected in (("myapp", container.with_uss), ("web", container.with_rss)):
        # A worker that left is reported a tick later, and what is not sent now is never sent.
        last = "left after" if "HUP sent" in expected else expected
        eventually(lambda: installed.assert_logged(last, f"{name}: "))  # noqa: B023
        lines = [line for line in installed.log().splitlines() if f" {name}: " in line]
        (line,) = [line for line in lines if expected in line]
        assert (HELD in line) == (HELD in expected)
        assert len([line for line in lines if "HUP sent" in line]) == ("HUP sent" in expected)
    # A pool whose memory may not be read is not shown as well.
    text, status = ("BLIND", 1) if "cannot be read" in container.with_uss else ("30 MiB uss", 0)
    installed.assert_shows(text, status=status)
    installed.control("memreap", "pause", "all")
    installed.assert_shows("PAUSED")


@contextlib.contextmanager
def contained(where: Path, environment: Path, container: Container) -> Iterator[Installed]:
    """The example's supervisord.conf, but for paths, with two pools of www-data's: myapp as it has it, web with rss."""
    directory = where / str(CONTAINERS.index(container))
    directory.mkdir()
    directory.chmod(0o1777)
    text = changed(
        DOCKER,
        ("logfile=/dev/null\nlogfile_maxbytes=0\n", "logfile=WHERE/s.log\n"),
        ("/run/", "WHERE/"),
        ("/opt/supervisor", str(environment)),
        (re.findall("(?m)^command=(.*plackup.*)$", DOCKER)[0], f"PYTHON {where}/pool.py 1 40"),
        ("limit=150MB\n", f"limit=30MB\n{QUICK}"),
    )
    if container.user == "root":
        text = changed(text, ("chown=root:www-data\nchmod=0770\n", ""))
        listener = text[text.index("[eventlistener:") :]
        text = changed(text, (listener, changed(listener, ("user=www-data\n", ""))))
    text += (
        f"[program:web]\ncommand=PYTHON {where}/pool.py 1 40\nuser=www-data\n"
        f"[memreap:web]\nlimit=30MB\nmetric=rss\nidle_wait=0s\n{QUICK}"
    )
    installed = Installed(directory, environment, text)
    capabilities = "-all," + ",".join(f"+{name}" for name in CAPABILITIES.split(",")) + container.added
    within = (*stack.NAMESPACE, "setpriv", "--bounding-set", capabilities, "--")
    with (directory / "memreap.log").open("ab") as log, installed.running(within, stderr=log):
        yield installed


def test_in_the_venv_of_supervisord_everything_works_through_upgrade_and_uninstall(where, environment, wheel):
    section = changed(
        block("The virtual environment of supervisord"),
        ("/opt/supervisor", str(environment)),
        ("autorestart=true\n", f"autorestart=true\nstderr_logfile={where}/memreap.log\n"),
        ("observe=yes\n", f"limit=30MB\n{QUICK}"),
    )
    installed = Installed(where, environment, PLAIN + section + stack.INTERFACE + stack.PLUGIN)
    assert installed.sees_memreap() == __version__
    with installed.running():
        manager = installed.control("pid", "myapp")
        eventually(lambda: installed.assert_logged("left after"))
        installed.assert_shows("30 MiB uss")
        assert run(f"{environment}/bin/memreap", "doctor", "-c", str(installed.conf)).returncode == 0
        upgrade(installed, environment, wheel)
        uninstall_in_the_wrong_order(installed, environment)
        uninstall(installed, section)
        assert installed.control("pid", "myapp") == manager
    with installed.running():
        assert "RUNNING" in installed.control("status", "myapp")


def upgrade(installed: Installed, environment: Path, wheel: Path) -> None:
    listener = installed.control("pid", "memreap")
    pip_install(environment, stack.with_version(wheel, installed.directory, "9.9.9"))
    assert installed.control("pid", "memreap") == listener
    installed.control("restart", "memreap")
    eventually(lambda: installed.assert_logged("memreap: version 9.9.9"))
    rpc = Operated.of(installed.directory).rpc().memreap
    until(lambda: rpc.getListener()["version"] == "9.9.9")
    installed.assert_shows("30 MiB uss")
    installed.control("memreap", "pause", "myapp")
    installed.assert_shows("PAUSED")
    installed.control("memreap", "resume", "myapp")
    assert rpc.getVersion() == __version__


def uninstall_in_the_wrong_order(installed: Installed, environment: Path) -> None:
    run_pip(environment, "uninstall", "-y", "supervisor-memreap")
    assert "cannot be resolved within [ctlplugin:memreap]" in installed.control("status", status=2)
    installed.assert_does_not_start("rpcinterface:memreap")


def uninstall(installed: Installed, section: str) -> None:
    installed.edit((section, ""), (stack.INTERFACE, ""), (stack.PLUGIN, ""))
    assert "memreap: stopped" in installed.control("update")
    assert installed.control("status").split()[:2] == ["myapp", "RUNNING"]
