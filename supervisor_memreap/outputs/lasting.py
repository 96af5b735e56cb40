"""What lasts is reported once: when it begins, and when its text changes."""

from __future__ import annotations

from collections.abc import Collection, Hashable
from typing import Generic, Literal, TypeVar

from supervisor_memreap.core.events import Event, Over, Sink
from supervisor_memreap.outputs import fields

KeyT = TypeVar("KeyT", bound=Hashable)


class Lasting(Generic[KeyT]):
    """The texts of what lasts now, by key."""

    def __init__(self) -> None:
        self._texts: dict[KeyT, str] = {}

    def note(self, key: KeyT, text: str) -> bool:
        """Note what lasts now; empty: it is over. Whether that is to be reported, since it has changed."""
        has_changed = self._texts.get(key, "") != text
        if text:
            self._texts[key] = text
        else:
            self._texts.pop(key, None)
        return has_changed

    def texts(self) -> list[str]:
        return list(self._texts.values())

    def keep_only(self, keys: Collection[KeyT]) -> None:
        """All others are over."""
        self._texts = {key: text for key, text in self._texts.items() if key in keys}


class Once(Lasting[tuple[type[Event], str]]):
    """A sink that passes on an event of a lasting state; again only if its text has changed."""

    def __init__(self, emit: Sink):
        super().__init__()
        self._emit = emit

    def __call__(self, event: Event) -> None:
        if self.note((type(event), event.pool), event.text):
            self._emit(event)

    def follow(self, kind: type[Event], event: Event | None, pool: str = "") -> None:
        """Report the state of this kind; None: there is no such state now."""
        if event:
            self(event)
        else:
            self.clear(kind, pool)

    def has_passed(self, kind: type[Event], pool: str = "") -> bool:
        return (kind, pool) in self._texts

    def lasting(self, in_status: Literal["troubles", "warnings"]) -> list[str]:
        """The texts of the states that still last and that the status has there."""
        return [text for (kind, _), text in self._texts.items() if kind.in_status == in_status]

    def lasting_kinds(self) -> set[str]:
        """The kinds of the states that still last, named as in outputs.fields."""
        return {fields.kind_of(kind) for kind, _ in self._texts}

    def end(self, over: type[Over], at: float) -> None:
        """End the state of which this is the end, and pass it on, if there was one."""
        if self.clear(over.ends):
            self._emit(over("", at))

    def clear(self, kind: type[Event], pool: str = "") -> bool:
        """End that state; whether there was one."""
        return self.note((kind, pool), "")
