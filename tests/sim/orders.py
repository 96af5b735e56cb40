"""What an attempt must be told, so that it cannot signal where it must not."""

from __future__ import annotations

from collections.abc import Iterator

from supervisor_memreap.core import policy
from supervisor_memreap.core.servers import named, signal_for, signal_while_busy
from supervisor_memreap.core.settings import PoolSettings
from supervisor_memreap.host.machine import MOST_STOPS, Order
from supervisor_memreap.listener.attempts import AGAIN, ALONE, MOST_DOUBLINGS, REFUSED

from .processes import Worker

STOPS = {MOST_STOPS * 2**number for number in range(MOST_DOUBLINGS + 1)}


def wrong_in(order: Order, worker: Worker, settings: PoolSettings, since_refused: float) -> Iterator[str]:
    """`since_refused`: seconds since this memreap learned that it may bring no worker to its boundary."""
    usual = signal_for(order.server, settings.signal)
    is_known = abs(since_refused - REFUSED) > 1.0  # both are noted at about the same time
    if is_known and order.hold is not (settings.hold and since_refused >= REFUSED):
        yield f"hold is {order.hold}, {since_refused:.1f} s after it was refused"
    if order.stops not in STOPS:
        yield f"{order.stops} stops"
    if not 0 < order.patience <= max(ALONE, AGAIN):
        yield f"{order.patience} s of patience"
    if not order.siblings:  # a second signal, or the only worker
        return
    if order.signal != usual or order.busy_signal != signal_while_busy(order.server, settings.signal):
        yield f"{order.signal} or {order.busy_signal} instead of {usual}"
    if order.server != worker.manager.plan.kind.server and named(order.server).is_known:
        yield f"it is not of {order.server}"
    if worker.id.pid in order.siblings:
        yield "it is its own sibling"
    number = len(order.siblings) + 1
    if order.processes != number + 1:
        yield f"{order.processes} processes in a pool of {number}"
    if order.may_lack != max(0, number // policy.MOST_LACKING - 1):
        yield f"{order.may_lack} of {number} may be missing"
    if order.may_be_busy and settings.idle_wait == float("inf"):
        yield "it may be signalled while busy, but idle_wait=never"
