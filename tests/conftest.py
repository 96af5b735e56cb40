"""What holds for every run of the tests, and fixtures that several files share.

A run has its own temporary directory, and whatever is left in it or running at the end is an error; so is a
changed mode or owner of a directory above it. What a limit of time, a warning and a thread that dies do to a test is in
pyproject.toml.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import stat
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from support import stack
from support.driver import eventually
from support.garbage import pytest_collection, pytest_collection_finish  # noqa: F401 - hooks

from supervisor_memreap.host import reader

# What CI may skip: a pattern of the reason, and why it is right there. All else that is skipped fails a run under CI.
EXPECTED_SKIPS: dict[str, str] = {
    "no control group with a limit on memory can be made here": (
        "a container may make none; the recorded trees of test_memory.py are read everywhere"
    ),
    r"no version [12] memory control groups are mounted|no control group can be made": "a machine has one of the two",
    r"the kernel offers no trigger|this kernel (has no memory.pressure_level|reports no pressure)": "an older kernel",
    "^only root can switch a swap file on|^no swap file can be|^too little disk": "swap belongs to the whole machine",
    "^only root may mount a file system": "and a container may forbid it to root too",
    "^no process can be pushed into swap": "process_madvise(2) is of Linux 5.10, and a container may forbid it",
    "^this user may not use userfaultfd": "vm.unprivileged_userfaultfd, and a container may forbid it to root too",
}

# What a measured run (sh tests/run --coverage) leaves out: a pattern of the test, and why.
UNMEASURED: dict[str, str] = {
    r"test_layers\.py|test_cli\.py::test_the_listener_does_not_import_": "what a process loads: more with coverage.py",
    r"test_report\.py::test_a_full_disk_leaves_no_partial_file": "coverage.py could not write its file either",
    r"test_current_directory\.py": "what a trap there would catch, coverage.py has imported already",
    r"test_soak\.py::test_a_listener_whose_pool_is_disturbed": "measured, it takes over 120 s",
    r"test_(debian|install)\.py": "they run installed copies of memreap, in Pythons without coverage.py",
}

# Files of tests that are not `stack`; those of the pure core are known by their names.
PROCESS = """
    alarm attempt attemptqueue boundary cli completion configfile connections daily docs doctor doctor_memory
    doctor_restart doctor_rights doctor_server growth history kept layers load log memory metrics oomkills overdue
    packages page pages peers_benchmark plot processes procfile promised reader reaper report saving seen sim
    slowoutputs status structure suggest suggest_benchmark swap titles toppage waiting
""".split()  # noqa: SIM905 - one name a line would be 40 lines

# Files that take more than 20 s each, the longest first: they begin first, so that the last to run are short. A file is
# run by one process of xdist, which so makes its fixtures once.
LONG = """
    operating install debian servers commands demo once doctor_stack saturated listener faults current_directory
    page plot sim_truth stack suite report suggest_benchmark hostile boundary history examples_of_servers self trees top
    deploy metrics memory_metrics sight elastic history_stack reaper mail examples loss sharing newborn
    memory_stack json fleet slowstart soak
