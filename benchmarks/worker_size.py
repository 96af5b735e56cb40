"""What a Catalyst worker holds, fresh and after it has served, by each metric: python benchmarks/worker_size.py

Makes an application with catalyst.pl, starts its own script/myapp_fastcgi.pl with 4 workers, and prints a Markdown
table. Needs the Debian packages that tests/run installs.
"""

from __future__ import annotations

import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support import stack

from supervisor_memreap.demo import fastcgi


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory(prefix="memreap-") as name:
        script = stack.catalyst(Path(name))
        process = subprocess.Popen([str(script), "-l", f"{name}/s", "-n", "4", "-e"], stderr=subprocess.DEVNULL)
        try:
            manager = psutil.Process(process.pid)
            deadline = time.monotonic() + 30
            while len(manager.children()) < 4 and time.monotonic() < deadline:
                time.sleep(0.1)
            time.sleep(1)  # the last one settles
            for requests in (0, 4, 400):  # they go round the workers
                for _ in range(requests):
                    assert b"X-Worker" in fastcgi.get(f"{name}/s")
                rows.append((requests // 4, manager.children()[0].memory_full_info()))
        finally:
            process.terminate()
            process.wait()
    perl = subprocess.run(["perl", "-e", "print $^V"], capture_output=True, text=True, check=True).stdout
    catalyst = subprocess.run(
        ["perl", "-MCatalyst", "-e", "print $Catalyst::VERSION"], capture_output=True, text=True, check=True
    ).stdout
    print(f"Catalyst {catalyst}, Perl {perl}, Linux {platform.release()}, {platform.machine()}\n")
    print("| requests served | RSS | PSS | USS | VSZ |\n|---|---|---|---|---|")
    for served, info in rows:
        sizes = (f"{value / 1024**2:.1f} MiB" for value in (info.rss, info.pss, info.uss, info.vms))
        print(f"| {served} | " + " | ".join(sizes) + " |")


if __name__ == "__main__":
    main()
