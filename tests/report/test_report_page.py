"""The page of a report: what is in it, that nothing comes from elsewhere, and how it behaves in a real browser."""

from __future__ import annotations

import base64
import copy
import hashlib
import io
import itertools
import json
import math
import random
import re
import shutil
import statistics
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import browser
import pytest
import synthetic_view
from PIL import Image

from nst.report.page import breakable, cells, directions, faces, facets, number, render
from nst.report.pairs import best, first_two, front, trade_offs

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'`{{7*7}}&amp;\u2028émoji 🎨 " + "x" * 300
SIZES = {"optimizer": ("adam", "lbfgs"), "beta": ("0.001", "0.01", "0.1"), "size": ("64", "96")}
FORM = {"optimizer": ("adam", "lbfgs"), "beta": ("0.001", "0.01", "0.1"), "seed": ("0", "1")}
COLOURS = [(230, 30, 30), (30, 160, 40), (40, 60, 220), (240, 220, 40)]


class Elements(HTMLParser):
    """Collects the elements of a page, and the text in each of them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.raw: dict[str, list[str]] = {"script": [], "style": []}
        self.inside: str | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag in self.raw:
            self.inside = tag
            self.raw[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = None

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.raw[self.inside][-1] += data
        else:
            self.texts.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def hostile(value: Any, key: str = "") -> Any:
    """Put a nasty text wherever a person's text may stand."""
    if isinstance(value, dict):
        return {name: hostile(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [hostile(item, key) for item in value]
    kept = ("id", "kind", "better", "key", "src", "thumb", "preview", "status", "x", "y", "content", "style", "full")
    return HOSTILE if isinstance(value, str) and key not in kept else value


def small(axes: dict[str, tuple[str, ...]] | None = None, **options: Any) -> dict[str, Any]:
    return synthetic_view.view(axes, **{"long_side": 48, "tile": 32, "points": 12, **options})


def plain(colours: list[tuple[int, int, int]], size: tuple[int, int] = (32, 32)) -> str:
    """Return a JPEG of plain colours side by side, as data URI."""
    picture = Image.new("RGB", (size[0] * len(colours), size[1]))
    for i, colour in enumerate(colours):
        picture.paste(colour, (i * size[0], 0, (i + 1) * size[0], size[1]))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=95, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


# --- the text ------------------------------------------------------------------------------------------------------


def test_the_same_view_gives_the_same_bytes_and_stays_as_it_was() -> None:
    view = small(FORM)
    before = copy.deepcopy(view)
    assert render(view) == render(copy.deepcopy(view))
    assert view == before


@pytest.mark.parametrize("runs", [[], [synthetic_view.bare_run()]])
def test_a_page_is_made_of_nothing(runs: list[dict[str, Any]]) -> None:
    html = render(synthetic_view.empty() | {"runs": runs})
    assert html.startswith("<!doctype html>")
    assert "None" not in "".join(Elements(html).texts)


@pytest.mark.parametrize("key", ["sprite", "preview", "full", "curves", "content", "width"])
def test_a_run_may_lack_what_it_did_not_leave(key: str) -> None:
    view = small(FORM)
    for run in view["runs"][::2]:
        run[key] = None
    assert len(Elements(render(view)).of("figure")) >= len(view["runs"])


def test_what_a_person_wrote_stays_text() -> None:
    page = Elements(render(hostile(small(FORM, status={1: "failed"}))))
    scripts = [attributes.get("type") for attributes in page.of("script")]
    assert scripts == [None, "application/json", "application/json", "module"]
    for tag, attributes in page.found:
        assert not any(name.startswith("on") for name in attributes), tag
        assert "alert(1)" not in (attributes.get("src") or "")
    assert not [a for a in page.of("img") if a.get("src") == "x"]
    assert any(HOSTILE in text for text in page.texts)
    assert json.loads(page.raw["script"][1])["runs"][0]["label"] == HOSTILE
    for script in page.raw["script"][1:3]:
        assert "<" not in script


def test_a_file_name_that_is_no_text_can_be_written() -> None:
    view = small()
    view["runs"][0]["label"] = view["runs"][0]["name"] = "caf\udce9"
    render(view).encode()


@pytest.mark.parametrize("link", ["javascript:alert(1)", "//elsewhere.example/x.png", "https://elsewhere.example/x"])
def test_a_link_to_a_file_stays_beside_the_page(link: str) -> None:
    view = small()
    view["runs"][0]["full"] = link
    links = [a["href"] or "" for a in Elements(render(view)).of("a")]
    assert f"./{link}" in links
    assert all(re.match(r"#|\./|file:///|https://www\.flickr|https://flic", href) for href in links)


def test_nothing_comes_from_elsewhere() -> None:
    page = Elements(render(small(FORM)))
    for tag, attributes in page.found:
        assert "style" not in attributes, tag  # the policy forbids it
        for name in ("src", "srcset", "data", "action", "poster"):
            assert (attributes.get(name) or "data:").startswith("data:"), tag
    assert [a.get("href") for a in page.of("link")] == ["data:,"]
    style = page.raw["style"][0]
    assert "@import" not in style
    assert set(re.findall(r"url\(\"?([a-z]+:)", style)) <= {"data:"}


def test_the_policy_lets_only_this_style_and_these_scripts_run() -> None:
    page = Elements(render(small(FORM)))
    policy = next(a["content"] or "" for a in page.of("meta") if a.get("http-equiv") == "Content-Security-Policy")
    allowed = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert allowed["default-src"] == "'none'"
    assert set(allowed["img-src"].split()) == {"'self'", "file:", "data:"}
    texts = {"style-src": page.raw["style"], "script-src": [page.raw["script"][0], page.raw["script"][3]]}
    for name, blocks in texts.items():
        digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in blocks]
        assert allowed[name] == " ".join(f"'sha256-{digest}'" for digest in digests)


def test_every_picture_is_in_the_page_once() -> None:
    view = small(FORM, status={2: "failed", 3: "out_of_memory"})
    view["runs"][4]["sprite"] = None
    html = render(view)
    uris = [uri for run in view["runs"] for uri in (run["preview"], run["sprite"] and run["sprite"]["src"]) if uri]
    for uri in uris:
        assert html.count(f'"{uri}"') == uris.count(uri)
    figures = [a for a in Elements(html).of("figure") if "data-run" in a]
    assert sorted(int(a["data-run"] or -1) for a in figures) == list(range(len(view["runs"])))


def test_every_run_stands_in_the_cell_of_its_values() -> None:
    rng = random.Random(3)
    for count in (2, 3, 4):
        keys = [("beta", ("1", "2", "3")), ("style", ("wave", "swirls")), ("seed", ("0", "1")), ("size", ("64", "96"))]
        view = small(dict(keys[:count]), left_out=(1, 4), repeat=2, long_side=16, tile=8)
        for run in view["runs"]:
            if rng.random() < 0.2:
                run["axis"][rng.randrange(count)] = None
        for across, down in itertools.permutations(set(range(count)) - {2}, 2):  # a seed is no direction
            seen = []
            for facet in facets(view["axes"], view["runs"], across, down):
                for row, places in facet.rows:
                    for column, place in ((c, p) for c, ps in zip(facet.columns, places, strict=True) for p in ps):
                        axis = view["runs"][place]["axis"]
                        assert (axis[across], axis[down]) == (column, row)
                        for i in set(range(count)) - {across, down, 2}:
                            text = "–" if axis[i] is None else view["axes"][i]["texts"][axis[i]]  # noqa: RUF001
                            assert f"{view['axes'][i]['label']} = {text}" in facet.heading.split(", ")
                        seen.append(place)
            assert sorted(seen) == list(range(len(view["runs"])))


@pytest.mark.parametrize(
    ("keys", "across", "down"),
    [
        ([], None, None),
        (["beta"], "beta", None),
        (["seed"], None, None),
        (["beta", "style"], "style", "beta"),
        (["style", "beta"], "beta", "style"),
        (["seed", "beta"], "beta", None),
        (["style", "seed", "beta"], "beta", "style"),
        (["optimizer", "style", "beta"], "style", "optimizer"),
    ],
)
def test_the_axis_that_was_typed_first_makes_the_rows(keys: list[str], across: str | None, down: str | None) -> None:
    values = {"beta": ("1", "2"), "style": ("wave", "swirls"), "seed": ("0", "1"), "optimizer": ("adam", "lbfgs")}
    axes = small({key: values[key] for key in keys}, long_side=16, tile=8)["axes"]
    assert [None if i is None else axes[i]["key"] for i in directions(axes)] == [across, down]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (float("nan"), ""),
        (0, "0"),
        (12345, "12345"),
        (0.000123456, "0.0001235"),
        (-3.5e-7, "−3.5e-7".replace("e-", "e−")),  # noqa: RUF001
        (1.5e12, "1.5e12"),
        ("adam", "adam"),
        (True, "True"),
        (float("inf"), "inf"),
    ],
)
def test_a_number_is_written_with_four_digits(value: Any, text: str) -> None:
    assert number(value) == text


