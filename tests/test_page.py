"""The HTML of a report in a real browser: it fits, shows every picture and each name as it is, and fetches nothing."""

from __future__ import annotations

import re
import sys

import pytest
from support import browser, sawtooth
from support.sawtooth import DAY, UNTIL

from supervisor_memreap.host import packages
from supervisor_memreap.reports import htmlpage, summary

HOSTILE = '</style><script>document.title="run"</script><img src=http://example.com/x onerror=alert(1)>"\'&amp;'
LONG = "a" * 100


@pytest.fixture(scope="module", autouse=True)
def _utc():
    with sawtooth.time_zone("UTC0"):
        yield


def html(*pools, days: float = 1, host: str = "web1.example.com") -> str:
    since = UNTIL - days * DAY
    shown = [htmlpage.pool(history, summary.of(history, since, UNTIL)) for history in pools]
    return htmlpage.html(shown, host, since, UNTIL, "memreap 1.2.3")


@pytest.fixture(scope="module")
def day():
    return html(
        sawtooth.pool(),
        sawtooth.troubled(),
        sawtooth.pool(HOSTILE, workers=2),
        sawtooth.pool(LONG, workers=30),
        sawtooth.pool("idle", until=UNTIL - 2 * DAY),
    )


@pytest.fixture(scope="module")
def month():
    return html(sawtooth.pool("big", workers=12, days=30), sawtooth.pool("small", days=30), days=30)


WIDTHS = pytest.mark.parametrize("width", [1280, 390])


@pytest.fixture(scope="module")
def measured(day, month, tmp_path_factory):
    """What a browser made of the day and the month in each width, and of the day in the dark."""
    directory = tmp_path_factory.mktemp("browser")
    shown = [("day", 1280), ("day", 390), ("month", 1280), ("month", 390)]
    pages = browser.measure([({"day": day, "month": month}[which], width) for which, width in shown], directory)
    (dark,) = browser.measure([(day, 1280)], directory, is_dark=True)
    return {**dict(zip(shown, pages)), "dark": dark}


@WIDTHS
@pytest.mark.parametrize(("which", "pools"), [("day", ["myapp", "shop", HOSTILE, LONG]), ("month", ["big", "small"])])
def test_it_fits_and_has_a_picture_of_each_pool(measured, which, pools, width):
    page = measured[which, width]
    assert (page.scroll_width, page.client_width) == (width, width)
    assert page.outside == []
    assert [picture.section for picture in page.pictures] == pools
    for picture in page.pictures:
        left, top, right, bottom = picture.box
        assert right - left > width * 0.7
        assert bottom - top > 300
        assert picture.label.startswith(f"Memory of each worker of {picture.section}, the limit")


@WIDTHS
@pytest.mark.parametrize("which", ["day", "month"])
def test_no_text_in_a_picture_overlaps_another_or_is_cut_off_or_tiny(measured, which, width):
    for picture in measured[which, width].pictures:
        assert picture.overlapping() == []
        assert picture.outside() == []
        assert min(bottom - top for _, _, top, _, bottom in picture.texts) > 9


@pytest.mark.parametrize("is_dark", [False, True])
def test_pictures_follow_light_and_dark(measured, is_dark):
    page = measured["dark" if is_dark else ("day", 1280)]
    background = "#0d1117" if is_dark else "#f3f5f7"
    ink = "#e6edf3" if is_dark else "#1f2328"
    assert page.background == rgb(background)
    assert {color for picture in page.pictures for color in picture.ink} == {rgb(ink)}


def rgb(color: str) -> str:
    return f"rgb({', '.join(str(int(color[place : place + 2], 16)) for place in (1, 3, 5))})"


def contrast(one: str, other: str) -> float:
    """As in WCAG 2.1."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(color: str) -> float:
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(part * weight for part, weight in zip(linear, (0.2126, 0.7152, 0.0722)))


@pytest.mark.parametrize("column", [1, 2], ids=["light", "dark"])
def test_text_has_enough_contrast(column):
    colors = {row[0]: row[column] for row in htmlpage._COLORS}
    for text in ("ink", "muted", "accent"):
        for background in ("paper", "back"):
            assert contrast(colors[text], colors[background]) >= 4.5
    assert min(contrast(colors[f"c{number}"], colors["paper"]) for number in range(6)) >= 2


def test_every_colour_in_a_picture_is_defined_by_the_page(day):
    assert re.findall(r"(?:fill|stroke): #[0-9a-f]+", day) == []
    assert "var(--c0)" in day


def test_it_needs_no_network_and_no_script(day, measured):
    page = measured["day", 1280]
    assert page.loaded == []
    assert not {"script", "img", "link", "iframe", "object", "image"} & set(page.elements)
    assert not [name for name in page.attributes if name.startswith("on") or name in ("src", "srcset")]
    assert all(target.startswith("#") for target in page.targets)
    assert any(target.startswith("#pool-") for target in page.targets)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", day))
    assert "@import" not in day


def test_a_name_containing_html_is_shown_literally(measured):
    page = measured["day", 1280]
    assert HOSTILE in page.headings
    assert page.title.startswith("memreap on web1.example.com, from 27 Nov 00:00 to 28 Nov 2025")
    assert page.language == "en"


@pytest.mark.parametrize("name", [r"a\1b", r"x\g<0>y", "back\\"])
def test_a_name_containing_a_backslash_is_shown_literally(name):
    shown = name.replace("<", "&lt;").replace(">", "&gt;")
    assert f'aria-label="{shown}"' in htmlpage.inline("<svg viewBox='0 0 1 1'></svg>", "p", name)


def test_an_unencodable_host_or_name_can_be_written():
    assert b"a?b" in html(sawtooth.pool("a\udcffb"), host="x\udcff").encode()


def test_each_id_is_unique_and_every_reference_resolves(day, measured):
    ids = measured["day", 1280].ids
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', day)) <= set(ids)


def test_it_can_be_printed(month, tmp_path):
    source, printed = tmp_path / "month.html", tmp_path / "month.pdf"
    source.write_text(month)
    browser.run(f"--print-to-pdf={printed}", f"file://{source}", directory=tmp_path)
    pages = len(re.findall(rb"/Type\s*/Page\b", printed.read_bytes()))
    assert 3 <= pages <= 6  # the table of both, and each of them on one or two


def test_a_pool_with_nothing_recorded_has_no_picture(day):
    section = day[day.index('id="pool-5"') :]
    assert "<svg" not in section
    assert "nothing recorded" in section


def test_the_same_histories_give_the_same_page():
    assert html(sawtooth.pool(), sawtooth.troubled()) == html(sawtooth.pool(), sawtooth.troubled())


def test_the_facts_of_the_text_report_are_in_the_page(day):
    for label, text in summary.rows(summary.of(sawtooth.troubled(), UNTIL - DAY, UNTIL)):
        assert f'<th scope="row">{label}</th><td>{text}</td>' in day


def test_without_the_extra_it_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(packages.MissingLibraryError, match=re.escape(packages.install_extra("plot"))):
        html(sawtooth.pool())
