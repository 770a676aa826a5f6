"""In a real browser the report draws, asks for nothing, and answers to mouse and keyboard."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import chromium
import pytest
import run_folder

from dynsearch.report import plotly
from dynsearch.report.html import build_report

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(chromium.CHROMIUM is None, reason="Chromium is not installed"),
]
MAIN = "#main-front svg"
needs_plotly = pytest.mark.skipif(plotly.packed() is None, reason="plotly is not installed")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_report(run_folder.make_run(tmp_path_factory.mktemp("report")))


@pytest.fixture(scope="module")
def browser() -> Iterator[chromium.Browser]:
    with chromium.browser() as browser:
        yield browser


@pytest.fixture
def page(browser: chromium.Browser, report: Path) -> chromium.Browser:
    browser.open(report)
    return browser


def shown(page: chromium.Browser) -> str:
    return page.value("document.querySelector('#detail [data-panel]').dataset.panel")


def test_the_page_draws_without_complaint_and_without_any_request(
    page: chromium.Browser, report: Path
):
    front = run_folder.make_front()
    drawn = page.value(f"document.querySelectorAll('{MAIN} [data-id]').length")
    expected = [
        p for p in front.front if p.device == "local" and p.dtype == "fp32" and p.family != "full"
    ]
    assert drawn == len(expected)
    assert page.value("document.querySelectorAll('#other-fronts svg').length") == 3
    assert page.value("document.querySelectorAll('#scatter svg').length") == 4
    assert page.value("document.querySelectorAll('#configurations tbody tr').length") == len(
        front.front
    )
    page.value("window.getComputedStyle(document.body).color")
    assert page.complaints() == []
    assert page.requests() == [report.resolve().as_uri()]


def test_a_click_on_a_point_selects_its_configuration(page: chromium.Browser):
    page.value(f"document.querySelector('{MAIN}').scrollIntoView({{behavior: 'instant'}})")
    place = page.value(
        f"""(() => {{
          const other = [...document.querySelectorAll('{MAIN} path.mark[data-id]')]
            .filter((m) => m.dataset.id !== '{shown(page)}')
            .sort((a, b) => a.getBoundingClientRect().x - b.getBoundingClientRect().x)[0];
          const box = other.getBoundingClientRect();
          return [other.dataset.id, box.x + box.width / 2, box.y + box.height / 2];
        }})()"""
    )
    page.move(place[1], place[2])
    assert page.value("document.querySelector('#tip b').textContent") == place[0]
    page.click(place[1], place[2])
    assert shown(page) == place[0]
    assert (
        page.value("document.querySelector('#configurations tr.current').dataset.id") == place[0]
    )


def test_the_keyboard_reads_points_and_selects_one(page: chromium.Browser):
    before = shown(page)
    page.value(f"document.querySelector('{MAIN}').focus({{preventScroll: true}})")
    for _ in range(2):
        page.key("ArrowRight")
        read = page.value("document.querySelector('#tip b').textContent")
    page.key("Enter")
    assert shown(page) == read != before
    page.key("ArrowRight")
    page.key("Enter")
    assert shown(page) not in (read, before)


def test_a_column_sorts_both_ways(page: chromium.Browser):
    column = "[...document.querySelectorAll('#configurations .sort')]"
    column += ".find((b) => b.textContent === 'error selected')"
    values = "[...document.querySelectorAll('#configurations tbody tr')]"
    values += ".map((r) => Number(r.children[6].dataset.v))"
    for step in (1, -1):
        page.value(f"{column}.click()")
        found = page.value(values)
        assert found == sorted(found)[::step]
        assert len(set(found)) > 1


def test_confirmed_error_takes_the_place_of_selected_error(page: chromium.Browser):
    height = f"document.querySelector('{MAIN} path.mark[data-id]').getAttribute('transform')"
    before = page.value(height)
    page.value("document.querySelector('[data-quality=confirmed]').click()")
    assert page.value(height) != before
    label = f"document.querySelector('{MAIN}').textContent.includes('% of rows, confirmed')"
    assert page.value(label)


def test_dark_follows_the_system_and_the_button_overrides_it(page: chromium.Browser):
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.value(background)
    page.media(prefers_color_scheme="dark")
    dark = page.value(background)
    assert dark != light
    page.value("document.getElementById('theme').click()")
    assert page.value(background) == light


def test_paper_is_white_whatever_the_theme(page: chromium.Browser):
    background = "getComputedStyle(document.body).backgroundColor"
    page.media("print", prefers_color_scheme="dark")
    assert page.value(background) == "rgb(255, 255, 255)"
    page.value("document.documentElement.dataset.theme = 'dark'")
    assert page.value(background) == "rgb(255, 255, 255)"


def test_paper_shows_each_configuration_once_and_whole(page: chromium.Browser):
    """The one that is selected has its card, whichever it is; no card is cut by a page's end."""
    page.media("print")
    style = "getComputedStyle(document.querySelector('{}')).{}"
    assert page.value(style.format("#detail", "display")) == "none"
    assert page.value(style.format(".panel", "breakInside")) == "avoid"
    for heading in ("h2", "h2 + p"):
        assert page.value(style.format(heading, "breakAfter")) == "avoid"


@pytest.mark.parametrize("width", [390, 800])
def test_nothing_is_wider_than_the_screen(browser: chromium.Browser, report: Path, width: int):
    browser.open(report, width=width)
    assert browser.value("document.documentElement.scrollWidth") <= width


def test_hostile_names_stay_text(browser: chromium.Browser, tmp_path: Path):
    name = '</script><img src=x onerror="window.hit=1"><script>window.hit=1</script>'
    run = run_folder.make_run(tmp_path, job=name)
    browser.open(build_report(run))
    assert browser.value("document.querySelector('h1').textContent") == name
    assert browser.value("window.hit") is None
    assert browser.complaints() == []