def test_a_large_number_costs_the_others_of_its_column_no_digits() -> None:
    columns = [{"key": "s", "kind": "loss"}, {"key": "seconds", "kind": "cost"}]

    def texts(key: str, *values: float | None) -> list[str]:
        return cells(columns, [{"values": {key: value}} for value in values])[key]

    assert texts("s", 570.5, 1.10812, 1.21498, 0.797841, None) == ["570.5", "1.108", "1.215", "0.7978", ""]
    assert texts("s", 0.5, -31.0, 40) == ["0.5", "−31", "40"]  # noqa: RUF001
    assert texts("seconds", 8.1234, 99.91, 570.51, 1234.5678) == ["8.1", "99.9", "571", "1235"]


@pytest.mark.parametrize("pairs", [1, 2])
def test_the_best_of_a_pair_is_marked_and_evaluators_are_kept_apart(pairs: int) -> None:
    view = small(
        FORM | {"style": ("swirls", "wave")[:pairs]},
        evaluators=("squeezenet-256-aaaaaa", "vgg19-512-bbbbbb"),
        status={0: "failed"},
    )
    found = best(view["columns"], view["runs"])
    scores = [c for c in view["columns"] if c["kind"] == "score"]
    assert set(found) == {(pair, c["key"]) for c in scores for pair in range(pairs)}
    for column, pair in itertools.product(scores, range(pairs)):
        ours = [run["values"] for run in view["runs"] if run["pair"] == pair]
        values = [v for of_run in ours if (v := of_run.get(column["key"])) is not None]
        assert found[pair, column["key"]] == (min if column["better"] == "lower" else max)(values)
    page = Elements(render(view))
    headings = [text for text in page.texts if text.startswith("Scores by ")]
    assert headings == ["Scores by squeezenet-256-aaaaaa", "Scores by vgg19-512-bbbbbb"]
    marked = [a for a in page.of("td") if "best" in (a.get("class") or "").split()]
    ties = [
        r for (pair, key), v in found.items() for r in view["runs"] if (r["pair"], r["values"].get(key)) == (pair, v)
    ]
    assert len(marked) == len(ties)


def test_failed_runs_are_told_with_their_reasons() -> None:
    view = small(FORM, status={1: "failed", 5: "failed", 7: "out_of_memory"})
    text = re.sub(r"\s+", " ", " ".join(Elements(render(view)).texts))
    assert "9 done" in text.replace("  ", " ")
    for i in (1, 7):
        assert view["runs"][i]["reason"] in text
    head = text[: text.index("Pictures at") if "Pictures at" in text else text.index("Across")]
    assert head.count(view["runs"][1]["reason"]) == 1  # the same reason once, for both
    assert view["runs"][5]["label"] in head


