"""Opens report pages in headless Chromium, as somebody who got them by mail would, and uses them.

Usage: pages.py --chromium PROGRAM --out FOLDER NAME=PAGE.html...

Fails if a page logs an error, asks for anything but itself, does not sort, filter or show values, is wider than the screen, or loses a part of
a table on paper. Leaves screenshots and PDFs in FOLDER.
"""

import argparse
import os
import re
import sys
import unicodedata
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright
from pypdf import PdfReader

WIDTHS = (1280, 400)

# A4 less the margins that the page asks for, at 96 pixels an inch.
PAPER = 703

FLAGS = [
    "--no-first-run",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class Failed(Exception):
    pass


def expect(holds: bool, what: str) -> None:
    if not holds:
        raise Failed(what)


def open_page(browser: Browser, path: Path, width: int, complaints: list[str]) -> Page:
    page = browser.new_page(viewport={"width": width, "height": 900})
    address = path.resolve().as_uri()

    def asked(request) -> None:
        if request.url != address and not request.url.startswith("data:"):
            complaints.append(f"asks for {request.url}")

    page.on("request", asked)
    page.on("console", lambda message: complaints.append(f"console: {message.text}") if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(f"error: {error}"))

    def dialog(shown) -> None:
        complaints.append(f"dialog: {shown.message}")
        shown.dismiss()

    page.on("dialog", dialog)
    page.goto(address)
    return page


def column(table, place: int) -> list[str]:
    return table.evaluate(
        "(table, place) => [...table.tBodies[0].rows].filter(row => !row.hidden)"
        ".map(row => row.cells[place].dataset.sort ?? row.cells[place].textContent.trim())",
        place,
    )


def sorts(table) -> None:
    heads = table.locator("thead th")
    for place in range(heads.count()):
        head = heads.nth(place)
        numeric = "number" in (head.get_attribute("class") or "")
        before = sorted(column(table, place))
        for direction in ("ascending", "descending"):
            if direction == "ascending":
                head.locator("[role=button]").click()
            else:
                head.locator("[role=button]").press("Enter")
            expect(head.get_attribute("aria-sort") == direction, f"column {place} is not sorted {direction}")
            found = column(table, place)
            expect(sorted(found) == before, f"column {place} lost rows")
            full = [value for value in found if value]
            expect(found == full + [""] * (len(found) - len(full)), f"column {place} has empty cells in the middle")
            if not numeric:
                wanted = head.evaluate(
                    "(_, found) => found.slice().sort((a, b) => a.localeCompare(b, undefined, { numeric: true }))", full
                )
                expect(full == (wanted if direction == "ascending" else wanted[::-1]), f"column {place} is not in order: {full[:5]}")
            else:
                wanted = sorted(map(float, full), reverse=direction == "descending")
                expect(list(map(float, full)) == wanted, f"column {place} is not in order: {full[:5]}")


def filters(table, tools) -> None:
    total = table.locator("tbody tr").count()
    word = table.locator("tbody tr td").first.inner_text().split()[0]
    box = tools.locator("input")
    box.fill(word)
    shown = table.evaluate("table => [...table.tBodies[0].rows].filter(row => row.offsetHeight > 0).map(row => row.textContent)")
    expect(0 < len(shown) <= total and all(word.lower() in text.lower() for text in shown), f"filtering by {word} shows {len(shown)} rows")
    expect(tools.locator("output").inner_text() == f"{len(shown)} of {total} rows", "the rows are miscounted")
    box.fill("no row has this")
    expect(tools.locator("output").inner_text() == f"0 of {total} rows", "what is in no row is found")
    box.fill("")


def shows_values(page: Page) -> int:
    marks = 0
    figures = page.locator("figure")
    for place in range(figures.count()):
        figure = figures.nth(place)
        mark = figure.locator(".mark").last
        if mark.count() == 0:
            continue
        mark.scroll_into_view_if_needed()
        words = mark.locator("title").text_content() if mark.locator("title").count() else mark.get_attribute("aria-label")
        mark.hover(force=True)
        tip = page.locator("#tip")
        expect(tip.is_visible(), f"{figure.get_attribute('id')} shows nothing")
        # Another mark may lie on this one.
        said = tip.inner_text().strip()
        known = figure.evaluate(
            "figure => [...figure.querySelectorAll('.mark')].map(mark => (mark.querySelector('title')?.textContent"
            " ?? mark.getAttribute('aria-label')).trim())"
        )
        expect(said in [re.sub(r"\s+", " ", one) for one in known], f"{figure.get_attribute('id')} shows {said!r}, not {words!r}")
        marks += figure.locator(".mark").count()
    page.mouse.move(0, 0)
    return marks


def prints(page: Page, path: Path) -> int:
    page.emulate_media(media="print")
    page.set_viewport_size({"width": PAPER, "height": 1000})
    reads(page, PAPER)
    cut = page.evaluate(
        "width => [...document.querySelectorAll('table, svg, pre, .cards')]"
        ".filter(element => element.getBoundingClientRect().right > width + 1)"
        ".map(element => element.closest('[id]')?.id + ' ' + element.tagName + ' ' + element.getBoundingClientRect().right)",
        PAPER,
    )
    expect(not cut, f"wider than paper: {cut}")
    page.pdf(path=path, format="A4", prefer_css_page_size=True)
    reader = PdfReader(path)
    # Fonts join letters such as f and f.
    text = unicodedata.normalize("NFKC", "".join(sheet.extract_text() for sheet in reader.pages))
    text = re.sub(r"\s+", "", text)
    heads = page.evaluate("() => [...document.querySelectorAll('table.sortable thead tr')].map(row => row.textContent.trim().replace(/\\s+/g, ''))")
    long = [head for head in heads if text.count(head) > 1]
    expect(len(reader.pages) < 8 or long, "no table's head is printed again on its next sheet")
    for cell in page.evaluate("() => [...document.querySelectorAll('table')].map(table => table.rows[table.rows.length - 1].lastElementChild.textContent)"):
        # Lines of cells beside each other may come in any order.
        expect(all(word in text for word in cell.split()), f"{cell!r} is not on paper")
    return len(reader.pages)


def reads(page: Page, width: int) -> None:
    """Every row and word can be seen; on a wide screen, every column."""
    faint = page.evaluate(
        "() => [...document.querySelectorAll('td, th, p, li, h1, h2, h3, figcaption, svg text')]"
        ".filter(element => /rgba\\(.*, 0\\)|transparent/.test(getComputedStyle(element).color))"
        ".map(element => element.textContent).slice(0, 3)"
    )
    expect(not faint, f"cannot be seen: {faint}")
    hidden = page.evaluate("() => [...document.querySelectorAll('tbody tr')].filter(row => row.offsetHeight === 0).length")
    expect(hidden == 0, f"{hidden} rows of tables are not shown")
    if width == WIDTHS[0]:
        cut = page.evaluate(
            "() => [...document.querySelectorAll('.scroll:has(table)')].filter(box => box.scrollWidth > box.clientWidth + 1)"
            ".map(box => box.closest('[id]').id)"
        )
        expect(not cut, f"columns are out of sight: {cut}")


def use(browser: Browser, name: str, path: Path, out: Path) -> str:
    complaints: list[str] = []
    said = []
    for width in WIDTHS:
        page = open_page(browser, path, width, complaints)
        wide = page.evaluate("() => document.documentElement.scrollWidth")
        expect(wide <= width, f"is {wide} pixels wide on a screen of {width}")
        page.screenshot(path=out / f"{name}-{width}.png", full_page=True)
        reads(page, width)
        marks = shows_values(page)
        tables = page.locator("table.sortable")
        for place in range(tables.count()):
            sorts(tables.nth(place))
        tools = page.locator(".tools")
        for place in range(tools.count()):
            filters(page.locator("div.table", has=page.locator(".tools")).nth(place).locator("table"), tools.nth(place))
        said.append(f"{width} px: {tables.count()} tables, {marks} values")
        if width == WIDTHS[0]:
            expect(marks > 0 and tables.count() > 0, "there is nothing to point at, or to sort")
            sheets = prints(page, out / f"{name}.pdf")
            said.append(f"{sheets} sheets of paper")
        page.close()
    expect(not complaints, "; ".join(complaints))
    return ", ".join(said)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chromium", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("pages", nargs="+", metavar="NAME=PAGE.html")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    # Chromium does not sandbox what root runs.
    flags = FLAGS + (["--no-sandbox"] if os.geteuid() == 0 else [])
    failed = 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=arguments.chromium, args=flags)
        for pair in arguments.pages:
            name, _, path = pair.partition("=")
            try:
                print(f"{name}: {use(browser, name, Path(path), arguments.out)}")
            except Failed as failure:
                failed += 1
                print(f"{name}: FAILED: {failure}")
        browser.close()
    print(f"{len(arguments.pages) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
