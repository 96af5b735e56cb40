"""The report as one HTML file that needs nothing else: no network, no script, no font.

The pictures need matplotlib; see record.plot. They are drawn twice, for a screen and for a telephone, and the page
shows the one that fits. Their colours are variables of the page, so that they follow light and dark.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import NamedTuple

from supervisor_memreap.advice.poolhistory import PoolHistory
from supervisor_memreap.core.text import memory, printable
from supervisor_memreap.reports import chart, summary, timeaxis
from supervisor_memreap.reports.summary import PoolReport

# The replacement of each colour of a picture: light and dark. In the dark, the colours of Okabe and Ito are lighter.
_COLORS: tuple[tuple[str, str, str], ...] = (
    ("ink", chart.INK, "#e6edf3"),
    ("muted", chart.MUTED, "#9ba4ae"),
    ("line", chart.GRID, "#30363d"),
    ("paper", chart.PAPER, "#161b22"),
    ("back", "#f3f5f7", "#0d1117"),
    ("accent", "#0a5fa3", "#6cb6ff"),
    *(
        (f"c{number}", color, dark)
        for number, ((color, _), dark) in enumerate(
            zip(chart.STYLES, ("#3d9be0", "#f0803c", "#2bc79a", "#e39cc5", "#f2b93b", "#9bd7ff"))
        )
    ),
)
_STYLE = """\
:root{color-scheme:light dark;%(light)s}
@media(prefers-color-scheme:dark){:root{%(dark)s}}
@media print{:root{color-scheme:light;%(light)s}}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--ink);font:16px/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
header,main,footer{max-width:66rem;margin:auto;padding:0 1.5rem}
h1{font-size:1.6rem;line-height:1.25;margin:2rem 0 .25rem}
h2{font-size:1.25rem;line-height:1.3;margin:0}
p{margin:.25rem 0}
.muted,footer{color:var(--muted)}
footer{padding-bottom:2rem;font-size:.875rem}
a{color:var(--accent)}
section,nav{background:var(--paper);border:1px solid var(--line);border-radius:.6rem}
section,nav{padding:1.25rem 1.5rem;margin:1.5rem 0}
.tiles{display:grid;grid-template-columns:repeat(4,1fr);gap:.75rem;margin:1rem 0}
.tiles div{border:1px solid var(--line);border-radius:.5rem;padding:.6rem .8rem}
.tiles dt{color:var(--muted);font-size:.8125rem}
.tiles dd{margin:0;font-size:1.375rem;line-height:1.3;font-weight:600;font-variant-numeric:tabular-nums}
.tiles small{display:block;font-size:.8125rem;font-weight:400;color:var(--muted)}
figure{margin:1rem 0}
figure svg{display:block;width:100%%;height:auto}
figure svg text{font-family:inherit!important}
.narrow{display:none}
table{border-collapse:collapse;width:100%%;margin-top:1rem;font-size:.9375rem}
caption{text-align:left;font-weight:600;padding-bottom:.35rem}
th,td{text-align:left;vertical-align:top;padding:.3rem .75rem .3rem 0;border-top:1px solid var(--line)}
th{font-weight:500;color:var(--muted)}
.facts th{width:11rem}
.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.days td:first-child{white-space:nowrap}
.days th:last-child{width:50%%}
td:last-child,th:last-child{padding-right:0}
@media(max-width:700px){
body{font-size:15px}
header,main,footer{padding:0 .75rem}
section,nav{padding:1rem .75rem}
.tiles{grid-template-columns:repeat(2,1fr)}
.tiles dd{font-size:1.2rem}
.facts th{width:6.5rem}
.wide{display:none}
.narrow{display:block}
}
@media print{
body{background:none;font-size:10pt}
header,main,footer{padding:0}
section,nav{border:0;padding:0;margin:0 0 1rem}
section+section{break-before:page}
table{font-size:9pt}
th,td{padding-top:.15rem;padding-bottom:.15rem}
figure,tr,.tiles{break-inside:avoid}
.wide{display:block}
.narrow{display:none}
}
"""


class Pool(NamedTuple):
    report: PoolReport
    pictures: tuple[str, str] | None
    """SVG of the wide and the narrow one; None: nothing was recorded."""


def pool(history: PoolHistory, facts: PoolReport) -> Pool:
    """A pool with its pictures. Raises MissingLibraryError."""
    if facts.sizes is None:
        return Pool(facts, None)
    wide, narrow = (chart.svg(history, facts.since, facts.until, size) for size in (chart.WIDE, chart.NARROW))
    return Pool(facts, (wide, narrow))


def html(pools: Sequence[Pool], host: str, since: float, until: float, made_by: str) -> str:
    span = timeaxis.span_text(since, until)
    style = _STYLE % {
        "light": "".join(f"--{name}:{light};" for name, light, _ in _COLORS),
        "dark": "".join(f"--{name}:{dark};" for name, _, dark in _COLORS),
    }
    sections = "\n".join("\n".join(_section(number, each)) for number, each in enumerate(pools, 1))
    return f"""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>memreap on {_text(host)}, {span}</title>