def test_a_long_reason_is_whole_in_the_details_only() -> None:
    view = small(FORM, status={1: "out_of_memory", 5: "out_of_memory"})
    for i in (1, 5):
        view["runs"][i]["reason"] = "It does not fit. " + f"Layer {i} needs more.\n" * 30
    html = render(view)
    shown, details = (
        re.sub(r"<noscript>.*?</noscript>", "", html, flags=re.S),
        re.findall(r"<noscript>.*?</nos", html, re.S),
    )
    assert "needs more" not in shown
    assert shown.count('<span class="why">It does not fit.</span>') == 2
    assert shown.count('<span class="reason">It does not fit.</span>') == 1  # told once for both
    assert [sum(f"Layer {i} needs more.\n" * 30 in text for text in details) for i in (1, 5)] == [1, 1]


def test_the_sweep_is_run_again_by_other_commands_than_the_head_shows() -> None:
    view = small()
    view["again"] = ["python run.py -m beta=1,2", "python run.py -m 'beta=3' & x"]
    html = render(view)
    head, rest = html.split("<main>")
    assert view["command"].replace("'", "&#39;") in head
    below = rest[rest.index('id="reproduce"') :]
    assert "<code>python run.py -m beta=1,2\npython run.py -m &#39;beta=3&#39; &amp; x</code>" in below
    assert "several calls" in below
    assert "several calls" not in render(small())


def test_two_hundred_runs_make_a_page_that_can_be_sent() -> None:
    view = synthetic_view.large()
    html = render(view)
    assert len(html.encode()) < 25_000_000
    live = re.sub(r"<noscript>.*?</noscript>", "", html, flags=re.S)
    elements = len(re.findall(r"<[a-z]", re.sub(r"<script.*?</script>", "", live, flags=re.S)))
    assert elements < 60 * len(view["runs"])


# --- in a browser --------------------------------------------------------------------------------------------------


class Desk:
    """Opens views as pages from files, and collects what went wrong in them."""

    def __init__(self, chromium: Any, folder: Path) -> None:
        self.chromium = chromium
        self.folder = folder
        self.faults: list[str] = []
        self.count = 0

    def open(self, view: dict[str, Any], **context: Any) -> Any:
        self.count += 1
        folder = self.folder / str(self.count)
        folder.mkdir()
        for run in view["runs"]:
            if run["full"]:
                (folder / unquote(run["full"])).parent.mkdir()
                Image.new("RGB", (64, 64)).save(folder / unquote(run["full"]))
        (folder / "report.html").write_text(render(view), encoding="utf-8", newline="\n")
        options = {"viewport": {"width": 1200, "height": 800}, "reduced_motion": "reduce", **context}
        page = self.chromium.new_context(**options).new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: self.faults.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("request", lambda request: self.look(request.url))
        page.goto((folder / "report.html").as_uri())
        return page

    def look(self, url: str) -> None:
        if not url.startswith(("data:", "file:")):
            self.faults.append(f"asked for {url}")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser.chromium() as opened:
        yield opened


@pytest.fixture
def desk(chromium: Any, tmp_path: Path) -> Iterator[Desk]:
    made = Desk(chromium, tmp_path)
    yield made
    for context in chromium.contexts:
        context.close()
    assert made.faults == []


def wait(page: Any, condition: str) -> None:
    """Wait for a condition; Playwright's own way would need eval, which the page forbids."""
    for _ in range(100):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never: {condition}")


def settle(page: Any) -> None:
    """Wait until every picture is loaded and the screen has been painted with it."""
    wait(page, "[...document.images].every((image) => image.complete)")
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def draw_all(page: Any) -> None:
    """Scroll through the page until every chart is drawn."""
    for chart in page.locator(".chart").all():
        chart.scroll_into_view_if_needed()
        chart.locator("svg, p").first.wait_for()
    page.wait_for_timeout(100)


def pixel(page: Any, locator: str, x: float, y: float) -> tuple[int, ...]:
    """Return the colour on the screen at a share of an element's width and height."""
    shot = Image.open(io.BytesIO(page.locator(locator).first.screenshot())).convert("RGB")
    return tuple(shot.getpixel((min(shot.width - 1, int(x * shot.width)), min(shot.height - 1, int(y * shot.height)))))


