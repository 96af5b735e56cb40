"""What a user wrote, as a message quotes it. Pure."""

from __future__ import annotations

# A value may be of any length; a line in a log or on a terminal shows enough of it to find it.
MOST = 100


def quote(text: str) -> str:
    """At most `MOST` characters of the text."""
    return text if len(text) <= MOST else f"{text[: MOST - 3]}..."
