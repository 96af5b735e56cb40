"""The settings in force, and where each value was set: as a table and as JSON. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from supervisor_memreap.core.servers import graceful, refusal, signal_for
from supervisor_memreap.core.settings import POOL_KEYS, RECORDING_KEYS, Given, PoolSettings, Recording, field_of, shown
from supervisor_memreap.core.text import aligned
from supervisor_memreap.outputs import fields

VERSION = 1
"""The version of the JSON; increased when a key is removed or changes its meaning, not when one is added."""


class Row(NamedTuple):
    key: str
    value: Any
    """None: there is none."""
    text: str
    """As a user writes it."""
    where: str


class Group(NamedTuple):
    """The settings of a pool, or those of the listener itself."""

    name: str
    rows: tuple[Row, ...]


def of_pool(name: str, settings: PoolSettings, origins: Mapping[str, Given], server: str | None) -> Group:
    """`server` is as in host.look.server_of."""
    rows = []
    for key in POOL_KEYS:
        if key == "signal" and key not in origins:
            rows.append(_default_signal(server))
        else:
            rows.append(Row(key, getattr(settings, field_of(key)), shown(settings, key), _where(key, origins)))
    return Group(name, tuple(rows))


def of_listener(recording: Recording, origins: Mapping[str, Given], history: str | None, why: str) -> Group:
    """`history` is the path of the history if none is set; None: there is none, or it is unknown, and `why`."""
    rows = []
    for key in RECORDING_KEYS:
        if key == "history" and recording.history == "":
            rows.append(Row(key, history, history or "-", f"default: {why or 'beside the log of supervisord'}"))
        else:
            rows.append(Row(key, getattr(recording, key), recording.shown(key), _where(key, origins)))
    return Group("memreap", tuple(rows))


def _where(key: str, origins: Mapping[str, Given]) -> str:
    return origins[key].where.rstrip(":") if key in origins else "default"


def _default_signal(server: str | None) -> Row:
    """The signal that is used if none is set, and why."""
    if server is None:
        return Row("signal", None, "-", "default: depends on the server; no running worker is known")
    if refusal(server):
        return Row("signal", None, "-", f"{server} {refusal(server)}")
    signal = signal_for(server, None)
    return Row("signal", signal, signal, f"default for {server}" if graceful(server) else "default")


def table(groups: Iterable[Group]) -> str:
    rows: list[tuple[str, ...]] = []
    for group in groups:
        rows += [(f"[{group.name}]", "", ""), *((f"  {row.key}", row.text, row.where) for row in group.rows)]
    return aligned(rows)


def document(configuration: str, listener: Group, pools: Iterable[Group]) -> dict[str, Any]:
    """As JSON. `configuration` is the path of the file."""
    return {
        "version": VERSION,
        "configuration": configuration,
        "listener": dict(_values(listener)),
        "pools": [{"name": pool.name, "settings": dict(_values(pool))} for pool in pools],
    }


def _values(group: Group) -> Iterator[tuple[str, dict[str, Any]]]:
    for row in group.rows:
        yield row.key, {"value": fields.plain(row.value), "text": row.text, "where": row.where}
