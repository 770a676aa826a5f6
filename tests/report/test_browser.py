"""In a real browser the report draws, asks for nothing, and answers to mouse and keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import chromium
import pytest
import run_folder

from dynsearch.report.html import build_report

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(chromium.CHROMIUM is None, reason="Chromium is not installed"),
]
MAIN = "#main-front svg"


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