def near(seen: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return all(abs(a - b) < 25 for a, b in zip(seen, wanted, strict=True))


def test_the_slider_moves_every_picture(desk: Desk) -> None:
    view = small({"beta": ("0.001", "0.01", "0.1")})
    steps = [[0, 4, 16, 64], [0, 8, 64], [0, 100]]
    for run, of_run in zip(view["runs"], steps, strict=True):
        run["sprite"] = {"src": plain(COLOURS[: len(of_run)]), "steps": of_run, "width": 32, "height": 32}
        run["preview"] = plain([(20, 20, 20)], (64, 64))
        run["width"] = run["height"] = 64
    page = desk.open(view)
    positions = sorted({step for of_run in steps for step in of_run})
    assert page.locator("#step").get_attribute("max") == str(len(positions) - 1)
    assert page.locator("#step-text").inner_text() == "final, step 100"
    for index in [*range(len(positions)), 2, 0]:
        page.locator("#step").fill(str(index))
        settle(page)
        step = positions[index]
        assert str(step) in page.locator("#step-text").inner_text()
        for place, of_run in enumerate(steps):
            k = max(i for i, s in enumerate(of_run) if s <= step)
            wanted = (20, 20, 20) if k == len(of_run) - 1 else COLOURS[k]
            for x in (0.03, 0.5, 0.97):  # no neighbour shows at the edges
                assert near(pixel(page, f"#picture-{place} .frame", x, 0.4), wanted), (step, place, x)
            note = page.locator(f"#picture-{place} .note")
            told = note.inner_text() if note.count() else ""
            assert told == ("" if of_run[k] == step else f"step {of_run[k]}")


def test_play_goes_to_the_end_and_stops(desk: Desk) -> None:
    view = small()
    for run in view["runs"]:
        run["sprite"] = {"src": plain(COLOURS[:2]), "steps": [0, 50], "width": 32, "height": 32}
    page = desk.open(view)
    page.evaluate(
        """() => { window.seen = []; const text = document.querySelector('#step-text');
        new MutationObserver(() => window.seen.push(text.textContent)).observe(text, { childList: true }); }"""
    )
    play = page.get_by_role("button", name="Play")
    play.press("Enter")
    wait(page, "window.seen.length > 1 && document.querySelector('#play').getAttribute('aria-pressed') === 'false'")
    assert page.evaluate("window.seen") == ["step 0", "final, step 50"]


def test_the_divider_shows_a_left_and_b_right(desk: Desk) -> None:
    view = small()
    for run, colour in zip(view["runs"], itertools.cycle(COLOURS), strict=False):
        run["preview"] = plain([colour], (64, 64))
        run["full"] = None
    page = desk.open(view)
    page.locator("#wipe").scroll_into_view_if_needed()
    page.locator("#wipe-a").select_option("run-1")
    page.locator("#wipe-b").select_option("run-2")
    slider = page.get_by_role("slider", name="Divider")
    for percent in (50, 20, 81):
        slider.fill(str(percent))
        settle(page)
        assert near(pixel(page, "#wipe", percent / 100 - 0.04, 0.8), COLOURS[1])
        assert near(pixel(page, "#wipe", percent / 100 + 0.04, 0.8), COLOURS[2])
    slider.press("ArrowLeft")
    assert slider.input_value() == "80"
    box = page.locator("#wipe").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] / 2, steps=4)
    page.mouse.up()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + box["height"] / 2)
    assert abs(int(slider.input_value()) - 30) <= 1
    page.get_by_role("button", name="Swap").click()
    settle(page)
    assert near(pixel(page, "#wipe", 0.1, 0.8), COLOURS[2])
    page.locator("#wipe-a").select_option("input-0")
    assert "content: coffee" in page.locator("#wipe-text").inner_text()


def test_the_table_sorts_by_number_with_blanks_last(desk: Desk) -> None:
    view = small({"beta": ("0.1", "0.001", "10", "1"), "optimizer": ("adam", "lbfgs")}, status={2: "failed"})
    page = desk.open(view)

    def shown() -> list[int]:
        return [int(row.get_attribute("data-run")) for row in page.locator("#results tbody tr").all()]

    for key in (
        "beta",
        "optimizer",
        f"{synthetic_view.EVALUATOR}/ssim",
        f"{synthetic_view.EVALUATOR}/edge_correlation",
    ):
        values = [run["values"].get(key) for run in view["runs"]]
        there = [i for i, value in enumerate(values) if value is not None]
        blank = [i for i, value in enumerate(values) if value is None]
        head = page.locator(f'#results th[data-key="{key}"]')
        assert head.get_attribute("aria-sort") is None
        head.get_by_role("button").press("Enter")
        assert head.get_attribute("aria-sort") == "ascending"
        assert shown() == [*sorted(there, key=lambda i: values[i]), *blank]
        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == "descending"
        assert shown() == [*sorted(there, key=lambda i: values[i], reverse=True), *blank]
        assert page.locator("#results [aria-sort]").count() == 1
    page.locator('#results th[data-key=""] button').click()
    assert shown() == list(range(8))


def test_the_pickers_lay_every_run_into_its_cell(desk: Desk) -> None:
    view = small(SIZES, left_out=(3,), repeat=2)
    view["runs"][5]["axis"][1] = None
    page = desk.open(view)
    axes = view["axes"]
    read = """() => [...document.querySelectorAll('.facet')].flatMap((facet) => {
      const heads = [...facet.querySelectorAll('thead th')].map((th) => th.textContent.trim());
      return [...facet.querySelectorAll('tbody tr')].flatMap((row) => [...row.querySelectorAll('td')].flatMap((td, i) =>
        [...td.querySelectorAll('.cell')].map((cell) => [Number(cell.dataset.run),
          facet.querySelector('h3')?.textContent ?? '', row.querySelector('th').textContent.trim(), heads[i]])));
    })"""

    def check(across: int, down: int, wanted: set[int]) -> None:
        other = next(i for i in range(3) if i not in (across, down))
        found = page.evaluate(read)
        assert sorted(place for place, *_ in found) == sorted(wanted)
        for place, heading, row, column in found:
            texts = [
                "–" if value is None else axis["texts"][value]  # noqa: RUF001
                for axis, value in zip(axes, view["runs"][place]["axis"], strict=True)
            ]
            assert (row, column) == (texts[down], texts[across])
            assert heading == f"{axes[other]['label']} = {texts[other]}"

    everything = set(range(len(view["runs"])))
    check(1, 0, everything)
    first = page.evaluate(read)
    page.get_by_label("Across").select_option("2")
    check(2, 0, everything)
    page.get_by_label("Down").select_option("2")  # taken: the two change places
    check(0, 2, everything)
    page.get_by_label("Across").select_option("1")
    page.get_by_label("Down").select_option("0")
    check(1, 0, everything)
    assert page.evaluate(read) == first  # as the template had laid them
    page.locator("[name=only-size]").select_option("1")
    check(1, 0, {i for i in everything if view["runs"][i]["axis"][2] == 1})
    hidden = next(i for i in everything if view["runs"][i]["axis"][2] == 0)
    page.evaluate(f"document.querySelector('#run-{hidden} summary').click()")
    page.locator(f"#run-{hidden} a.back").click()  # its picture is asked for: the picker lets go
    check(1, 0, everything)


