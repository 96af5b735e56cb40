"""The built wheel is what users get: its files, its command, its metadata."""

from __future__ import annotations

import ast
import configparser
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest
from support import stack

from supervisor_memreap import __version__

sys.path.insert(0, str(stack.ROOT / "docs"))
import pypi


def test_the_wheel_holds_the_whole_package_and_nothing_else(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    page = f"supervisor_memreap-{__version__}.data/data/share/man/man1/memreap.1"
    assert page in names  # pip puts it where man looks, beside the command
    names.remove(page)
    source = stack.ROOT / "supervisor_memreap"
    wanted = {
        str(path.relative_to(stack.ROOT)) for path in source.rglob("*") if path.suffix in (".py", ".pl", ".typed")
    }
    assert names == wanted
    assert "supervisor_memreap/py.typed" in names


def test_the_source_distribution_holds_all_from_which_the_tests_run(tmp_path):
    source = tmp_path / "source"
    ignored = [line.strip("/") for line in (stack.ROOT / ".gitignore").read_text().split()]
    shutil.copytree(stack.ROOT, source, ignore=shutil.ignore_patterns(".git", *ignored))
    build = [sys.executable, "-m", "build", "-q", "--sdist", str(source)]
    subprocess.run(build, check=True, capture_output=True)
    (archive,) = (source / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as files:
        packed = {name.partition("/")[2] for name in files.getnames()}
    present = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    made = {name for name in present if name.startswith("dist/") or ".egg-info/" in name}
    assert present - made - packed == {".gitignore"}


def test_its_metadata_is_that_of_setup_cfg(wheel):
    assert wheel.name == f"supervisor_memreap-{__version__}-py3-none-any.whl"
    archive = zipfile.ZipFile(wheel)
    (entry_points,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
    parser = configparser.ConfigParser()
    parser.read_string(archive.read(entry_points).decode())
    assert dict(parser["console_scripts"]) == {"memreap": "supervisor_memreap.__main__:main"}
    metadata = archive.read(entry_points.replace("entry_points.txt", "METADATA")).decode()
    options = setup()["options"]
    for requirement in options["install_requires"].split():
        assert f"Requires-Dist: {requirement}\n" in metadata
    assert f"Requires-Python: {options['python_requires']}\n" in metadata
    for minor in minors():
        assert f"Classifier: Programming Language :: Python :: 3.{minor}\n" in metadata


def setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(stack.ROOT / "setup.cfg")
    return parser


def minors() -> list[int]:
    """Of the Pythons that are supported: 9 for 3.9."""
    classifiers = setup()["metadata"]["classifiers"]
    return [int(minor) for minor in re.findall(r"Python :: 3\.(\d+)$", classifiers, re.MULTILINE)]


def test_all_files_agree_with_setup_cfg_about_the_supported_pythons():
    oldest, newest = minors()[0], minors()[-1]
    assert minors() == [*range(oldest, newest + 1)]
    assert setup()["options"]["python_requires"] == f">=3.{oldest}"
    assert f'target-version = "py3{oldest}"' in (stack.ROOT / "pyproject.toml").read_text()
    assert f"needs Python 3.{oldest} to 3.{newest}, supervisor" in (stack.ROOT / "README.md").read_text()
    (matrix,) = re.findall(r"^ +python: \[(.*)\]$", (stack.ROOT / ".github/workflows/ci.yml").read_text(), re.MULTILINE)
    assert matrix == ", ".join(f'"3.{minor}"' for minor in minors())


@pytest.mark.parametrize(
    "workflow", sorted((stack.ROOT / ".github/workflows").glob("*.yml")), ids=lambda path: path.name
)
def test_no_job_of_a_workflow_stands_there_twice(workflow):
    """A file that does is refused as a whole."""
    jobs = re.findall(r"^  ([\w-]+):$", workflow.read_text().partition("\njobs:\n")[2], re.MULTILINE)
    assert jobs
    assert len(jobs) == len(set(jobs))


def test_the_test_script_reads_the_versions_from_setup_cfg():
    text = (stack.ROOT / "tests/run").read_text()
    assert not re.search(r"3\.[0-9]|3, [0-9]|minor in [0-9]", text)
    (function,) = re.findall(r"^minors\(\) .*$", text, re.MULTILINE)
    shown = subprocess.run(
        ["sh", "-c", f"{function}; minors"], cwd=stack.ROOT, capture_output=True, text=True, check=True
    )
    assert shown.stdout.split() == [str(minor) for minor in minors()]


def test_the_installed_wheel_runs_without_the_checkout(wheel, tmp_path):
    target = tmp_path / "installed"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    # Without -P the directory it starts in would come first on the path; that is an empty one.
    environment = {**os.environ, "PYTHONPATH": str(target)}
    shown = "import sys, supervisor_memreap, supervisor_memreap.commands.cli as c; print(supervisor_memreap.__file__);"
    result = subprocess.run(
        [sys.executable, "-c", shown + "sys.exit(c.main(['--version']))"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.splitlines() == [f"{target}/supervisor_memreap/__init__.py", f"memreap {__version__}"]


def test_on_pypi_each_link_of_the_readme_leads_to_the_repository():
    url = "https://example.org/owner/name"
    text = pypi.absolute((stack.ROOT / "README.md").read_text(), url, "v1")
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    assert [target for target in targets if not re.match("https?://", target)] == []
    assert f"{url}/raw/v1/docs/day.svg" in targets
    assert f"{url}/blob/v1/docs/install.md#which-user" in targets
    paths = [re.sub(f"^{url}/(?:raw|blob)/v1/|#.*", "", target) for target in targets if target.startswith(url)]
    assert [path for path in paths if not (stack.ROOT / path).exists()] == []
    assert pypi.absolute(text, url, "v1") == text
    assert "not on PyPI" not in text


def test_a_release_names_the_pages_of_the_project_and_whom_to_write_to():
    url = "https://example.org/owner/name"
    text = pypi.with_addresses((stack.ROOT / "setup.cfg").read_text(), url, "v1", "us@example.org")
    parser = configparser.ConfigParser()
    parser.read_string(text)
    metadata, before = dict(parser["metadata"]), dict(setup()["metadata"])
    added = {key: metadata.pop(key) for key in metadata.keys() - before.keys()}
    assert (metadata, added.pop("author_email")) == (before, "us@example.org")
    assert {found.rpartition("/v1/")[2] for found in re.findall(rf"= {url}(\S*)", added.pop("project_urls"))} == {
        "",
        "docs/index.md",
        "CHANGES.md",
        "/issues",
    }
    assert added == {}
    assert pypi.with_addresses(text, url, "v1", "us@example.org") == text


def test_the_two_commands_in_the_readme_are_those_of_ci():
    readme = (stack.ROOT / "README.md").read_text()
    assert "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/memreap demo\n" in readme
    assert "    sh tests/run\n" in readme
    assert (stack.ROOT / ".ci/run").read_text().endswith("exec sh tests/run\n")


def test_signals_are_sent_from_one_place_to_one_process():
    """Besides that one there are the ends of our own children; signal 0 only asks whether a process is there."""
    package = stack.ROOT / "supervisor_memreap"
    names = {"kill", "killpg", "pidfd_send_signal", "send_signal", "terminate", "sigqueue", "pthread_kill", "tgkill"}
    senders = [
        (path.name, function.name, name)
        for path in sorted(package.rglob("*.py"))
        if "demo" not in path.parts  # it ends what it has started itself
        for function in ast.walk(ast.parse(path.read_text()))
        if isinstance(function, ast.FunctionDef)
        for call in ast.walk(function)
        if isinstance(call, ast.Call) and (name := _name_of(call)) in names | {"syscall"}
    ]
    assert senders == [
        ("rights.py", "_signal", "kill"),
        ("boundary.py", "tgkill", "syscall"),
        ("forked.py", "collect", "kill"),
        ("procfile.py", "missing", "kill"),
        ("signalling.py", "send", "pidfd_send_signal"),
        ("signalling.py", "send", "kill"),
        ("signalling.py", "send_to_main_thread", "tgkill"),
        ("signalling.py", "send_to_main_thread", "pidfd_send_signal"),
        ("sockets.py", "_copy", "syscall"),  # pidfd_getfd
        ("doctorprocess.py", "end", "killpg"),
        ("statefile.py", "_exists", "kill"),
        ("terminal.py", "_stop", "kill"),  # itself, for Ctrl-Z
    ]


def _name_of(call: ast.Call) -> str:
    return getattr(call.func, "attr", "") or getattr(call.func, "id", "")
