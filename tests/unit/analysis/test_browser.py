"""The report in a real Chromium: no complaint, readouts and sliders that work, numbers of the summary."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import expect

from semraft.analysis.summary import finished_runs
from semraft.diagnosis.diagnose import diagnose
from semraft.report.diagnosis_section import write_page as write_diagnosis
from semraft.report.report import write_page, write_report
from tests.unit.analysis.fake_runs import SPLIT, make_pair, make_study
from tests.unit.diagnosis.made_runs import health, pulse, set_from, write_run

CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here (apt-get install chromium)")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two variants with three seeds and two pairs, one of which got better and one worse."""
    effects = {"base": (0.0,) * 3, "v1": (-0.3, -0.2, -0.25)}
    folder = tmp_path_factory.mktemp("study")
    study = make_study(folder, effects, steps=tuple(range(5, 401, 5)), validated=(100, 200, 300, 400))
    for run in (study / "runs").iterdir():
        shutil.rmtree(run / "pairs")
        (run / "pairs" / SPLIT).mkdir(parents=True)
        for pair_id, errors in (("s/003", (0.5, 1.25)), ("s/007", (2.0, 0.5))):
            arrays = make_pair(pair_id, errors[run.name.startswith("v1")], size=(70, 122))
            np.savez(run / "pairs" / SPLIT / f"{pair_id.replace('/', '_')}.npz", **arrays)
    (study / "runs" / "v1-seed1" / "verdict.json").write_text(
        '{"state": "worse", "first_step": 300, "causes": '
        '[{"name": "gradient-conflict", "evidence": "<cosine> -0.4"}]}'
    )
    return study


@pytest.fixture(scope="module")
def report(study: Path) -> Path:
    write_report([study], study / "report.html")
    return study / "report.html"


@pytest.fixture
def page(browser: Any, report: Path) -> Iterator[Any]:
    yield from opened(browser, report)


def render(study: Path, numbers: dict[str, Any], name: str) -> Path:
    write_page(finished_runs(study), numbers, study / name)
    return study / name


