"""Measure the page of a report in headless Chromium: its size, its load, and its longest tasks while it is used.

    python scripts/benchmark_report.py                    # 200 invented runs with eleven previews each
    python scripts/benchmark_report.py SWEEP/report.html  # a report of your own

A task is what the browser does in one go; while it lasts, the page does not answer. The Long Tasks API tells those of
50 ms and more. Needs Playwright (``pip install -e '.[test]'``) and an installed Chromium.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 200  # milliseconds of the longest task while scrolling or moving the slider

OBSERVE = """
window.tasks = [];
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) window.tasks.push({ at: entry.startTime, ms: entry.duration });
}).observe({ type: "longtask", buffered: true });
"""
SCROLL = """
async () => {
  const frame = () => new Promise(requestAnimationFrame);
  const times = [];
  for (const way of [1, -1]) {
    for (let i = 0; i < 10000; i += 1) {
      const before = scrollY;
      const start = performance.now();
      scrollBy({ top: way * 120, behavior: "instant" });
      await frame();
      times.push(performance.now() - start);
      if (scrollY === before) break;
    }
  }
  return times;
}
"""
SLIDE = """
async () => {
  const frame = () => new Promise(requestAnimationFrame);
  const slider = document.querySelector("#step");
  const times = [];
  if (!slider) return times;
  document.querySelector("#matrix").scrollIntoView({ behavior: "instant" });
  await frame();
  for (let round = 0; round < 3; round += 1) {
    for (let i = 0; i <= Number(slider.max); i += 1) {
      const start = performance.now();
      slider.value = i;
      slider.dispatchEvent(new Event("input", { bubbles: true }));
      await frame();
      times.push(performance.now() - start);
    }
  }
  return times;
}
"""


def invented(folder: Path) -> Path:
    """Write the page of 200 invented runs."""
    sys.path.insert(0, str(ROOT / "tests"))
    import synthetic_view

    from nst.report.page import render

    view = synthetic_view.large()
    started = time.perf_counter()
    html = render(view)
    print(f"rendered {len(view['runs'])} runs in {time.perf_counter() - started:.2f} s")
    page = folder / "report.html"
    page.write_text(html, encoding="utf-8", newline="\n")
    return page


def measure(page: Any, name: str, act: Callable[[], Any]) -> float:
    """Do something, print what it cost, and return the milliseconds of its longest task."""
    page.evaluate("window.tasks = []")
    times = act()
    page.wait_for_timeout(300)
    tasks = [task["ms"] for task in page.evaluate("window.tasks")]
    longest = max(tasks, default=0.0)
    frames = ""
    if isinstance(times, list) and times:
        frames = f"; frames: median {statistics.median(times):.0f} ms, longest {max(times):.0f} ms of {len(times)}"
    print(f"{name}: {len(tasks)} tasks over 50 ms, longest {longest:.0f} ms{frames}")
    return longest


def main() -> None:
    """Measure and print; exit with 1 where scrolling or the slider has a task over the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", nargs="?", type=Path, help="a report.html; without it, one is invented")
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))
    from browser import FLAGS, executable
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        report = arguments.report or invented(Path(folder))
        print(f"{report.stat().st_size / 1e6:.1f} MB")
        browser = driver.chromium.launch(executable_path=executable(), args=list(FLAGS))
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.add_init_script(OBSERVE)
        started = time.perf_counter()
        page.goto(report.resolve().as_uri())
        page.wait_for_timeout(500)
        tasks = [task["ms"] for task in page.evaluate("window.tasks")]
        print(
            f"loaded in {time.perf_counter() - started - 0.5:.2f} s; "
            f"{page.evaluate('document.getElementsByTagName(`*`).length')} elements; "
            f"longest task {max(tasks, default=0):.0f} ms"
        )
        worst = [
            measure(page, "scrolling down and up", lambda: page.evaluate(SCROLL)),
            measure(page, "scrolling again", lambda: page.evaluate(SCROLL)),
            measure(page, "moving the slider", lambda: page.evaluate(SLIDE)),
            measure(
                page, "scrolling at another step", lambda: [page.locator("#step").fill("3"), page.evaluate(SCROLL)][1]
            ),
        ]
        measure(page, "sorting the table", lambda: page.locator("#results thead button").nth(3).click())
        measure(page, "opening a picture", lambda: page.locator(".to-picture").first.click())
        browser.close()
    if max(worst) > LIMIT:
        print(f"Error: a task of {max(worst):.0f} ms is over {LIMIT} ms.", file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
