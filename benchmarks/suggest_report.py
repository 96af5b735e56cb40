"""The table and the page of suggest.py."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Sequence
from typing import Any


def table(outcomes: Sequence[Any]) -> list[str]:
    """A row for each kind of pool, as Markdown."""
    lines = [
        "| pools | watched | answered | right | kind recognised as |",
        "|---|--:|--:|--:|---|",
    ]
    for kind in dict.fromkeys(outcome.kind for outcome in outcomes):
        of_kind = [outcome for outcome in outcomes if outcome.kind == kind]
        answered = [outcome for outcome in of_kind if outcome.is_answered]
        right = sum(outcome.is_right for outcome in answered)
        found = Counter(outcome.found for outcome in of_kind)
        kinds = ", ".join(f"{name} {count}" for name, count in found.most_common())
        lines.append(f"| {kind} | {len(of_kind)} | {len(answered)} | {right} | {kinds} |")
    return lines


def markdown(outcomes: Sequence[Any], pools: int) -> str:
    return "\n".join(table(outcomes)) + "\n"


_ = os, platform
