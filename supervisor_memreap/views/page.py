"""What `memreap top` shows, as lines for a terminal of a given size. Pure, but for rich's Text."""

from __future__ import annotations

import textwrap
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from rich.text import Text

from supervisor_memreap.core.model import Standing
from supervisor_memreap.core.rows import Held, PoolRow, WorkerRow
from supervisor_memreap.core.text import count, memory, padded, printable, seconds
from supervisor_memreap.outputs import memorytable, statustable, words
from supervisor_memreap.outputs.view import View, is_well, unwatched

# Columns of the bar, at least and at most; and of what a worker does, so that the bars keep their length.
_BAR, _LONGEST_BAR, _NOTE = 8, 72, 14
# Lines of the last events where all workers fit; where not, they get one line of four at most.
_EVENTS, _SHARE = 8, 4
_STANDING = {
    Standing.QUIET.value: "green",
    Standing.BLIND.value: "bold red",
    Standing.SUSPENDED.value: "bold red",
    Standing.OVERDUE.value: "bold red",
    Standing.NOT_RUNNING.value: "bold red",
}


class Message(NamedTuple):
    at: float
    """Seconds since 1970."""
    pool: str
    text: str


class Frame(NamedTuple):
    where: str
    """The machine, or the address of its supervisord."""
    view: View
    trouble: str
    """Why there is no newer view; empty: there is none."""
    seen: float
    """When the view was received, in seconds since 1970."""
    now: float
    messages: Sequence[Message]
    """The oldest first."""
    hint: str
    """Which keys end it, and switch to the other page."""


class Glyphs(NamedTuple):
    full: str
    empty: str
    more: str


UNICODE = Glyphs("█", "░", "…")
ASCII = Glyphs("#", ".", "...")


class _Block(NamedTuple):
    """One pool."""

    head: list[Text]
    workers: list[Text]
    sizes: list[int | None]
    """Of the workers, the largest first, in bytes."""
    is_well: bool
    standing: str


def page(frame: Frame, columns: int, rows: int | None, glyphs: Glyphs) -> list[Text]:
    """At most `rows` lines of less than `columns`; None: as many lines as there are."""
    width = max(20, columns - 1)  # a line that fills the last column would make some terminals scroll
    pools = frame.view.pools if _is_watched(frame) else unwatched(frame.view.pools)
    head = _head(frame, pools, width)
    blocks = _blocks(pools, width, glyphs, frame.view.has_commands)
    events = _events(frame.messages, width)
    if rows is None:
        shown = [line for block in blocks for line in (Text(), *block.head, *block.workers)]
        lines = [*head, *shown, *([Text(), *events[-_EVENTS:]] if events else [])]
    else:
        lines = _fitted(head, blocks, events, rows, glyphs)
    return _cut(lines[:rows], width, glyphs)


def memory_page(frame: Frame, held: Held | str | None, columns: int, rows: int, glyphs: Glyphs) -> list[Text]:
    """The second page: what each program holds; or why that is not known; None: it was not read yet."""
    width = max(20, columns - 1)
    known = memorytable.ordered(held) if isinstance(held, tuple) else []
    counts = [count(len(held.programs), "program")] if isinstance(held, tuple) else []
    seen = f"seen by this command {_ago(frame.now - frame.seen)}; the largest uss first"
    lines = [_title(frame, counts, width), *_wrapped(seen, width, "dim")]
    for trouble in filter(None, (frame.trouble, *([held] if isinstance(held, str) else memorytable.troubles(known)))):
        lines += _wrapped(f"TROUBLE: {trouble}", width, "bold red")
    if known:
        head, *programs, total = memorytable.table(known).split("\n")
        room = max(1, rows - len(lines) - 2)
        if len(programs) > room:
            programs[room - 1 :] = [f"{glyphs.more} {len(programs) - room + 1} more not shown"]
        lines += [Text(head, "dim"), *map(Text, programs), Text(total, "bold")]
    elif held is None:
        lines.append(Text("reading the memory of all programs", "dim"))
    return _cut(lines[:rows], width, glyphs)


def _cut(lines: Sequence[Text], width: int, glyphs: Glyphs) -> list[Text]:
    """The lines as the terminal may show them."""
    cut = [line if line.plain.isprintable() else Text(printable(line.plain)) for line in lines]
    for line in cut:
        line.truncate(width, overflow="ellipsis" if glyphs is UNICODE else "crop")
    return cut


def _is_watched(frame: Frame) -> bool:
    return frame.view.is_watched and not frame.trouble


