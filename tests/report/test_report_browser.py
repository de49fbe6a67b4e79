"""Laws of the page in a real browser: it renders, sorts, says what a cell holds, and asks for nothing."""

import itertools
import os
import re
import shutil

import numpy as np
import pytest

REQUIRED = os.environ.get("JDT_BROWSER") == "required"  # In continuous integration, a missing browser is an error.
NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None and not REQUIRED:
        pytest.skip(f"no browser: install one of {', '.join(NAMES)}")
    sync_api = (
        pytest.importorskip("playwright.sync_api") if not REQUIRED else __import__("playwright.sync_api").sync_api
    )
    with sync_api.sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        started = playwright.chromium.launch(executable_path=path, args=arguments)
        yield started
        started.close()


@pytest.fixture(scope="module")
def opened(browser, study):
    """Opens the page of the study; what it asks for and complains about is collected in `page.noise`."""
    contexts = []

    def open_page(width=1100, **settings):
        context = browser.new_context(viewport={"width": width, "height": 800}, **settings)
        contexts.append(context)
        page = context.new_page()
        page.noise = []
        page.on("console", lambda message: page.noise.append(message.text))
        page.on("pageerror", lambda error: page.noise.append(str(error)))
        page.on("request", lambda request: page.noise.append(request.url))
        page.goto((study / "report.html").as_uri())
        page.noise = [noise for noise in page.noise if not noise.startswith(("data:image/", "data:,"))]
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def page(opened):
    return opened()


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1100, "dark")])
def test_it_renders_without_complaint_at_any_width(opened, study, width, scheme):
    page = opened(width, color_scheme=scheme)
    assert page.noise == [(study / "report.html").as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    images = page.evaluate(
        "Promise.all([...document.images].map(async i => { await i.decode(); return [i.naturalWidth, i.alt]; }))"
    )
    assert len(images) > 100
    assert all(size > 0 and len(alt) > 10 for size, alt in images)
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map(h => Number(h.tagName[1]))")
    assert levels[0] == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    paper, ink = (
        np.mean([int(x) for x in re.findall(r"\d+", page.evaluate(f"getComputedStyle(document.body).{what}"))[:3]])
        for what in ("backgroundColor", "color")
    )
    assert (paper < ink) == (scheme == "dark")
    assert abs(paper - ink) > 150
    unnamed = "[...document.querySelectorAll('button, input, a, [role=region]')].filter(e => !(e.textContent.trim()"
    assert page.evaluate(f"{unnamed} || e.ariaLabel || e.labels?.length)).length") == 0
    hidden = "[...document.querySelectorAll('button, a, summary, input')].filter(e => e.tabIndex < 0).length"
    assert page.evaluate(hidden) == 0


def column(page, index):
    """Numbers in a column of the grid, from the first row to the last."""
    rows = "[...document.querySelectorAll('.grid tbody tr')]"
    return page.evaluate(f"{rows}.map(row => Number(row.cells[{index}].dataset.v))")


def sorted_by(page):
    """Which heads say that the grid is sorted by them."""
    heads = "[...document.querySelectorAll('.grid [aria-sort]')]"
    return page.evaluate(f"{heads}.map(h => [h.dataset.name ?? 'whole task', h.getAttribute('aria-sort')])")


def test_the_grid_sorts_by_click_and_by_key(page, content):
    found = content.targets[0].estimators["ridge"]
    best = found.task.unit_names[int(np.argmax(found.task.influence))]
    assert sorted_by(page) == [["whole task", "descending"]]
    assert page.locator(".grid tbody th").first.get_attribute("data-name") == best
    cats = page.locator(".grid thead th[data-name=cat]")
    cats.click()
    index = found.classes.target_names.index("cat") + 2
    assert sorted_by(page) == [["cat", "descending"]]
    np.testing.assert_allclose(
        column(page, index), 100 * np.sort(found.classes.influence[:, index - 2])[::-1], rtol=1e-4
    )
    cats.press("Enter")
    assert sorted_by(page) == [["cat", "ascending"]]
    assert column(page, index) == sorted(column(page, index))

    row = page.locator(".grid tbody th").nth(4)
    unit = found.classes.unit_names.index(row.get_attribute("data-name"))
    row.click()
    heads = page.locator(".grid thead th").evaluate_all("heads => heads.slice(2).map(h => h.dataset.name)")
    order = np.argsort(-found.classes.influence[unit])
    assert heads == [found.classes.target_names[c] for c in order]
    page.locator(".reset").click()
    assert page.locator(".grid tbody th").first.get_attribute("data-name") == best
    heads = page.locator(".grid thead th").evaluate_all("heads => heads.slice(2).map(h => h.dataset.name)")
    assert heads == list(found.classes.target_names)


def test_a_cell_says_what_it_holds(page, content):
    classes = content.targets[0].estimators["ridge"].classes
    cell = page.locator(".grid tbody tr").nth(2).locator("td").nth(4)
    unit = classes.unit_names.index(page.locator(".grid tbody th").nth(2).get_attribute("data-name"))
    detail = page.locator(".detail")
    assert not detail.is_visible()
    cell.click()
    low, high = classes.interval()
    numbers = [float(x) for x in re.findall(r"[-+]?\d+\.\d+", detail.inner_text().replace("\N{MINUS SIGN}", "-"))]
    expected = [100 * classes.influence[unit, 3], 100 * low[unit, 3], 100 * high[unit, 3], classes.z[unit, 3]]
    np.testing.assert_allclose(numbers, expected, atol=0.051)
    assert f"{classes.unit_names[unit]} \N{RIGHTWARDS ARROW} cat" in detail.inner_text()
    assert detail.locator("img").count() == 2
    cell.press("Escape")
    assert not detail.is_visible()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert f"{classes.unit_names[unit]} \N{RIGHTWARDS ARROW} deer" in detail.inner_text()
    # One stop of the Tab key for the whole grid.
    assert page.evaluate("document.querySelectorAll('.grid [tabindex=\"0\"]').length") == 1
    detail.get_by_role("button", name="Close").click()
    page.get_by_label("Find a unit").fill("TABBY")
    names = page.locator(".grid tbody th:visible").evaluate_all("heads => heads.map(h => h.dataset.name)")
    assert sorted(names) == sorted(name for name in classes.unit_names if "tabby" in name)
    page.get_by_label("Find a unit").fill("")


def test_other_tables_sort_too(page):
    table = page.locator("table.sortable[aria-label^='Leakage']")
    similarity = table.get_by_role("button", name="similarity")
    for key, wanted in (("Enter", "descending"), ("Space", "ascending")):
        similarity.press(key)
        assert table.locator("[aria-sort]").get_attribute("aria-sort") == wanted
        values = table.locator("tbody tr td:nth-child(7)").evaluate_all("cells => cells.map(c => Number(c.dataset.v))")
        assert values == sorted(values, reverse=wanted == "descending")


def test_nothing_leaves_the_page(page):
    """Even a script that got in could load nothing and run nothing of its own."""
    blocked = "fetch('https://example.org/').then(() => 'sent', () => 'blocked')"
    assert page.evaluate(blocked) == "blocked"
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'window.ran = 1'}))")
    assert page.evaluate("window.ran === undefined")


def test_it_says_everything_without_scripts_and_on_paper(opened):
    page = opened(java_script_enabled=False)
    assert page.locator(".grid tbody tr").count() == 30
    assert page.locator(".grid tbody td").first.is_visible()
    assert not page.locator(".tools").first.is_visible()
    page.emulate_media(media="print")
    assert not page.locator(".grid").first.is_visible()
    assert page.locator(".on-paper img").first.is_visible()