""".split()  # noqa: SIM905 - one name a line would be 40 lines

# The machine may be busy: how long an example takes, or to make it, says nothing about memreap.
hypothesis_settings.register_profile("memreap", suppress_health_check=[HealthCheck.too_slow], deadline=None)
hypothesis_settings.load_profile("memreap")

_root = pytest.StashKey[Path]()
_above = pytest.StashKey[dict[Path, str]]()
_failed = pytest.StashKey[int]()
_skipped: list[tuple[str, str]] = []


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    # A shell's job in the background has them ignored, and so would all that the tests start, nginx and perl included.
    for signum in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        if signal.getsignal(signum) == signal.SIG_IGN:
            signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)
    usual = tempfile.gettempdir()
    if _is_worker(config):
        root = Path(usual)
    else:
        # A path of a unix socket has room for 107 bytes.
        root = Path(tempfile.mkdtemp(prefix="memreap-tests-", dir=usual if len(usual) < 25 else "/tmp")).resolve()
        root.chmod(0o755)
        config.option.basetemp = config.option.basetemp or root / "t"
        _use(root)
    config.stash[_root] = root
    config.stash[_above] = {path: _mode_and_owner(path) for path in root.parents}


def _mode_and_owner(path: Path) -> str:
    status = path.stat()
    return f"mode {stat.S_IMODE(status.st_mode):04o} of {status.st_uid}:{status.st_gid}"


def pytest_collection_modifyitems(config, items):
    if "COVERAGE_PROCESS_CONFIG" in os.environ:
        left_out = [item for item in items if any(re.search(test, item.nodeid) for test in UNMEASURED)]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    for item in items:
        item.add_marker(_kind(item))
    items.sort(key=lambda item: (_place(_name(item)), ("stack", "process", "core").index(_kind(item))))


def _place(name: str) -> int:
    return LONG.index(name) if name in LONG else len(LONG)


def _name(item) -> str:
    return item.path.stem.removeprefix("test_")


def _kind(item) -> str:
    name = _name(item)
    return "core" if name.startswith("core_") else "process" if name in PROCESS else "stack"


def pytest_unconfigure(config):
    root = config.stash.get(_root, None)
    if root and not _is_worker(config):
        if config.stash.get(_failed, 0) and _failed_tests_left(root):
            print(f"the files of the tests that failed are in {root}")
        else:
            shutil.rmtree(root)


def _failed_tests_left(root: Path) -> bool:
    """pytest keeps the directory of a test that failed or was skipped, and removes the others."""
    return any(path.is_dir() and any(path.iterdir()) for path in (root / "t").rglob("test_*"))


def _is_worker(config) -> bool:
    return hasattr(config, "workerinput")


def _use(directory: Path) -> None:
    os.environ["TMPDIR"] = str(directory)
    tempfile.tempdir = None


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_left_behind(pytestconfig):
    """Neither a file in the temporary directory nor a process.

    What a test starts has a mark in its environment, whatever becomes its parent. Perl writes over its environment when
    it sets $0; but its working directory is below ours, unless its parent chose another.
    """
    worker = getattr(pytestconfig, "workerinput", {"workerid": "main"})["workerid"]
    ours = pytestconfig.stash[_root] / worker
    ours.mkdir()
    ours.chmod(0o777 | stat.S_ISVTX)  # as /tmp
    mark = f"of-{os.getpid()}"
    os.environ["MEMREAP_TESTS"] = mark
    # As in a shell in which this environment is activated: another supervisorctl need not have memreap.
    os.environ["PATH"] = f"{os.path.dirname(sys.executable)}:{os.environ.get('PATH', os.defpath)}"
    before = os.getcwd()
    # As a login has it: our own user's state files are in it, and not in the directory of a memreap of this machine.
    os.environ["XDG_RUNTIME_DIR"] = str(ours / "run")
    (ours / "run/memreap").mkdir(mode=0o700, parents=True)
    (ours / "run").chmod(0o700)
    _use(ours)
    os.chdir(ours)
    try:
        yield
        reader.end()  # a child of this process as long as that lives
        eventually(lambda: _assert_nothing_is_left(mark, ours))
    finally:
        os.chdir(before)
        for process in _left_running(mark, ours):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        shutil.rmtree(ours)


def _assert_nothing_is_left(mark: str, directory: Path) -> None:
    left = [f"process {process.pid}: {_words(process)}" for process in _left_running(mark, directory)]
    # A lock that is a file stays: were it removed while another process takes it, there would be two.
    # So do the directories of the state files, and in that of our user the pauses of a supervisord that has stopped:
    # it may be a reload.
    stays = {directory / "run", *(directory / "run").rglob("*"), *directory.glob("memreap-*[0-9]")}
    left += [str(path) for path in sorted({*directory.rglob("*")} - stays) if not path.match("memreap-*.lock")]
    assert not left, "left behind:\n" + "\n".join(left)


def _words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())[:100]
    except psutil.Error:
        return "it has just ended"


def _left_running(mark: str, directory: Path) -> list[psutil.Process]:
    left = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):  # it has just ended, or is another user's
            working_directory = Path(process.cwd())
            if process.pid != os.getpid() and (
                process.environ().get("MEMREAP_TESTS") == mark
                or directory in (working_directory, *working_directory.parents)
            ):
                left.append(process)
    return left


def pytest_runtest_logreport(report):
    _note_skip(report)


def pytest_collectreport(report):
    _note_skip(report)


def _note_skip(report) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        _skipped.append((report.nodeid, str(report.longrepr[2]).removeprefix("Skipped: ")))


def _unexpected() -> list[tuple[str, str]]:
    return [(test, why) for test, why in _skipped if not any(re.search(known, why) for known in EXPECTED_SKIPS)]


def _faults(config) -> list[str]:
    """What fails a run whose tests have all passed."""
    skipped = _unexpected() if os.environ.get("CI") else []
    faults = [f"{test}: skipped, which CI does not expect: {why}" for test, why in skipped]
    for path, before in config.stash[_above].items():
        if _mode_and_owner(path) != before:
            faults.append(f"{path}: a test has left it with {_mode_and_owner(path)}; it had {before}")
    return faults


def pytest_sessionfinish(session, exitstatus):
    session.config.stash[_failed] = session.testsfailed
    if exitstatus == pytest.ExitCode.OK and not _is_worker(session.config) and _faults(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config):
    for fault in _faults(config):
        terminalreporter.write_line(f"FAILED {fault}", red=True)


def made_once(config, name: str, make: Callable[[Path], Path]) -> Path:
    """What `make` makes in a directory, once for all processes of this run. It goes with the directory of the run."""
    where = config.stash[_root] / name
    with where.with_suffix(".path").open("a+") as path:
        fcntl.flock(path, fcntl.LOCK_EX)
        path.seek(0)
        if made := path.read():
            return Path(made)
        where.mkdir(exist_ok=True)
        made_now = make(where)
        path.write(str(made_now))
        return made_now


@pytest.fixture(scope="session")
def catalyst_script(pytestconfig):
    """The script of a real Catalyst application."""
    return made_once(pytestconfig, "catalyst", stack.catalyst)


@pytest.fixture(scope="session")
def wheel(pytestconfig):
    """The wheel of this checkout."""
    return made_once(pytestconfig, "wheel", stack.wheel)


@pytest.fixture
def where():
    """A directory that every user may enter."""
    path = stack.directory()
    yield path
    shutil.rmtree(path)


@pytest.fixture
def sock(where):
    """A path for a pool's socket, in its own directory, which every user may enter."""
    return where / "myapp.sock"