def test_the_large_view_by_keyboard(desk: Desk) -> None:
    view = small(status={3: "failed"})
    page = desk.open(view)
    dialog = page.get_by_role("dialog")
    page.locator("#picture-0 .frame").focus()
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.closest('.cell').id") == "picture-2"  # beta runs down
    page.keyboard.press("Enter")
    assert dialog.is_visible()
    assert dialog.get_by_role("heading").inner_text() == view["runs"][2]["label"]
    ssim = view["runs"][2]["values"][f"{synthetic_view.EVALUATOR}/ssim"]
    assert f"{ssim:.4f}" in dialog.inner_text()
    link = dialog.get_by_role("link", name="Full picture").get_attribute("href")
    assert link == f"./{view['runs'][2]['full']}"
    wait(page, "document.querySelector('#viewer-image').src.endsWith('result.png')")  # beside the page
    seen = [dialog.get_by_role("heading").inner_text()]
    for _ in range(5):
        page.keyboard.press("ArrowRight")
        seen.append(dialog.get_by_role("heading").inner_text())
    assert seen == [view["runs"][i]["label"] for i in (2, 3, 4, 5, 0, 1)]
    for _ in range(4):
        page.keyboard.press("ArrowLeft")
    assert "not a number" not in dialog.inner_text()
    assert view["runs"][3]["reason"] in dialog.inner_text()
    dialog.get_by_role("button", name="Compare as B").click()
    assert page.locator("#wipe-b").input_value() == "run-3"
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    wait(page, "document.activeElement.closest('.cell')?.id === 'picture-3'")
    page.locator("#results .to-picture").nth(4).click()
    assert dialog.get_by_role("heading").inner_text() == view["runs"][4]["label"]
    dialog.get_by_role("link", name="Details").click()
    assert not dialog.is_visible()
    assert page.locator("#run-4").get_attribute("open") is not None
    assert page.locator("#run-4").get_by_text(view["runs"][4]["command"]).first.is_visible()


def test_details_are_made_when_they_are_opened(desk: Desk) -> None:
    view = hostile(small())
    page = desk.open(view)
    assert page.locator("#run-0 pre").count() == 0
    page.locator("#run-0 summary").click()
    assert page.locator("#run-0 pre").first.inner_text().startswith("</script><script>alert(1)")
    assert page.locator("#run-0 script, #run-0 img").count() == 0
    assert page.locator("#run-1 pre").count() == 0
    page.goto(page.url + "#run-2")
    page.reload()
    assert page.locator("#run-2").get_attribute("open") is not None


def test_commands_are_copied(desk: Desk) -> None:
    view = small()
    page = desk.open(view)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy: command of the sweep").click()
    assert page.evaluate("navigator.clipboard.readText()") == view["command"]


def test_the_curves_are_where_the_numbers_say(desk: Desk) -> None:
    view = small(FORM, status={1: "out_of_memory"})
    series = view["runs"][0]["curves"]["series"]
    series["loss/total"][5] = None
    page = desk.open(view)
    page.locator("#curves .chart").scroll_into_view_if_needed()
    form = page.locator("#curves-form")
    form.get_by_label("Loss").select_option("loss/total")
    lines = page.locator("#curves .marks path[data-of]")
    assert lines.count() == len(view["runs"]) - 1
    curve = view["runs"][0]["curves"]

    def heights(values: list[float | None]) -> list[tuple[float, float]]:
        path = page.locator('#curves .marks path[data-of="0"]').get_attribute("d")
        assert path.count("M") == 2  # a gap where there is no number
        points = [tuple(map(float, pair.split())) for pair in re.findall(r"[ML]([\d.]+ [\d.]+)", path)]
        kept = [value for value in values if value is not None]
        assert len(points) == len(kept)
        return list(zip((y for _, y in points), kept, strict=True))

    for log in (True, False):
        form.get_by_label("logarithmic").set_checked(log)
        pairs = heights(series["loss/total"])
        (y0, v0), (y1, v1) = min(pairs, key=lambda p: p[1]), max(pairs, key=lambda p: p[1])
        f = math.log if log else float
        for y, value in pairs:  # a straight line between the two extremes
            assert y == pytest.approx(y0 + (y1 - y0) * (f(value) - f(v0)) / (f(v1) - f(v0)), abs=0.2)
    form.get_by_label("Against").select_option("seconds")
    path = page.locator('#curves .marks path[data-of="0"]').get_attribute("d")
    xs = [float(x) for x in re.findall(r"[ML]([\d.]+) ", path)]
    seconds = [s for s, v in zip(curve["seconds"], series["loss/total"], strict=True) if v is not None]
    assert (xs[3] - xs[0]) / (xs[-1] - xs[0]) == pytest.approx(
        (seconds[3] - seconds[0]) / (seconds[-1] - seconds[0]), abs=0.01
    )
    entry = page.locator('[data-key="curves"]').get_by_role("button", name="optimizer=adam, beta=0.1 (2 runs)")
    entry.focus()  # the seeds of a setting are one entry
    assert page.locator("#curves .marks path.on").evaluate_all("(all) => all.map((p) => p.dataset.of)") == ["4", "5"]
    entry.press("ArrowUp")
    assert page.locator("#curves .marks path.on").evaluate_all("(all) => all.map((p) => p.dataset.of)") == ["2", "3"]


