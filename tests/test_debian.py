"""The Debian package, on Debian: built, installed, run by Debian's own supervisord, upgraded, and purged."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support import stack
from support.driver import POOL, eventually, started, until
from support.operated import Operated

from supervisor_memreap import __version__

# Building, installing and upgrading take their time, on a busy machine above all.
pytestmark = pytest.mark.timeout(600)

NAME = "supervisor-memreap"
TOOLS = (
    "git",
    "dpkg-buildpackage",
    "dh_python3",
    "apt-get",
    "man",
    "lintian",
    "/usr/bin/supervisord",
    "/usr/bin/python3",
)
# All that the package depends on is there: without the lists of the archive apt-get takes 4 s less to begin.
APT = ("-o", "DPkg::Lock::Timeout=300", "-o", "Dir::State::lists=/nonexistent")
SYSTEM = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def test_the_version_of_the_debian_package_matches():
    first = (stack.ROOT / "debian/changelog").read_text().splitlines()[0]
    assert first.startswith(f"{NAME} ({__version__}) ")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can install a Debian package")
def test_the_debian_package_is_built_installed_run_and_purged():
    skip_without_debian()
    where = stack.directory()
    try:
        old = build(where)
        new = with_version(old, where, "9.9.9")
        assert_files_in_debian_places(old)
        with accepted_by_lintian(old, where), alone():
            services = running_services()
            with installed(old) as files:
                assert_usable_at_once()
                assert running_services() == services
                go_through(where, new)
                assert_removal_warns_of_sections(where)
            assert_nothing_is_left(files)
    finally:
        shutil.rmtree(where)


def skip_without_debian() -> None:
    if not Path("/etc/debian_version").exists():
        pytest.skip("not Debian")
    absent = [tool for tool in TOOLS if not shutil.which(tool, path=SYSTEM)]
    if absent:
        pytest.skip(f"not here: {', '.join(absent)}; tests/run installs them")
    if is_installed():
        pytest.skip(f"{NAME} is installed on this machine, and this test would remove it")


def system(*command: str, directory: Path = Path("/"), check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run it as on a plain Debian: no virtual environment, no other Python."""
    environment = {"PATH": SYSTEM, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    result = subprocess.run(
        command, cwd=directory, env={**environment, **mark()}, capture_output=True, text=True, check=False
    )
    assert not check or result.returncode == 0, f"{command}: {result.stdout}{result.stderr}"
    return result


def mark() -> dict[str, str]:
    """By which conftest.py knows the processes of the tests."""
    return {key: value for key, value in os.environ.items() if key == "MEMREAP_TESTS"}


def is_installed() -> bool:
    """Also with nothing but its configuration left."""
    return system("dpkg-query", "-W", NAME, check=False).returncode == 0


def build(where: Path) -> Path:
    """The package of this checkout, as in docs/install.md."""
    source = where / "source"
    names = system("git", "-c", "safe.directory=*", "ls-files", "-z", directory=stack.ROOT).stdout.split("\0")
    for name in filter(None, names):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(stack.ROOT / name, source / name)
    system("dpkg-buildpackage", "-b", "-us", "-uc", directory=source)
    package = where / f"{NAME}_{__version__}_all.deb"
    assert package.exists()
    return package


def with_version(package: Path, where: Path, version: str) -> Path:
    """The same package as if it were of that version, in 0.5 s instead of the 11 s of a build."""
    tree = where / version
    system("dpkg-deb", "--raw-extract", str(package), str(tree))
    stack.set_version(tree / "usr/lib/python3/dist-packages", version)
    control = tree / "DEBIAN/control"
    assert control.read_text().count(f"\nVersion: {__version__}\n") == 1
    control.write_text(control.read_text().replace(f"\nVersion: {__version__}\n", f"\nVersion: {version}\n"))
    changed = where / f"{NAME}_{version}_all.deb"
    system("dpkg-deb", "-Znone", "--build", "--root-owner-group", str(tree), str(changed))
    return changed


def assert_files_in_debian_places(package: Path) -> None:
    lines = system("dpkg-deb", "--contents", str(package)).stdout.splitlines()
    files = {line.split()[5].removeprefix("./") for line in lines if not line.endswith("/")}
    code = "usr/lib/python3/dist-packages/supervisor_memreap"
    doc = f"usr/share/doc/{NAME}"
    assert {"usr/bin/memreap", "usr/share/man/man1/memreap.1.gz", f"{code}/py.typed", f"{doc}/copyright"} <= files
    examples = {f"{doc}/examples/{path.name}" for path in (stack.ROOT / "conf.d-examples").iterdir() if path.is_file()}
    assert examples <= files
    python = {path for path in (stack.ROOT / "supervisor_memreap").rglob("*") if path.suffix in (".py", ".pl")}
    assert {f"usr/lib/python3/dist-packages/{path.relative_to(stack.ROOT)}" for path in python} <= files
    elsewhere = re.compile(rf"(?!{code}[/-]|{doc}/|usr/bin/memreap$|usr/share/man/man1/memreap\.1\.gz$)")
    assert [file for file in files if elsewhere.match(file)] == []
    fields = system("dpkg-deb", "--field", str(package), "Depends").stdout
    assert {"supervisor", "python3-psutil"} <= set(re.findall(r"[a-z0-9-]+", fields))


@contextlib.contextmanager
def accepted_by_lintian(package: Path, where: Path) -> Iterator[None]:
    """lintian reads the package for some seconds, beside what is done with it meanwhile."""
    command = ("lintian", "--fail-on", "error,warning", str(package))
    environment = {**os.environ, "PATH": SYSTEM, "TMPDIR": str(where)}  # it leaves a file there
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as lintian:
        yield
        said = lintian.communicate()[0]
    assert lintian.returncode == 0, said


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """One such test at a time on this machine."""
    descriptor = os.open("/var/lib/dpkg", os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if is_installed():
            pytest.skip(f"{NAME} is installed on this machine, and this test would remove it")
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def installed(package: Path) -> Iterator[list[str]]:
    """The paths that it brings; it is purged at the end, whatever happens."""
    try:
        install(package)
        yield system("dpkg-query", "-L", NAME).stdout.splitlines()
    finally:
        system("dpkg", "--configure", "-a")  # where the time was over in the middle of an installation
        system("apt-get", *APT, "purge", "-y", NAME)


def install(package: Path) -> None:
    options = [*APT]
    for kept in ("doc", "man"):  # which the images of containers leave out
        options += ["-o", f"DPkg::Options::=--path-include=/usr/share/{kept}/*"]
    system("apt-get", *options, "install", "-y", "--no-install-recommends", str(package))


def running_services() -> set[int]:
    """The supervisords of the packaged service."""
    service = ["/usr/bin/python3", "/usr/bin/supervisord"]
    return {
        process.pid for process in psutil.process_iter(["cmdline"]) if (process.info["cmdline"] or [])[:2] == service
    }


def assert_usable_at_once() -> None:
    assert system("memreap", "--version").stdout == f"memreap {__version__}\n"
    assert system("man", "-w", "memreap").stdout == "/usr/share/man/man1/memreap.1.gz\n"
    check = stack.ROOT.joinpath("docs/install.md").read_text().partition("```sh\n")[2].partition("```")[0]
    assert system("sh", "-c", check).stdout == f"{__version__}\n"


def go_through(where: Path, new: Path) -> None:
    """As in docs/install.md, with the supervisord and configuration of Debian, except for the paths."""
    (where / "conf.d").mkdir()
    plain = Path("/etc/supervisor/supervisord.conf").read_text().replace("/var/run/", "/run/")  # as 4.3.0-2 has it
    for path, replacement in {
        "/run/supervisor.sock": "s.sock",
        "/run/supervisord.pid": "s.pid",
        "/var/log/supervisor/supervisord.log": "s.log",
        "/var/log/supervisor": "",
        "/etc/supervisor/conf.d": "conf.d",
    }.items():
        assert path in plain
        plain = plain.replace(path, str(where / replacement))
    main = where / "supervisord.conf"
    main.write_text(plain)
    program = where / "conf.d/myapp.conf"
    program.write_text(f"[program:myapp]\ncommand=/usr/bin/python3 {POOL} 1 40\n")
    with supervisord(where):
        manager = pid_of(where, "myapp")
        with program.open("a") as file:
            file.write("[memreap:myapp]\nlimit=30MB\nmin_age=1s\nsettle=1s\n")
        example = Path(f"/usr/share/doc/{NAME}/examples/memreap.conf").read_text()
        (where / "conf.d/memreap.conf").write_text(example.replace("/var/log/supervisor", str(where)))
        control(where, "update")
        eventually(lambda: assert_logged(where, "left after"))
        assert pid_of(where, "myapp") == manager
        # Not while its only worker has left and the next one is not there yet.
        eventually(lambda: system("memreap", "doctor", "-c", str(main)))
    main.write_text(plain + stack.INTERFACE + stack.PLUGIN)
    with supervisord(where):
        steer(where)
        upgrade(where, new)
        main.write_text(plain)
        (where / "conf.d/memreap.conf").unlink()
        control(where, "update")
        assert set(control(where, "status").split()) >= {"myapp", "RUNNING"}


@contextlib.contextmanager
def supervisord(where: Path) -> Iterator[None]:
    command = ["/usr/bin/supervisord", "-n", "-c", str(where / "supervisord.conf")]
    (where / "s.log").unlink(missing_ok=True)
    (where / "memreap.log").unlink(missing_ok=True)
    # Not /run/memreap, which is that of this machine.
    environment = {"PATH": SYSTEM, "TMPDIR": str(where), "XDG_RUNTIME_DIR": os.environ["XDG_RUNTIME_DIR"], **mark()}
    with started(command, where, env=environment):
        yield


def control(where: Path, *words: str) -> str:
    return system("/usr/bin/supervisorctl", "-c", str(where / "supervisord.conf"), *words).stdout


def pid_of(where: Path, name: str) -> int:
    return int(control(where, "pid", name))


def assert_logged(where: Path, text: str) -> None:
    path = where / "memreap.log"
    assert text in (path.read_text() if path.exists() else "")


def steer(where: Path) -> None:
    eventually(lambda: assert_logged(where, "watching myapp"))
    assert_shows(where, "30 MiB uss")
    control(where, "memreap", "pause", "myapp")
    assert_shows(where, "PAUSED")
    control(where, "memreap", "resume", "myapp")
    eventually(lambda: control(where, "memreap", "doctor"))


def assert_shows(where: Path, text: str) -> None:
    """Debian's supervisorctl shows it as soon as the listener has published it."""
    eventually(lambda: assert_well(Operated.of(where).ctl("memreap", "status"), text))
    assert text in control(where, "memreap", "status")


def assert_well(shown: subprocess.CompletedProcess[str], text: str) -> None:
    assert (shown.returncode, text in shown.stdout) == (0, True), shown.stdout


def upgrade(where: Path, new: Path) -> None:
    listener = pid_of(where, "memreap")
    install(new)
    assert pid_of(where, "memreap") == listener  # nothing is restarted
    control(where, "restart", "memreap")
    eventually(lambda: assert_logged(where, "memreap: version 9.9.9"))
    rpc = Operated.of(where).rpc().memreap
    until(lambda: rpc.getListener()["version"] == "9.9.9")
    assert_shows(where, "30 MiB uss")


def assert_removal_warns_of_sections(where: Path) -> None:
    """The package's own script, with another directory, on a configuration that would stop supervisord."""
    script = Path(f"/var/lib/dpkg/info/{NAME}.prerm").read_text().partition("# Automatically added")[0]
    command = ("sh", "-c", script.replace("/etc/supervisor", str(where)), "prerm")
    assert system(*command, "remove").stderr == ""
    (where / "conf.d/other.conf").write_text(f";{stack.PLUGIN}{stack.INTERFACE}")
    warning = system(*command, "remove").stderr
    assert f"{where}/conf.d/other.conf" in warning
    assert "supervisord will not start again" in warning
    assert system(*command, "upgrade").stderr == ""


def assert_nothing_is_left(files: list[str]) -> None:
    assert not is_installed()
    ours = [path for path in files if "memreap" in path]
    assert len(ours) > 50
    assert [path for path in ours if os.path.lexists(path)] == []
    places = ("/usr/lib/python3", "/usr/bin", "/usr/share/man", "/usr/share/doc", "/etc", "/var/lib/dpkg", "/var/log")
    left = system("find", *places, "-iname", "*memreap*").stdout
    assert left == ""