def opened(page: chromium.Browser, expression: str) -> bool:
    """Whether the expression becomes true within a while."""
    for _ in range(1800):
        if page.value(expression):
            return True
        time.sleep(0.1)
    return False


@needs_plotly
def test_the_zoomable_front_opens_on_demand_and_its_points_select(
    page: chromium.Browser, report: Path
):
    assert page.value("typeof Plotly") == "undefined"
    page.value("document.getElementById('explore-open').click()")
    points = "document.querySelectorAll('#explore-chart .scatterlayer .point').length"
    assert opened(page, f"{points} > 0 && '1' === $('explore-chart').dataset.wired")
    expected = [
        p for p in run_folder.make_front().front if p.device == "local" and p.dtype == "fp32"
    ]
    assert page.value(points) == len(expected)
    other = next(p.id for p in expected if p.id != shown(page))
    page.value(
        f"$('explore-chart').emit('plotly_click', {{ points: [{{ customdata: '{other}' }}] }})"
    )
    assert shown(page) == other
    buttons = "[...document.querySelectorAll('.modebar-btn')].map((b) => b.dataset.title)"
    titles = page.value(buttons)
    assert titles
    assert not any("loud" in title or "hare" in title for title in titles)
    for kind in ("svg+xml", "png"):
        ask = f"{{format: '{kind[:3]}', width: 300, height: 200}}"
        page.value("window.picture = ''")
        page.value(
            f"void Plotly.toImage(exploreFigure(exploredDevice()), {ask})"
            ".then((url) => { window.picture = url; })"
        )
        assert opened(page, f"window.picture.startsWith('data:image/{kind}')")
    assert page.value("document.documentElement.scrollWidth") <= 1280
    assert page.complaints() == []
    assert [r for r in page.requests() if not r.startswith(("blob:", "data:"))] == [
        report.resolve().as_uri()
    ]


@needs_plotly
def test_hostile_texts_stay_text_in_the_zoomable_front(browser: chromium.Browser, tmp_path: Path):
    bad = '<b>x</b><img src=x onerror="window.hit=1"></script><a href="javascript:1">y</a>'
    front = run_folder.make_front(dtypes=("fp32",), draws=20)
    named = {"local": bad}
    points = tuple(replace(p, device=named.get(p.device, p.device)) for p in front.front)
    costs = tuple(replace(c, device=named.get(c.device, c.device)) for c in front.reference.costs)
    reference = replace(front.reference, costs=costs)
    run = run_folder.make_run(tmp_path, bench=False, front=points, reference=reference)
    browser.open(build_report(run))
    browser.value("$('explore-open').click()")
    assert opened(browser, "'1' === $('explore-chart').dataset.wired")
    assert browser.value("$('explore-chart').querySelector('.gtitle').textContent") == bad
    assert (
        browser.value("$('explore-chart').querySelectorAll('a[href^=javascript], img').length")
        == 0
    )
    assert browser.value("window.hit") is None


def test_two_configurations_stand_beside_each_other(page: chromium.Browser):
    rows = "[...document.querySelectorAll('#beside-table tbody tr')].map((r) => r.textContent)"
    before = page.value(rows)
    assert any(text.startswith("mean latency, predicted") for text in before)
    page.value("$('beside-b').value = $('beside-a').value")
    page.value("$('beside-b').dispatchEvent(new Event('change'))")
    same = page.value(rows)
    assert same != before
    assert not any("differs" in text for text in same)
    assert any(text.endswith("1.00\u00d7") for text in same)


def test_a_configuration_has_an_address(page: chromium.Browser, report: Path):
    other = next(p for p in run_folder.make_front().front if p.device == "datasheet-tpu")
    page.value(f"select('{other.id}', '{other.device}', true)")
    assert page.value("location.hash") == f"#configuration={other.id}@{other.device}"
    page.value("location.hash = ''")
    page.open(report, at=f"configuration={other.id}@{other.device}")
    assert shown(page) == other.id
    assert page.value("state.device") == other.device
    page.value("location.hash = 'result'")
    assert shown(page) == other.id
    page.open(report, at=f"configuration={'f' * 8}")
    assert shown(page)
    assert page.complaints() == []


def test_a_run_of_2000_passes_is_small_and_as_wide_as_a_phone(
    browser: chromium.Browser, tmp_path: Path
):
    front = run_folder.make_front(draws=2000)
    steps = tuple(replace(front.hypervolume[0], passes=n, seconds=4.0 * n) for n in range(1, 2001))
    path = build_report(run_folder.make_run(tmp_path, front=front.front, hypervolume=steps))
    assert path.stat().st_size <= 6_000_000
    browser.open(path, width=390)
    assert browser.value("document.documentElement.scrollWidth") <= 390
    assert browser.value("document.querySelectorAll('#hypervolume svg').length") > 0
    assert browser.complaints() == []


@pytest.mark.parametrize("kind", ["empty", "unconfirmed", "one device"])
def test_a_poor_run_still_draws_without_complaint(
    browser: chromium.Browser, tmp_path: Path, kind: str
):
    front = run_folder.make_front(dtypes=("fp32",), draws=20)
    points = {
        "empty": (),
        "unconfirmed": tuple(replace(p, confirmed=None) for p in front.front),
        "one device": tuple(p for p in front.front if p.device == "local"),
    }[kind]
    run = run_folder.make_run(tmp_path, bench=False, front=points)
    (run / "environment.json").unlink()
    (run / "log.jsonl").unlink()
    browser.open(build_report(run))
    assert browser.value("document.querySelector('h1').textContent") == front.job
    assert browser.complaints() == []
