"""Whether a busy worker's connections are kept between requests, by what was seen of them. Film strips of readings."""

from __future__ import annotations

import pytest

from supervisor_memreap.host.connections import Clients, Connections


def seen(*readings: str) -> Connections:
    """Each reading is the connections in hand, the one that the worker waits on in upper case."""
    connections = Connections()
    for reading in readings:
        awaited = next((name.lower() for name in reading if name.isupper()), None)
        connections.note(Clients(frozenset(reading.lower()), awaited))
    return connections


@pytest.mark.parametrize(
    ("readings", "are_kept", "is_same", "are_fresh"),
    [
        ([], False, False, False),
        (["", "", ""], False, False, False),
        (["a"], False, True, False),
        # One connection a request: each comes and goes.
        (["a", "b", "", "c"], False, False, True),
        # Waits for its request, and then for the client to close.
        (["", "A", "a", "A", "", "B", "b", "c"], False, False, True),
        # The same one all the time: kept, or for a long request.
        (["a", "a", "a"], False, True, False),
        (["A", "A"], True, True, False),
        # Comes back again and again to wait for the next request.
        (["", "A", "a", "A", "a", "A", "b"], True, False, False),
        # One that was there at first has gone, and the one that is there now came: it may be kept.
        (["a", "b"], False, False, False),
    ],
)
def test_the_readings_show_which_connections_are_kept(readings, are_kept, is_same, are_fresh):
    connections = seen(*readings)
    assert (connections.are_kept, connections.is_same, connections.are_fresh) == (are_kept, is_same, are_fresh)
