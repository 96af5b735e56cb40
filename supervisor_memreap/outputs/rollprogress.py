"""How far the roll of one command has come in each pool, from the rows of the listener. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from supervisor_memreap.core.rows import PoolRow, RollRow


class Line(NamedTuple):
    text: str
    is_failure: bool


class RollProgress:
    def __init__(self, id: str):
        """`id` is that of the command."""
        self._id = id
        self._shown: dict[str, str] = {}
        self.is_over = False
        """In all pools, or it is no longer known in one."""

    def lines(self, pools: Iterable[PoolRow]) -> Iterator[Line]:
        """What is new, a line for a pool. The listener publishes the roll together with its answer to the command."""
        found = ((row, row.get("roll")) for row in pools)
        rolls = {row["name"]: (row, roll) for row, roll in found if roll and roll["id"] == self._id}
        for name in self._shown.keys() - rolls.keys():
            why = "another roll was started, the listener was restarted, or the pool is no longer watched"
            yield Line(f"{name}: its roll is no longer known: {why}", True)
        if not rolls and not self._shown:
            yield Line(
                "the listener reports no roll of this command: restart the listener, and see memreap status", True
            )
        self.is_over = self._shown.keys() > rolls.keys() or all(roll["is_over"] for _, roll in rolls.values())
        for name, (row, roll) in rolls.items():
            text = _text(row, roll)
            if self._shown.get(name) != text:
                self._shown[name] = text
                yield Line(text, bool(roll["failure"]))


def _text(row: PoolRow, roll: RollRow) -> str:
    hindrance = row.get("hindrance")
    obstacle = hindrance["text"] if hindrance else row.get("not_visible")
    text = f"{row['name']}: {roll['workers'] - roll['left']} of {roll['workers']} workers replaced"
    if roll["failure"]:
        return f"{text}; the roll stopped: {roll['failure']}"
    return f"{text}; what stands in the way: {obstacle}" if obstacle and not roll["is_over"] else text
