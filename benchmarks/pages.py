"""Where the benchmarks keep their results, and write their pages and pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks/results"


def picture(out: Path, name: str) -> Path:
    """The documentation has its pictures in docs; those of other results are beside them."""
    return (ROOT / "docs" if out.resolve() == RESULTS else out) / f"{name}.svg"


def read(file: Path) -> list[dict[str, Any]]:
    """What was measured: a line of JSON each."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def put_between(page: Path, begin: str, end: str, tables: str) -> None:
    """Write the tables between two marks of this page, which keeps all else."""
    text = page.read_text() if page.exists() else f"{begin}\n{end}\n"
    before, _, rest = text.partition(begin)
    page.write_text(f"{before}{begin}\n\n{tables}{end}{rest.partition(end)[2]}")
