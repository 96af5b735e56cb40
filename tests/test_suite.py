"""What tests/conftest.py and the settings of pytest promise of every run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

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
    quiet = ["-p", "no:cacheprovider", "-q"]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST_") and name != "CI"},
        "PYTHONPATH": str(TESTS),
        "PYTHONDONTWRITEBYTECODE": "1",
        "TMPDIR": str(place),
        **options.pop("environment", {}),
    }
    return subprocess.run(
        [sys.executable, "-m", "pytest", *settings, *quiet, *arguments, str(place / "test_it.py")],
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


def assert_passes(run: subprocess.CompletedProcess[str], place: Path) -> None:
    assert run.returncode == 0, run.stdout
    assert list(place.glob("memreap-*")) == []


def assert_no_process_in(place: Path) -> None:
    assert [process for process in psutil.process_iter(["cwd"]) if str(place) in (process.info["cwd"] or "")] == []


both = pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["in one process", "with workers"])

HANGS = """
import pathlib, socket, subprocess, threading, pytest

@pytest.fixture
def started(request):
    process = subprocess.Popen(["sleep", "1000"])
    yield process
    process.kill()
    process.wait()
    (pathlib.Path(__file__).parent / f"{request.node.name} is over").touch()

def test_process(started):
    started.wait()

def test_thread(started):
    thread = threading.Thread(target=started.wait, daemon=True)
    thread.start()
    thread.join()

def test_connection(started):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.accept()

def test_none_of_these(started):
    pass
"""


@both
def test_a_test_that_hangs_fails_and_its_processes_are_ended(place, workers):
    result = run(place, HANGS, "-o", "timeout=2", *workers)
    assert_fails(result, "Timeout (>2.0s)", "3 failed, 1 passed")
    assert len(list(place.glob("test_* is over"))) == 4
    assert_no_process_in(place)


def test_a_test_has_two_minutes_unless_marked(request):
    assert request.config.getini("timeout") == "120"


UNSEEN = """
import gc, subprocess, threading, warnings

def test_warning(): warnings.warn("mind this")
def test_file(): open("/dev/null"); gc.collect()
def test_process(): subprocess.Popen(["true"]); gc.collect()
def test_thread():
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
"""


@both
def test_a_warning_an_unclosed_resource_and_a_dying_thread_fail_a_test(place, workers):
    seen = (
        "UserWarning: mind this",
        "ResourceWarning: unclosed file",
        "ResourceWarning: subprocess",
        "ZeroDivisionError",
    )
    assert_fails(run(place, UNSEEN, *workers), *seen, "4 failed")


LEFT = """
import os, tempfile, pytest

@pytest.fixture(autouse=True, scope="session")
def hasty(_nothing_is_left_behind):
    import conftest
    eventually = conftest.eventually
    conftest.eventually = lambda assertion: eventually(assertion, timeout=1)

def test_it():
    os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "1001")
    os.system("setsid sleep 1002 &")
    os.spawnlp(os.P_NOWAIT, "perl", "perl", "-e", "$0 = q(a name that is long) x 999; sleep 1000")
    tempfile.mkstemp(prefix="a-file-")
"""


@both
def test_leftovers_of_a_test_fail_the_run_and_are_removed(place, workers):
    result = run(place, LEFT, *workers)
    assert_fails(
        result, "left behind:", "sleep 1001", "sleep 1002", "a name that is long", "/a-file-", "1 passed, 1 error"
    )
    assert_no_process_in(place)
    assert list(place.glob("memreap-*")) == []


@both
@pytest.mark.parametrize(
    "skips",
    ["def test_it(): pytest.skip('on a holiday')", "pytest.skip('on a holiday', allow_module_level=True)"],
    ids=["a test", "a file"],
)
def test_a_skip_unexpected_in_ci_fails_the_ci_run_only(place, workers, skips):
    text = f"import pytest\ndef test_another(): pass\n{skips}\n"
    assert run(place, text, *workers).returncode in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
    result = run(place, text, *workers, environment={"CI": "true"})
    assert result.returncode != 0
    assert "skipped, which CI does not expect: on a holiday" in result.stdout
    expected = f"import conftest\nconftest.EXPECTED_SKIPS['holiday$'] = 'CI has some'\n{text}"
    if not workers:
        assert "CI does not expect" not in run(place, expected, environment={"CI": "true"}).stdout


@both
def test_signals_ignored_by_a_background_shell_are_not_ignored_by_test_processes(place, workers):
    def ignore() -> None:
        for signum in (signal.SIGINT, signal.SIGQUIT):
            signal.signal(signum, signal.SIG_IGN)

    text = """
import signal, subprocess, pytest

@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGQUIT])
def test_it(signum):
    process = subprocess.Popen(["sleep", "1000"])
    process.send_signal(signum)
    assert process.wait() == -signum
"""
    assert_passes(run(place, text, *workers, preexec_fn=ignore), place)


@both
def test_the_files_of_a_failed_test_are_kept_and_others_removed(place, workers):
    text = """
def test_one(tmp_path):
    (tmp_path / "of-one").touch()

def test_two(tmp_path):
    (tmp_path / "of-two").touch()
    assert False
"""
    result = run(place, text, *workers)
    (root,) = place.glob("memreap-*")
    assert_fails(result, f"the files of the tests that failed are in {root}")
    assert [path.name for path in root.rglob("of-*")] == ["of-two"]
    assert_passes(run(place, text.replace("assert False", "")), place.joinpath("none"))


@both
def test_a_parent_directory_whose_mode_changed_fails_the_run(place, workers):
    text = f"""
import pathlib

def test_it():
    pathlib.Path({str(place)!r}).chmod(0o755)
"""
    result = run(place, text, *workers)
    assert_fails(result, f"FAILED {place}: a test has left it with mode 0755 of", "it had mode 0700 of", "1 passed")
    assert_passes(run(place, text, *workers), place)