def _fitted(head: list[Text], blocks: list[_Block], events: list[Text], rows: int, glyphs: Glyphs) -> list[Text]:
    """The lines shown in this many rows."""
    least = min(len(events), _EVENTS, max(1, rows // _SHARE))
    below = least + 1 if events and rows > len(head) + least + 4 else 0
    left = rows - len(head) - below
    shown = _with_room(blocks, left, glyphs)
    lines = [*head, *shown]
    tail = events[-max(0, min(_EVENTS, rows - len(lines) - 1)) :] if below else []
    return [*lines, *([Text(), *tail] if tail else [])]


def _with_room(blocks: list[_Block], rows: int, glyphs: Glyphs) -> list[Text]:
    """The pools in this many rows: as many as there is room for, and of each the largest workers."""
    whole = [line for block in blocks for line in (Text(), *block.head, *block.workers)]
    if len(whole) <= rows:
        return whole
    chosen, others = _chosen(blocks, rows)
    lines = {id(block): min(1, len(block.workers)) for block in chosen}
    spare = rows - bool(others) - sum(len(block.head) + lines[id(block)] for block in chosen)
    while spare > 0 and (hidden := [block for block in chosen if lines[id(block)] < len(block.workers)]):
        for block in hidden[:spare]:
            lines[id(block)] += 1
        spare -= len(hidden)
    shown = [line for block in chosen for line in (*block.head, *_largest(block, lines[id(block)], glyphs))]
    return [*shown, *([_others(others)] if others else [])]


def _chosen(blocks: list[_Block], rows: int) -> tuple[list[_Block], list[_Block]]:
    """The pools that have room, those with a trouble before all others, in their order; and the rest."""
    chosen: list[_Block] = []
    for block in sorted(blocks, key=lambda block: block.is_well):
        needed = sum(len(each.head) + min(1, len(each.workers)) for each in (*chosen, block))
        if needed + (len(chosen) + 1 < len(blocks)) <= rows:
            chosen.append(block)
    known = {id(block) for block in chosen}
    return [block for block in blocks if id(block) in known], [block for block in blocks if id(block) not in known]


def _largest(block: _Block, rows: int, glyphs: Glyphs) -> list[Text]:
    """This many lines of workers; the last one shows how many are hidden."""
    if rows >= len(block.workers):
        return block.workers
    hidden = block.sizes[rows - 1 :]
    known = [size for size in hidden if size is not None]
    each = f", each {memory(max(known))} or less" if len(known) == len(hidden) and rows > 1 else ""
    what = "more workers" if rows > 1 else "workers"
    return [*block.workers[: rows - 1], Text(f"    {glyphs.more} {len(hidden)} {what} not shown{each}", "dim")]


def _others(blocks: list[_Block]) -> Text:
    counted = Counter(block.standing for block in blocks)
    names = ", ".join(f"{count} {standing}" for standing, count in sorted(counted.items()))
    return Text(
        f"{len(blocks)} pools do not fit on the screen: {names}", "" if all(b.is_well for b in blocks) else "bold red"
    )


def _head(frame: Frame, pools: Sequence[PoolRow], width: int) -> list[Text]:
    view = frame.view
    workers = sum(len(pool["workers"]) for pool in pools)
    total = sum(pool.get("total_bytes") or 0 for pool in pools)
    counts = f"{count(len(pools), 'pool')}, {count(workers, 'worker')}"
    first = _title(frame, [f"{counts}, {memory(total)}", counts], width)
    limited = all("limit_bytes" in pool for pool in pools)
    bar = "a full bar is the limit" + ("" if limited else " or, without one, the largest worker")
    lines = [first, *_wrapped(f"{_seen(frame)}; {bar}", width, "dim")]
    if frame.trouble:
        lines += _wrapped(f"TROUBLE: {frame.trouble}", width, "bold red")
    elif not pools:
        lines += _wrapped("TROUBLE: no pool is watched: run memreap doctor", width, "bold red")
    for trouble in view.troubles:
        lines += _wrapped(f"TROUBLE: {trouble}", width, "bold red")
    for warning in view.warnings:
        lines += _wrapped(warning, width, "yellow")
    return lines


def _title(frame: Frame, middles: Sequence[str], width: int) -> Text:
    """The first line, with the first of `middles` that it has room for."""
    right = f"{words.clock(frame.now)}  {frame.hint}"
    left = f"memreap top  {printable(frame.where)}  "
    room = max(0, width - len(right) - len(left) - 2)
    middle = next((middle for middle in middles if len(middle) <= room), "")
    return Text(left, "bold").append(f"{middle:<{room}}  ", "not bold").append(right, "not bold")


def _seen(frame: Frame) -> str:
    """Whose view this is, and how old."""
    age = max(0.0, frame.now - frame.seen) + (frame.view.age or 0.0)
    old = _ago(age)
    if frame.view.whose == "look":
        return f"seen by this command {old}: {frame.view.why}"
    if frame.view.age is None:
        return f"last view of the listener, received {old}; it is not looking now"
    return f"seen by the listener {old}, sizes up to 30 s old"


def _ago(age: float) -> str:
    return f"{max(0.0, age):.0f} s ago" if age < 120 else f"{seconds(age)} ago"


def _blocks(pools: Sequence[PoolRow], width: int, glyphs: Glyphs, has_commands: bool) -> list[_Block]:
    table = _pool_rows(pools, width)
    known = [pool for pool in pools if any("growth_bytes_per_hour" in worker for worker in pool["workers"])]
    notes = [statustable.note(worker) for pool in pools for worker in pool["workers"]]
    rest = max(_NOTE, *map(len, notes), 0) + (11 if known else 0)
    bar = max(_BAR, min(_LONGEST_BAR, width - 31 - rest))
    blocks = []
    for pool, line in zip(pools, table):
        workers = statustable.largest_first(pool)
        text = [line] if isinstance(line, Text) else line
        below = statustable.details(pool, has_commands)
        details = [part for detail in below for part in _wrapped(f"  {detail}", width, "")]
        scale = pool.get("limit_bytes") or pool.get("largest_bytes") or 0
        blocks.append(
            _Block(
                [*text, *details],
                [_worker(worker, scale, "limit_bytes" in pool, bar, bool(known), glyphs) for worker in workers],
                [worker.get("used_bytes") for worker in workers],
                is_well(pool) and pool["standing"] != Standing.NOT_RUNNING,
                statustable.standing_word(pool),
            )
        )
    return blocks


def _pool_rows(pools: Sequence[PoolRow], width: int) -> list[list[Text]]:
    """The lines of each pool's own numbers; above those of the first one their names."""
    if not pools:
        return []
    names = ("", "", "limit", "workers", "total", "growth", "reaps", "freed")
    rows = [names, *map(_pool_row, pools)]
    used = [column for column in range(8) if column < 5 or any(row[column] for row in rows[1:])]
    rows = [tuple(row[column] for column in used) for row in rows]
    table = padded(rows)
    apart = len("  ".join(table[0])) > width
    lines: list[list[Text]] = []
    for number, cells in enumerate(table):
        name = Text(cells[0].rstrip() if apart else cells[0], "bold")
        standing = Text(cells[1], _STANDING.get(pools[number - 1]["standing"], "yellow") if number else "")
        rest = Text("  ".join(cells[2:]).rstrip(), "dim" if number == 0 else "")
        numbers = Text("  ").join([standing, rest])
        together = [name, Text("  ").append_text(numbers)] if apart else [Text("  ").join([name, numbers])]
        lines.append(together[1:] if apart and number == 0 else together)
    return [[*lines[0], *lines[1]], *lines[2:]]


def _pool_row(pool: PoolRow) -> tuple[str, ...]:
    start = printable(pool["name"]), statustable.standing_word(pool), statustable.limit(pool), str(len(pool["workers"]))
    history = statustable.history(pool) if "since" in pool else ("", "", "")
    return (*start, statustable.size(pool.get("total_bytes")), *history)


def _worker(worker: WorkerRow, scale: int, has_limit: bool, width: int, has_growth: bool, glyphs: Glyphs) -> Text:
    """`scale` is what a full bar means, in bytes: the limit, or else the largest worker."""
    used, note = worker.get("used_bytes"), statustable.note(worker)
    over = bool(worker.get("over"))
    filled = min(width, round(width * used / scale)) if used is not None and scale else 0
    colour = "red" if over or note == "stuck" else "yellow" if note else "green" if has_limit else "blue"
    line = Text(f"{worker['pid']:>9} {statustable.size(used):>9} ")
    line.append(glyphs.full * filled, colour).append(glyphs.empty * (width - filled), "dim")
    line.append(f" {seconds(worker['age_seconds']):>7}")
    if has_growth:
        line.append(f" {statustable.growth(worker.get('growth_bytes_per_hour')):>10}")
    return line.append(f"  {note}", colour if note else "")


def _events(messages: Iterable[Message], width: int) -> list[Text]:
    return [line for message in messages for line in _event(message, width)]


def _event(message: Message, width: int) -> Iterator[Text]:
    clock = words.clock(message.at) if message.at else time.strftime("%H:%M:%S")
    text = f"{clock} {message.pool}: {message.text}"
    for part in textwrap.wrap(printable(text), width, subsequent_indent=" " * 9, break_on_hyphens=False):
        yield Text(part)


def _wrapped(text: str, width: int, style: str) -> list[Text]:
    indent = " " * (len(text) - len(text.lstrip()))
    parts = textwrap.wrap(printable(text.lstrip()), width - len(indent) - 2, break_on_hyphens=False)
    return [Text(f"{indent}{'  ' if number else ''}{part}", style) for number, part in enumerate(parts)]
