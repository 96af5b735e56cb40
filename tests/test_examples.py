"""Every file in conf.d-examples/ is loaded and run by a real supervisord."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import stack
from driver import eventually, supervisord

EXAMPLES = stack.ROOT / "conf.d-examples"
FILES = sorted(EXAMPLES.glob("*.conf"))


def test_the_examples_are_those_of_the_readme():
    named = set(re.findall(r"conf\.d-examples/([a-z-]+\.conf)", (stack.ROOT / "README.md").read_text()))
    assert (
        {file.name for file in FILES} == named == {"memreap.conf", "catalyst.conf", "plack.conf", "fcgi-program.conf"}
    )


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_each_program_may_finish_its_requests_and_stays_in_the_foreground(file):
    parser = configparser.RawConfigParser(inline_comment_prefixes=(";",))
    parser.read(file)
    for section in parser.sections():
        if "program:" in section:
            assert parser.getint(section, "stopwaitsecs") > 60
            assert not re.search(r" (-d|--daemon(ize)?)\b", parser.get(section, "command"))
            assert "without -d" in file.read_text().lower() or "without --daemonize" in file.read_text().lower()


def test_all_of_them_together_run_and_are_watched(catalyst_script, sock):
    where = sock.parent
    replacements = {
        r"/srv/(myapp|myapi)/script/\w+_fastcgi\.pl": str(catalyst_script),
        r"/srv/shop/app\.psgi": str(stack.APPS / "leaky.psgi"),
        r"/(var/log/supervisor|run/myapp|run/shop|run)/": f"{where}/",
        r"command=memreap": f"command={Path(sys.executable).parent}/memreap",
    }
    replacements[r"(?m)^user=www-data$"] = ""  # the checkout may be one that only its owner may read
    if os.getuid() != 0:
        replacements[r"(?m)^socket_owner=.*$"] = ""
    for file in FILES:
        text = file.read_text()
        for pattern, new in replacements.items():
            text = re.sub(pattern, lambda _, new=new: new, text)
        (where / file.name).write_text(text)
    with supervisord(where, "[include]\nfiles=catalyst.conf plack.conf fcgi-program.conf memreap.conf\n"):

        def watched():
            log = (where / "memreap.log").read_text()
            assert "watching myapi (limit 150 MiB uss), myapp (limit 150 MiB uss), shop (limit 100 MiB uss)" in log

        eventually(watched, timeout=20)
        dry = subprocess.run(
            [sys.executable, "-m", "supervisor_memreap", "once", "-n", "-c", str(where / "supervisord.conf")],
            capture_output=True,
            text=True,
            check=False,
        )
    assert (dry.returncode, dry.stderr) == (0, "")
    for name, count, limit in (("myapi", 4, 150), ("myapp", 5, 150), ("shop", 5, 100)):
        assert f"memreap: {name}: {count} workers, none over the limit of {limit} MiB" in dry.stdout