def test_the_effect_is_mean_and_spread_over_the_seeds(desk: Desk) -> None:
    view = small({"beta": ("0.001", "0.01", "0.1"), "optimizer": ("adam", "lbfgs"), "seed": ("0", "1", "2")})
    key = f"{synthetic_view.EVALUATOR}/style_distance"
    page = desk.open(view)
    page.locator("#effect .chart").scroll_into_view_if_needed()
    form = page.locator("#effect-form")
    form.get_by_label("Measure").select_option(key)
    told = page.locator("#effect .marks title").evaluate_all("(all) => all.map((title) => title.textContent)")
    assert len(told) == 6
    for b, o in itertools.product(range(3), range(2)):
        values = [run["values"][key] for run in view["runs"] if run["axis"][:2] == [b, o]]
        start = f"optimizer={view['axes'][1]['texts'][o]}, beta {view['axes'][0]['texts'][b]}: "
        line = next(text for text in told if text.startswith(start))
        numbers = [float(text) for text in re.findall(r"[\d.]+", line[len(start) :])]
        assert numbers == pytest.approx([statistics.mean(values), statistics.stdev(values), 3], rel=6e-4)
    assert "standard deviation" in page.locator("#effect-text").inner_text()
    assert "over seed" in page.locator("#effect-text").inner_text()
    assert "(logarithmic)" in page.locator("#effect .chart").inner_text()
    form.get_by_label("A line for each").select_option("")
    assert page.locator("#effect .marks g[data-of]").count() == 1
    form.get_by_label("A line for each").select_option("1")
    form.get_by_label("Against").select_option("1")  # names instead of numbers
    assert "lbfgs" in page.locator("#effect .chart").inner_text()
    assert page.locator("#effect .marks title").count() == 6


@pytest.mark.parametrize("styles", [("wave",), ("wave", "swirls")])
def test_the_front_of_a_pair_is_what_no_other_of_its_runs_beats(desk: Desk, styles: tuple[str, ...]) -> None:
    view = small(FORM | {"style": styles}, status={2: "failed"})
    x, y = (f"{synthetic_view.EVALUATOR}/{name}_distance" for name in ("content", "style"))
    rng = random.Random(5)
    for run in view["runs"]:
        if run["status"] == "done":
            run["values"][x] = rng.randrange(1, 6) / 10  # with ties
            run["values"][y] = rng.randrange(1, 6) / 10
    view["pareto"] = trade_offs(view["columns"], view["runs"])
    page = desk.open(view)
    draw_all(page)
    assert page.locator("#tradeoff .part").count() == len(styles)
    read = "(all) => all.map((point) => Number(point.dataset.of))"
    for pair in range(len(styles)):
        points = {
            i: (run["values"][x], run["values"][y])
            for i, run in enumerate(view["runs"])
            if run["status"] == "done" and run["pair"] == pair
        }
        wanted = {
            i for i, p in points.items() if not any(a <= p[0] and b <= p[1] and (a, b) != p for a, b in points.values())
        }
        part = page.locator("#tradeoff .part").nth(pair)
        assert set(part.locator("a.front").evaluate_all(read)) == wanted
        assert set(part.locator("a.point").evaluate_all(read)) == set(points)
    assert f"1 of {len(view['runs'])} runs has no scores" in page.locator("#tradeoff").inner_text()
    assert "lower is better" in page.locator("#tradeoff").inner_text().lower()
    point = page.locator("#tradeoff a.point").last
    point.focus()
    place = int(point.get_attribute("data-of"))
    assert view["runs"][place]["label"] in page.locator("#tradeoff .tip:visible").inner_text()
    page.keyboard.press("Enter")
    assert page.get_by_role("dialog").get_by_role("heading").inner_text() == view["runs"][place]["label"]


def test_a_run_that_is_alone_with_its_pair_has_no_chart(desk: Desk) -> None:
    view = small({"style": ("wave", "swirls", "mosaic"), "beta": ("0.1", "1")}, left_out=(1, 3))
    page = desk.open(view)
    draw_all(page)
    assert page.locator("#tradeoff .part").count() == 1
    assert "2 pairs of images have one run only" in page.locator("#tradeoff").inner_text()


def test_a_front_has_equal_points_and_no_beaten_ones() -> None:
    points = {0: (0.2, 0.5), 1: (0.2, 0.4), 2: (0.3, 0.4), 3: (0.1, 0.9), 4: (0.2, 0.4), 5: (0.5, 0.1), 6: (0.6, 0.1)}
    assert front(points) == [3, 1, 4, 5]


def test_a_comparison_starts_with_one_pair_and_one_knob() -> None:
    axes = {
        "style": ("wave", "swirls"),
        "seed": ("0", "1"),
        "beta": ("0.1", "0.01", "1"),
        "optimizer": ("adam", "lbfgs"),
    }
    view = small(axes, status={0: "failed", 2: "interrupted", 4: "out_of_memory"}, long_side=16, tile=8)
    for count in (24, 12, 5, 4):  # fewer and fewer to choose from
        runs = view["runs"][:count]
        a, b = (runs[int(name.removeprefix("run-"))] for name in first_two(view["axes"], runs, view["inputs"]))
        assert {a["status"], b["status"]} == {"done"}
        assert a["pair"] == b["pair"]
        differing = [axis["key"] for axis, x, y in zip(view["axes"], a["axis"], b["axis"], strict=True) if x != y]
        assert len(differing) == 1
        assert differing != ["seed"]
    alone = first_two(view["axes"], view["runs"][:2], view["inputs"])
    assert alone == ["input-0", "run-1"]
    assert first_two(view["axes"], [], []) == []


