"""What tests/conftest.py and the settings of pytest promise of every run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import conftest
import psutil
import pytest
from support import stack

TESTS = Path(__file__).parent


@pytest.fixture
def place():
    """A directory with a short path, as the temporary one of a run in this one."""
    path = Path(tempfile.mkdtemp(prefix="m-", dir="/tmp")).resolve()
    yield path
    shutil.rmtree(path)


def run(place: Path, text: str, *arguments: str, **options) -> subprocess.CompletedProcess[str]:
    """A run of these tests, with our settings and our conftest.py."""
    (place / "test_it.py").write_text(text)
    settings = ["-c", str(stack.ROOT / "pyproject.toml"), "--rootdir", str(place), "-p", "conftest"]
    quiet = ["-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-q"]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST_") and name != "CI"},
        "PYTHONPATH": str(TESTS),
        "TMPDIR": str(place),
        **options.pop("environment", {}),
    }
    return subprocess.run(
        [sys.executable, "-m", "pytest", *settings, *quiet, *arguments, str(place)],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


def assert_fails(run: subprocess.CompletedProcess[str], *texts: str) -> None:
    assert run.returncode == 1, run.stdout
    for text in texts:
        assert text in run.stdout


def assert_no_process_in(place: Path) -> None:
    assert [process for process in psutil.process_iter(["cwd"]) if str(place) in (process.info["cwd"] or "")] == []


WITH_A_WORKER = ("-n", "1")

FAILING = """
import gc, pathlib, socket, subprocess, threading, warnings, pytest

hangs = pytest.mark.timeout(2)

@pytest.fixture
def started(request):
    process = subprocess.Popen(["sleep", "1000"])
    yield process
    process.kill()
    process.wait()
    (pathlib.Path(__file__).parent / f"{request.node.name} is over").touch()

@hangs
def test_hangs_process(started):
    started.wait()

@hangs
def test_hangs_thread(started):
    thread = threading.Thread(target=started.wait, daemon=True)
    thread.start()
    thread.join()

@hangs
def test_hangs_connection(started):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.accept()

def test_none_of_these(started): pass

def test_warning(): warnings.warn("mind this")
def test_file(): open("/dev/null"); gc.collect()
def test_process(): subprocess.Popen(["true"]); gc.collect()
def test_thread():
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()

def test_files_of_one(tmp_path):
    (tmp_path / "of-one").touch()

def test_files_of_two(tmp_path):
    (tmp_path / "of-two").touch()
    assert False
"""


def test_what_hangs_warns_leaks_or_fails_fails_the_run_which_keeps_only_files_of_failed_tests(place):
    result = run(place, FAILING, *WITH_A_WORKER)
    (root,) = place.glob("memreap-*")
    assert_fails(
        result,
        "8 failed, 2 passed",
        "Timeout (>2.0s)",
        "UserWarning: mind this",
        "ResourceWarning: unclosed file",
        "ResourceWarning: subprocess",
        "ZeroDivisionError",
        f"the files of the tests that failed are in {root}",
    )
    assert len(list(place.glob("test_* is over"))) == 4
    assert_no_process_in(place)
    assert [path.name for path in root.rglob("of-*")] == ["of-two"]


def test_a_test_has_two_minutes_unless_marked(request):
    assert request.config.getini("timeout") == "120"


LEFT = """
import os, signal, subprocess, tempfile, pytest

@pytest.fixture(autouse=True, scope="session")
def hasty(_nothing_is_left_behind):
    import conftest
    eventually = conftest.eventually
    conftest.eventually = lambda assertion: eventually(assertion, timeout=1)

@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGQUIT])
def test_a_signal(signum):
    process = subprocess.Popen(["sleep", "1000"])
    process.send_signal(signum)
    assert process.wait() == -signum

def test_it():
    os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "1001")
    os.system("setsid sleep 1002 &")
    os.spawnlp(os.P_NOWAIT, "perl", "perl", "-e", "$0 = q(a name that is long) x 999; sleep 1000")
    tempfile.mkstemp(prefix="a-file-")
"""


@pytest.mark.parametrize("workers", [(), WITH_A_WORKER], ids=["in one process", "with a worker"])
def test_leftovers_fail_the_run_and_are_removed_and_signals_ignored_by_a_shell_are_not_ignored(place, workers):
    """A shell in the background has its jobs ignore these signals."""

    def ignore() -> None:
        for signum in (signal.SIGINT, signal.SIGQUIT):
            signal.signal(signum, signal.SIG_IGN)

    result = run(place, LEFT, *workers, preexec_fn=ignore)
    left = ("left behind:", "sleep 1001", "sleep 1002", "a name that is long", "/a-file-")
    assert_fails(result, *left, "3 passed, 1 error")
    assert_no_process_in(place)
    assert list(place.glob("memreap-*")) == []


SKIPS = """
import pathlib, pytest

def test_mode():
    pathlib.Path(__file__).parent.chmod(0o755)

def test_it(tmp_path): pytest.skip("on a holiday")
"""


def test_a_changed_mode_of_a_parent_directory_fails_the_run_and_an_unexpected_skip_that_of_ci_only(place):
    (place / "test_file.py").write_text('import pytest\npytest.skip("of a whole file", allow_module_level=True)\n')
    result = run(place, SKIPS, *WITH_A_WORKER, environment={"CI": "true"})
    mode = f"FAILED {place}: a test has left it with mode 0755 of"
    unexpected = "skipped, which CI does not expect: "
    skips = (f"{unexpected}on a holiday", f"{unexpected}of a whole file")
    assert_fails(result, mode, "it had mode 0700 of", "1 passed, 2 skipped", *skips)
    result = run(place, SKIPS, *WITH_A_WORKER)
    assert result.returncode == 0, result.stdout
    assert list(place.glob("memreap-*")) == []


def test_a_skip_that_ci_expects_does_not_fail_its_run(place):
    expected = f"import conftest\nconftest.EXPECTED_SKIPS['holiday$'] = 'CI has some'\n{SKIPS}"
    place.chmod(0o755)
    assert run(place, expected, environment={"CI": "true"}).returncode == 0


def test_the_files_that_conftest_names_are_there():
    assert [name for name in {*conftest.LONG, *conftest.PROCESS} if not (TESTS / f"test_{name}.py").exists()] == []