<style>
{style}</style>
</head>
<body>
<header>
<h1>Workers of {_text(host)}</h1>
<p class="muted">{span}</p>
</header>
<main>
{_overview(pools) if len(pools) > 1 else ""}{sections}
</main>
<footer>
<p>Made by {_text(made_by)}. Sizes in the metric of each pool; a MiB is 1,048,576 bytes.</p>
</footer>
</body>
</html>
"""


def _text(text: str) -> str:
    """Text that a user or a process chose, for HTML."""
    return escape(printable(text))


def _overview(pools: Sequence[Pool]) -> str:
    """All pools in one table."""
    lines = []
    for number, (facts, _) in enumerate(pools, 1):
        count = sum(facts.replaced.values())
        peak = memory(facts.sizes.total.size) if facts.sizes else "-"
        cells = (f"{count:,}", memory(facts.freed) if count else "-", peak)
        name = f'<a href="#pool-{number}">{_text(facts.history.name)}</a>'
        lines.append(f"<tr><td>{name}</td>{_numbers(cells)}</tr>")
    head = _numbers(("replaced", "freed", "peak total"), "th")
    body = "\n".join(lines)
    return f"<nav>\n<h2>{len(pools)} pools</h2>\n<table>\n<tr><th>pool</th>{head}</tr>\n{body}\n</table>\n</nav>\n"


def _numbers(cells: Iterable[str], tag: str = "td") -> str:
    return "".join(f'<{tag} class="number">{_text(cell)}</{tag}>' for cell in cells)


def _section(number: int, pool: Pool) -> Iterator[str]:
    facts = pool.report
    yield f'<section id="pool-{number}">\n<h2>{_text(facts.history.name)}</h2>'
    yield f'<p class="muted">{_text(summary.recorded(facts))}</p>'
    if pool.pictures and facts.sizes:
        yield f'<dl class="tiles">{"".join(_tiles(facts, facts.sizes))}</dl>'
        of = facts.history.name
        label = f"Memory of each worker of {of}, the limit and each reap over time; below, the pool's total."
        wide, narrow = (inline(picture, f"p{number}{part}-", label) for picture, part in zip(pool.pictures, ("w", "n")))
        yield f'<figure class="wide">{wide}</figure>\n<figure class="narrow">{narrow}</figure>'
    yield '<table class="facts">'
    for name, text in summary.rows(facts):
        yield f'<tr><th scope="row">{_text(name)}</th><td>{_text(text)}</td></tr>'
    yield "</table>"
    if pool.pictures:
        head, *days = summary.day_rows(facts)
        yield f'<table class="days">\n<caption>By day</caption>\n<tr>{_cells(head, "th")}</tr>'
        yield "\n".join(f"<tr>{_cells(day, 'td')}</tr>" for day in days)
        yield "</table>"
    yield "</section>"


def _cells(row: Sequence[str], tag: str) -> str:
    return f"<{tag}>{_text(row[0])}</{tag}>{_numbers(row[1:-1], tag)}<{tag}>{_text(row[-1])}</{tag}>"


def _tiles(facts: PoolReport, sizes: summary.Sizes) -> Iterator[str]:
    last, largest, total = sizes
    for name, value, detail in (
        ("workers replaced", f"{sum(facts.replaced.values()):,}", f"of {last.workers:,} at a time"),
        ("memory freed", memory(facts.freed) if facts.times_to_leave else "-", "on the host"),
        ("largest worker", memory(largest.size), summary.limit(sizes)),
        ("peak of the pool", memory(total.size), f"{memory(last.total)} now"),
    ):
        yield f"<div><dt>{_text(name)}</dt><dd>{_text(value)}<small>{_text(detail)}</small></dd></div>"


def inline(svg: str, prefix: str, label: str) -> str:
    """A picture of record.plot as a part of a page: with unique ids and the colours of the page."""
    variables = {light: f"var(--{name})" for name, light, _ in _COLORS}
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, count=1, flags=re.DOTALL)
    start = f'<svg role="img" aria-label="{_text(label)}" viewBox='
    body = re.sub(r"<svg[^>]*viewBox=", lambda _: start, body, count=1)
    body = re.sub(r'\b(id="|xlink:href="#|url\(#)', rf"\g<1>{prefix}", body)
    return re.sub(r"\b(fill|stroke): (#[0-9a-f]{6})", lambda found: _colored(found, variables), body).strip()


def _colored(found: re.Match[str], variables: dict[str, str]) -> str:
    return f"{found[1]}: {variables.get(found[2], found[2])}"