def test_the_seeds_of_a_setting_share_a_cell_with_mean_and_spread(desk: Desk) -> None:
    view = small(FORM, status={3: "failed"})
    page = desk.open(view)
    assert page.locator(".grid").count() == 1
    assert page.locator(".grid td .repeat").count() == 6
    assert page.locator("[name=across] option").all_inner_texts() == ["optimizer", "beta"]
    key = f"{synthetic_view.EVALUATOR}/style_distance"
    for place in range(0, 12, 2):
        cell = page.locator(f"#repeat-{place}")
        assert cell.locator("figure").evaluate_all("(all) => all.map((f) => f.id)") == [
            f"picture-{place}",
            f"picture-{place + 1}",
        ]
        values = [run["values"][key] for run in view["runs"][place : place + 2] if run["status"] == "done"]
        told = cell.locator(".spread:visible div", has_text="style distance")
        assert told.count() == (len(values) > 1)
        if len(values) > 1:
            numbers = [float(text) for text in told.locator("dd").inner_text().split("±")]
            assert numbers == pytest.approx([statistics.mean(values), statistics.stdev(values)], abs=6e-5)
    page.locator("[name=only-seed]").select_option(label="1")
    visible = [i for i in range(12) if page.locator(f"#picture-{i}").is_visible()]
    assert visible == list(range(1, 12, 2))
    for place in range(0, 12, 2):
        told = page.locator(f"#repeat-{place} .spread:visible div", has_text="style distance").locator("dd")
        value = view["runs"][place + 1]["values"].get(key)  # of the seed that is shown
        assert [float(text) for text in told.all_inner_texts()] == (
            [] if value is None else [pytest.approx(value, rel=1e-3)]
        )
    page.get_by_label("Across").select_option("0")  # the other way round, still with one seed
    assert page.locator(".grid td .repeat").count() == 6
    assert [i for i in range(12) if page.locator(f"#picture-{i}").is_visible()] == visible


def test_choices_are_kept_in_the_address(desk: Desk) -> None:
    page = desk.open(small(FORM | {"style": ("wave", "swirls")}))
    draw_all(page)
    assert "=" not in page.url
    page.get_by_label("Across").select_option(label="style")
    page.locator("[name=only-seed]").select_option(label="1")
    page.get_by_label("Colour").select_option(label="style")
    page.get_by_label("logarithmic").uncheck()
    page.locator("#effect-form [name=axis]").select_option(label="optimizer")
    page.locator("#step").fill("1")
    page.locator(".bar a", has_text="Effect").click()
    assert re.search(r"#effect&.*across=style", page.url)
    read = """() => [...document.querySelectorAll('select, input[type=checkbox], #step-text')].map((control) =>
      control.type === 'checkbox' ? control.checked : control.selectedOptions?.[0].text ?? control.textContent)"""
    grid = "() => [...document.querySelectorAll('caption, .cell')].map((e) => [e.id || e.textContent, e.hidden])"
    before = page.evaluate(read), page.evaluate(grid)
    sent = page.context.new_page()
    sent.goto(page.url)
    page.reload()
    for opened in (page, sent):
        draw_all(opened)
        assert (opened.evaluate(read), opened.evaluate(grid)) == before
        assert opened.evaluate("document.querySelector('#effect').getBoundingClientRect().top") < 400
    assert not page.locator("#step-text").inner_text().startswith("final")
    page.get_by_label("Across").select_option(label="beta")  # as at first
    page.locator("#step").fill(page.locator("#step").get_attribute("max") or "")
    assert "across" not in page.url
    assert "step" not in page.url


def test_without_scripts_everything_but_the_charts_is_there(desk: Desk) -> None:
    view = small(FORM, status={2: "failed", 3: "out_of_memory"})
    page = desk.open(view, java_script_enabled=False)
    for place, run in enumerate(view["runs"]):
        picture = page.locator(f"#picture-{place} img")
        assert picture.count() == (0 if run["status"] == "out_of_memory" else 1)
    assert not page.locator("#scrubber, .copy, #compare, #theme").first.is_visible()
    assert page.get_by_text(view["command"]).first.is_visible()
    page.locator("#run-4 summary").click()
    for text in (view["runs"][4]["command"], view["runs"][4]["provenance"][0][1]):
        assert page.locator("#run-4").locator("code, td", has_text=text).first.is_visible()
    assert page.locator("#results tbody tr").count() == 12


@pytest.mark.parametrize("axes", [{}, {"beta": ("0.001", "0.01")}, None, FORM, {**FORM, "style": ("wave", "swirls")}])
def test_a_phone_never_scrolls_sideways(desk: Desk, axes: Any) -> None:
    for view in (small(axes, status={1: "failed"}), hostile(small(axes, status={1: "failed"}))):
        page = desk.open(view, viewport={"width": 360, "height": 740})
        draw_all(page)
        page.locator(".runs summary").first.click()
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        page.locator(".to-picture").first.click()
        assert page.evaluate("document.querySelector('#viewer').scrollWidth") <= 360


def test_the_theme_follows_the_system_and_the_button(desk: Desk) -> None:
    view = small()
    lightness = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    dark = desk.open(view, color_scheme="dark")
    assert max(dark.evaluate(lightness)) < 60
    page = desk.open(view, color_scheme="light")
    assert page.evaluate(lightness) == [255, 255, 255]
    button = page.get_by_role("button", name="Theme")
    button.click()
    assert page.evaluate(lightness) == [255, 255, 255]
    button.click()
    assert button.inner_text() == "Theme: dark"
    assert max(page.evaluate(lightness)) < 60
    page.reload()
    assert max(page.evaluate(lightness)) < 60  # remembered


def test_on_paper_nothing_is_a_control_and_configurations_are_an_appendix(desk: Desk) -> None:
    page = desk.open(small(FORM), color_scheme="dark")
    draw_all(page)
    appendix = page.get_by_label("as an appendix")
    for wanted in (False, True):
        appendix.set_checked(wanted)
        page.emulate_media(media="print", color_scheme="dark")
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.locator("#runs").is_visible() == wanted
        assert page.locator("#run-3 pre").first.is_visible() == wanted
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
        for control in page.locator("button, select, input").all():
            assert not control.is_visible() or control.locator("xpath=ancestor::thead|ancestor::*[@data-key]").count()
        assert page.locator("#results").evaluate(
            "(table) => table.parentElement.scrollHeight <= table.parentElement.clientHeight + 1"
        )
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        page.emulate_media(media="screen")