def opened(browser: Any, report: Path, width: int = 1440, scheme: str = "light") -> Iterator[Any]:
    """The page in a window of its own; anything said on the console, and any error, fails the test."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(report.as_uri())
    yield page
    page.close()
    assert said == []


def numbers_in(value: Any) -> set[float]:
    """Every number of a JSON value."""
    if isinstance(value, dict):
        return {number for item in value.values() for number in numbers_in(item)}
    if isinstance(value, list):
        return {number for item in value for number in numbers_in(item)}
    return {float(value)} if isinstance(value, int | float) and not isinstance(value, bool) else set()


def shown_numbers(page: Any) -> list[tuple[float, str]]:
    script = "Array.from(document.querySelectorAll('data'), (e) => [Number(e.value), e.textContent])"
    return [(float(value), str(text)) for value, text in page.evaluate(script)]


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_it_opens_without_complaint_and_fits_its_window(
    browser: Any, report: Path, width: int, scheme: str
) -> None:
    """Red when: the policy refuses our script, a script throws, or a table is wider than a telephone."""
    for page in opened(browser, report, width, scheme):
        page.evaluate("document.querySelectorAll('details').forEach((details) => (details.open = true))")
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.locator(".viewer:visible").count() == page.locator(".pair").count() == 2
        assert page.locator(".chart").count() > 8
        empty = "[...document.querySelectorAll('img')].filter((image) => !image.naturalWidth).length"
        assert page.evaluate(empty) == 0  # Not even those that were never scrolled to.


def test_every_number_of_the_page_is_one_of_the_summary(page: Any, study: Path) -> None:
    """Red when: the page computes a number of its own, or shows another rounding of it."""
    numbers = json.loads((study / "summary.json").read_text())
    known = numbers_in(numbers)
    shown = shown_numbers(page)
    assert len(shown) > 200
    for value, text in shown:
        assert value in known, text
        plain = text.replace("\N{MINUS SIGN}", "-")
        if plain.startswith("<"):
            assert value < float(plain[1:])
        else:
            decimals = len(plain.partition(".")[2])
            assert float(plain) == pytest.approx(value, abs=0.5000001 * 10**-decimals)
    sentences = page.locator(".verdict").all_inner_texts()
    for said, sentence in zip(numbers["verdict"]["variants"], sentences, strict=True):
        assert said["text"] in sentence
    assert page.evaluate("JSON.parse(document.getElementById('summary').textContent)") == numbers


def test_the_page_shows_the_summary_it_is_given(browser: Any, study: Path, report: Path) -> None:
    """Red when: differences are computed anew from the runs."""
    numbers = json.loads((report.parent / "summary.json").read_text())
    for entry in numbers["comparisons"]:
        if entry["metric"] == "epe":
            entry["low"], entry["relative_pct"][0] = -77.123, -66.6
    for page in opened(browser, render(study, numbers, "other.html")):
        texts = [text for _, text in shown_numbers(page)]
        assert "\N{MINUS SIGN}77.123" in texts
        assert "\N{MINUS SIGN}66.6" in texts


def test_the_pointer_reads_flow_and_error(page: Any) -> None:
    """The flow of both runs is wrong by a known length in u everywhere, by `make_pair`.

    Red when: u and v are swapped, rows are read as columns, or the differences of a row are not summed up.
    """
    pair = page.locator(".pair").first
    assert pair.locator("summary").inner_text().startswith("s/007")  # The largest gain.
    frame = pair.locator(".look").first
    frame.scroll_into_view_if_needed()
    box = frame.bounding_box()
    for x, y in ((90, 60), (17, 33)):
        page.mouse.move(box["x"] + (x + 0.5) / 122 * box["width"], box["y"] + (y + 0.5) / 70 * box["height"])
        expect(pair.locator(".place")).to_have_text(f"x {x}, y {y}")
        rows = [row.split("\t") for row in pair.locator(".values tbody tr").all_inner_texts()]
        u, v = x / 8 - 2, y / 16
        for row, expected in zip(rows, ((u, v, None), (u + 2.0, v, 2.0), (u + 0.5, v, 0.5)), strict=True):
            found = [None if text == "-" else float(text.replace("\N{MINUS SIGN}", "-")) for text in row[1:]]
            for value, wanted in zip(found, expected, strict=True):
                assert value == (None if wanted is None else pytest.approx(wanted, abs=0.04))
    above = box["y"] + 0.05 * box["height"]
    page.mouse.move(box["x"] + 0.5 * box["width"], above)
    expect(pair.locator(".values tbody td").first).to_have_text("-")  # No truth there.


def test_the_slider_and_the_flicker(page: Any) -> None:
    """Red when: the slider moves nothing, or both sides show the same layer."""
    viewer = page.locator(".viewer").first
    slide = viewer.locator(".slide")
    slide.focus()
    page.keyboard.press("Home")
    edge = "document.querySelector('.stage').style.getPropertyValue('--edge')"
    assert page.evaluate(edge) == "0%"
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert page.evaluate(edge) == "3%"
    left, right = (viewer.locator(f".stage .{side}").get_attribute("src") for side in ("over", "under"))
    assert left != right
    viewer.locator(".left").select_option("Ground truth")
    truth = page.locator(".pair").first.locator("img[data-layer='Ground truth']").get_attribute("src")
    assert viewer.locator(".stage .over").get_attribute("src") == truth
    viewer.locator(".flicker").click()
    page.wait_for_selector(".stage.second")
    viewer.locator(".flicker").click()
    assert page.locator(".stage.flickering").count() == 0


def test_pairs_are_sorted_by_gain_or_loss(page: Any) -> None:
    names = page.locator(".pair > summary")
    assert [text[:5] for text in names.all_inner_texts()] == ["s/007", "s/003"]
    page.get_by_role("button", name="Largest loss first").click()
    assert [text[:5] for text in names.all_inner_texts()] == ["s/003", "s/007"]


PIXELS = """(figure) => {
  const canvas = document.querySelectorAll(".chart")[figure].querySelector("canvas");
  const surface = new OffscreenCanvas(canvas.width, canvas.height);
  const copy = surface.getContext("2d", { willReadFrequently: true });
  copy.drawImage(canvas, 0, 0);
  return copy.getImageData(0, 0, canvas.width, canvas.height);
}"""
INK = f"""([figure, color]) => {{
  const {{ data, width }} = ({PIXELS})(figure);
  const wanted = getComputedStyle(document.documentElement).getPropertyValue(`--c${{color}}`).trim();
  const parts = [1, 3, 5].map((at) => parseInt(wanted.slice(at, at + 2), 16));
  const marked = [];
  for (let i = 0; i < data.length; i += 4) {{
    const apart = parts.reduce((sum, part, channel) => sum + Math.abs(data[i + channel] - part), 0);
    if (apart < 24 && data[i + 3] > 200) marked.push((i / 4) % width, Math.floor(i / 4 / width));
  }}
  return marked;
}}"""


def ink(page: Any, figure: int, color: int) -> np.ndarray:
    """The canvas pixels (x, y) of a chart that have a variant's full colour."""
    return np.reshape(page.evaluate(INK, [figure, color]), (-1, 2))


