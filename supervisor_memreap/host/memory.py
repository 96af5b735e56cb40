"""How much memory a process can have at most: the machine's, or its control groups' limit. Linux only."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def available_to(pid: int, root: Path = _CGROUPS) -> tuple[int, str] | None:
    """Bytes, and what sets them: `machine` or `container`. None where this system does not tell."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        groups = Path(f"/proc/{pid}/cgroup").read_text()
    except (OSError, ValueError):
        return None
    limits = [limit for limit in _limits(groups, root) if limit < total]
    return (min(limits), "container") if limits else (total, "machine")


def _limits(groups: str, root: Path) -> list[int]:
    """Those of each group up to the top; in a container its own group may be the top that it sees."""
    limits = []
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, name = root, "memory.max"
        elif "memory" in controllers.split(","):
            base, name = root / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = base / path.lstrip("/")
        for directory in (group, *group.parents):
            try:
                text = (directory / name).read_text().strip()
            except OSError:
                text = "max"
            if text.isdigit():
                limits.append(int(text))
            if directory == base:
                break
    return limits