def test_eight_runs_fit_in_eight_pages(desk: Desk) -> None:
    page = desk.open(small({"style": ("wave", "swirls"), "beta": ("0.01", "0.1"), "seed": ("0", "1")}, long_side=256))

    def pages() -> int:
        return len(re.findall(rb"/Type\s*/Page\b", page.pdf(prefer_css_page_size=True)))

    assert 1 < pages() <= 8
    page.get_by_label("as an appendix").check()
    assert pages() > 8


def test_no_heading_is_printed_apart_from_its_chart(desk: Desk, tmp_path: Path) -> None:
    if shutil.which("pdftotext") is None:
        pytest.skip("pdftotext is not installed")
    charts = {"Losses": "steps", "Effect of a parameter": "(logarithmic)", "Content against style": "style distance ("}
    for values in (1, 2, 4):  # charts begin at other heights of a page
        beta = ("0.001", "0.01", "0.1", "1")[:values] if values > 1 else ("0.01", "0.1")
        page = desk.open(small({"beta": beta, "optimizer": ("adam", "lbfgs")[: 1 + (values > 1)]}, long_side=256))
        page.pdf(prefer_css_page_size=True, path=tmp_path / "report.pdf")
        text = subprocess.run(["pdftotext", tmp_path / "report.pdf", "-"], capture_output=True, text=True, check=True)
        sheets = text.stdout.split("\f")
        for heading, axis in charts.items():
            assert any(heading in sheet and axis in sheet for sheet in sheets), (values, heading)


def test_everything_is_drawn_without_scrolling(desk: Desk) -> None:
    view = small(FORM)
    page = desk.open(view, viewport={"width": 900, "height": 300})
    wait(page, "document.querySelectorAll('.chart svg').length === 3")
    assert page.evaluate("scrollY") == 0
    assert page.locator("#curves .marks path[data-of]").count() == len(view["runs"])
    assert page.locator("#effect .marks title").count() == 6
    assert page.locator("#tradeoff a.point").count() == len(view["runs"])
    assert all(key.locator("button").count() for key in page.locator("[data-key]").all())
    assert page.locator("#results .thumb img").count() == len(view["runs"])
    assert page.locator("#wipe img:visible").count() == 2


def test_charts_are_printed_even_before_they_are_drawn(desk: Desk) -> None:
    view = small(FORM)
    page = desk.open(view)
    drawn = """() => { for (const chart of document.querySelectorAll('.chart')) chart.replaceChildren();
      dispatchEvent(new Event('beforeprint'));
      return [...document.querySelectorAll('.chart')].map((chart) => chart.querySelectorAll('svg').length); }"""
    page.add_init_script("window.requestAnimationFrame = () => 0")  # the page is never shown
    page.reload()
    assert page.evaluate(drawn) == [1] * 3


def test_a_key_that_scrolls_says_so(desk: Desk) -> None:
    for sizes, scrolls in ((4, False), (40, True)):
        page = desk.open(small({"size": [str(64 + i) for i in range(sizes)], "seed": ("0", "1")}, long_side=16, tile=8))
        draw_all(page)
        assert ("scroll to see all" in page.locator('[data-key="curves"]').inner_text()) == scrolls


def test_the_keyboard_reaches_everything_in_order(desk: Desk) -> None:
    page = desk.open(small(FORM))
    stops = []
    for _ in range(30):
        page.keyboard.press("Tab")
        stops.append(
            page.evaluate(
                """() => { const e = document.activeElement, s = getComputedStyle(e);
                return [e.className || e.id || e.name || e.tagName, s.outlineStyle !== 'none' || e.id === 'divide'] }"""
            )
        )
    names = [name for name, _ in stops]
    assert names[0] == "skip"
    assert all(ring for _, ring in stops), stops
    order = ["plain js-only", "copy", "across", "play", "step", "frame", "wipe-a", "wipe-b", "divide"]
    assert [name for name in names if name in order] == order  # the pictures are one stop


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("axes", [{}, None, FORM])
def test_axe_finds_no_serious_fault(desk: Desk, scheme: str, axes: Any) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed").Axe()
    page = desk.open(small(axes, status={1: "failed"}), color_scheme=scheme)
    draw_all(page)
    page.locator("#run-0 summary").click()
    page.locator(".help summary").first.click()

    def faults() -> list[str]:
        found = axe.run(page).response["violations"]
        return [
            f"{fault['id']}: {node['target']} {node['failureSummary']}"
            for fault in found
            if fault["impact"] in ("serious", "critical")
            for node in fault["nodes"]
        ]

    assert faults() == []
    page.locator(".to-picture").first.click()
    assert faults() == []


def test_two_hundred_runs_stay_light(desk: Desk) -> None:
    page = desk.open(synthetic_view.large())
    draw_all(page)
    count = "document.getElementsByTagName('*').length"
    assert page.evaluate(count) < 20_000
    before = page.evaluate(count)
    page.locator("#matrix").scroll_into_view_if_needed()
    page.locator("#step").fill("3")
    page.wait_for_timeout(200)
    # only pictures in or near sight have become films
    assert 0 < page.locator(".film").count() < 160
    assert page.evaluate(count) - before < 500


def test_a_job_that_has_not_begun_takes_no_style_from_its_column() -> None:
    axis = [{"key": "style", "texts": ["swirls", "mosaic"]}]
    inputs = [{"id": "content0"}, {"id": "style0"}, {"id": "style1"}]
    runs = [{"axis": [place], "style": style} for place, style in ((0, "style0"), (1, "style1"), (1, None))]
    assert faces(axis, runs, inputs) == [[1, 2]]
    assert faces(axis, [*runs, {"axis": [1], "style": "style0"}], inputs) == [[1, None]]


def test_names_break_after_dots_and_underscores_only() -> None:
    parts = ["style_", "loss.", "<b>wasserstein"]
    assert str(breakable("".join(parts))) == "<wbr>".join(["style_", "loss.", "&lt;b&gt;wasserstein"])