def titled(page: Any, title: str) -> int:
    """The number of the last chart of a name: training's comes after validation's."""
    names = page.locator(".chart").evaluate_all("figures => figures.map((f) => f.ariaLabel)")
    return int(len(names) - 1 - names[::-1].index(title))


def scale(page: Any, figure: int, axis: str) -> tuple[float, float]:
    found = page.evaluate(f"(({{min, max}}) => [min, max])(charts[{figure}].plot.scales.{axis})")
    return found[0], found[1]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_curve_is_drawn_where_its_values_are(browser: Any, report: Path, scheme: str) -> None:
    """Red when: a chart stays empty, misses a variant, or has its axis the wrong way up."""
    for page in opened(browser, report, scheme=scheme):
        for figure in range(page.locator(".chart").count()):
            assert len(ink(page, figure, 1)) > 100, figure
        epe = titled(page, "epe by refinement over refinement")
        for color in (0, 1):  # Falling curves; base, with the greater error, lies higher: y counts downwards.
            left, right = (part[:, 1].mean() for part in split_in_x(ink(page, epe, color)))
            assert left < right
        assert ink(page, epe, 0)[:, 1].min() < ink(page, epe, 1)[:, 1].min()


def split_in_x(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    middle = (points[:, 0].min() + points[:, 0].max()) / 2
    return points[points[:, 0] < middle], points[points[:, 0] >= middle]


def test_without_scripts_tables_hold_the_numbers_of_the_curves(browser: Any, report: Path) -> None:
    """Red when: a chart is an empty frame for whoever runs no scripts."""
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    assert page.locator(".chart table:visible").count() == page.locator(".chart").count() > 8
    rows = page.locator(".chart").first.locator("tr").all_inner_texts()
    assert rows[0].split() == ["step", "100", "200", "300", "400"]
    assert rows[4].split() == ["base", "mean", "of", "3", "5.01", "4.01", "3.01", "2.01"]
    assert "300: v1 seed 1: worse from here" in rows[-1]
    context.close()


def test_curves_are_read_and_looked_at_closely(page: Any) -> None:
    """Red when: the readout shows another step's values, or a zoomed chart keeps its old scales."""
    chart = page.locator(".chart").first
    chart.scroll_into_view_if_needed()
    box = chart.locator(".u-over").bounding_box()
    at = [box["x"] + share * box["width"] for share in (0.05, 0.34, 0.7)]
    middle = box["y"] + box["height"] / 2
    page.mouse.move(at[1], middle)
    tip = chart.locator(".tip").inner_text()
    assert "step 200" in tip
    assert "base mean of 3" in tip
    assert "4.01 ± 0.01" in tip
    before, low_before = scale(page, 0, "x"), scale(page, 0, "y")[0]
    drawn = ink(page, 0, 1)
    page.mouse.move(at[0], middle)
    page.mouse.down()
    page.mouse.move(at[2], middle, steps=4)
    page.mouse.up()
    assert scale(page, 0, "x") == pytest.approx((115, 310), abs=3)
    assert scale(page, 0, "y")[0] > low_before + 0.5
    assert not np.array_equal(ink(page, 0, 1), drawn)
    assert page.get_by_role("button", name="Whole range").is_enabled()
    page.get_by_role("button", name="Whole range").click()
    assert scale(page, 0, "x") == before == (100, 400)
    assert page.get_by_role("button", name="Whole range").is_disabled()
    page.mouse.move(0, 0)
    assert chart.locator(".tip").is_hidden()


def test_the_keyboard_reaches_charts_cells_and_pictures(page: Any) -> None:
    chart = page.locator(".chart").first
    chart.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert "step 200" in chart.locator(".tip").inner_text()
    page.keyboard.press("+")
    page.keyboard.press("Escape")
    cell = page.locator(".map td[data-tip]").first
    cell.focus()
    assert "over 3 seeds" in page.locator(".bubble").inner_text()
    page.locator(".stage").first.focus()
    page.keyboard.press("ArrowDown")
    expect(page.locator(".place").first).to_have_text("x 61, y 36")


def test_smoothing_and_picking_out_a_variant(page: Any) -> None:
    """Red when: a button changes nothing that is drawn, or fades the variant that was picked."""
    training = titled(page, "total_loss over step")
    raw = ink(page, training, 1)
    page.get_by_role("button", name="Smoothed").click()
    assert not np.array_equal(ink(page, training, 1), raw)
    page.get_by_role("button", name="Smoothed").click()
    assert np.array_equal(ink(page, training, 1), raw)
    assert len(ink(page, training, 0)) > 100
    page.locator(".legend button[data-variant='1']").click()
    assert len(ink(page, training, 0)) == 0
    assert len(ink(page, training, 1)) > 100
    page.locator(".legend button[data-variant='1']").click()
    assert len(ink(page, training, 0)) > 100


def test_losses_over_a_decade_have_a_logarithmic_axis(page: Any) -> None:
    """Red when: a loss that falls from 22 to 2 is drawn on a linear axis, where its end can't be read."""
    training = titled(page, "total_loss over step")
    low, high = scale(page, training, "y")
    assert 1 < low < 2
    ys = ink(page, training, 1)[:, 1]
    half_way = page.evaluate(f"charts[{training}].plot.valToPos({(low * high) ** 0.5}, 'y', true)")
    top, height = page.evaluate(f"(({{top, height}}) => [top, height])(charts[{training}].plot.bbox)")
    assert half_way == pytest.approx(top + height / 2, abs=2)
    assert ys.min() < half_way < ys.max()


def test_bands_lie_around_means_of_seeds(page: Any) -> None:
    """Red when: no band of mean ± standard deviation is drawn, or not around the mean."""
    series = page.evaluate("charts[0].plot.data.map((column) => column[1])")
    edges = page.evaluate("charts[0].plot.bands.map((band) => band.series)")
    means = page.evaluate("charts[0].lines.filter((line) => line.spread.length).map((line) => line.column)")
    assert len(edges) == len(means) == 2
    for (upper, lower), mean in zip(edges, means, strict=True):
        assert series[upper] - series[mean] == pytest.approx(series[mean] - series[lower])
        assert series[upper] > series[mean]
    figure = titled(page, "1px over step")
    pale = "(part, i) => i % 4 == 3 && part > 30 && part < 50"
    light = f"(figure) => ({PIXELS})(figure).data.filter({pale}).length"
    with_bands = page.evaluate(light, figure)
    page.evaluate(f"charts[{figure}].plot.bands.length = 0; charts[{figure}].plot.redraw()")
    assert with_bands > page.evaluate(light, figure) + 50


def test_a_run_that_went_wrong_is_shown_with_the_place(page: Any) -> None:
    """Red when: the step at which a run went wrong is not marked, or marked at another step."""
    rows = [" ".join(row.split()) for row in page.locator("#health tbody tr").all_inner_texts()]
    assert len(rows) == 6
    assert rows[4] == "v1-seed1 worse 300 gradient conflict <cosine> -0.4"
    assert rows[5] == "v1-seed2 finished - -"
    assert marks_of(page) > 4
    page.evaluate("charts[0].pickOut(2)")  # Fades both variants, not the mark.
    (at,) = np.unique(ink(page, 0, 1)[:, 0].round(-1))
    assert at == pytest.approx(page.evaluate("charts[0].plot.valToPos(300, 'x', true)"), abs=6)
    page.locator(".chart").first.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert "v1 seed 1: worse from here" in page.locator(".chart .tip").first.inner_text()


def marks_of(page: Any) -> int:
    return int(page.evaluate("charts.filter((chart) => chart.marks.length).length"))


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_the_page_of_a_diagnosis(browser: Any, tmp_path: Path, width: int, scheme: str) -> None:
    """Red when: its script asks for what only the report has, or a command makes the page wider."""
    pulses = set_from(pulse({"epe_px": 8.0, "first_epe_px": 8.0}), rate_ratio=30.0)
    bad = write_run(tmp_path / f"a-{'long-' * 20}<i>name", pulses=pulses, healths=health(moved=30))
    good = write_run(tmp_path / "good", pulses=pulse(noise=1), healths=health())
    write_diagnosis(diagnose(bad, good), tmp_path / "diagnosis.html")
    for page in opened(browser, tmp_path / "diagnosis.html", width, scheme):
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.locator("h1").inner_text() == bad.name
        assert page.locator(".chart").count() == marks_of(page) == 6
        assert all(len(ink(page, figure, 0)) > 20 for figure in range(6))
        command = page.locator(".verdict .command")
        assert command.inner_text().startswith("semraft train --from ")
        command.click()  # One click takes the whole command.
        assert page.evaluate("getSelection().toString()") == command.inner_text()
        chart = page.locator(".chart").nth(1)
        chart.focus()
        page.keyboard.press("ArrowRight")
        assert "good" in chart.locator(".tip").inner_text()
