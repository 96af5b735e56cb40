"""The answers to commands, for their senders."""

from __future__ import annotations

from supervisor_memreap.core.command import Command

# Kept for the senders, who ask within seconds.
_MAX_ANSWERS = 20
# A sender that waits for its answer sends the command again; it expires after some seconds.
_MAX_KNOWN = 1000


class Answers:
    """By the ids of the commands; one without an id gets no answer."""

    def __init__(self) -> None:
        self._answers: dict[str, dict[str, object]] = {}
        self._begun: dict[Command, None] = {}

    def begin(self, command: Command) -> bool:
        """Whether to carry this command out: False if it was carried out before, and has been sent again.

        Its time counts too: a script may send the same command with the same id every day.
        """
        if not command.id or command.until is None:
            return True
        if command in self._begun:
            return False
        self._begun[command] = None
        while len(self._begun) > _MAX_KNOWN:
            del self._begun[next(iter(self._begun))]
        return True

    def give(self, id: str, ok: bool, text: str) -> None:
        if id:
            self._answers[id] = {"ok": ok, "text": text}
        while len(self._answers) > _MAX_ANSWERS:
            del self._answers[next(iter(self._answers))]

    def values(self) -> dict[str, dict[str, object]]:
        """The answers that memreap.getAnswer returns."""
        return dict(self._answers)
