"""semraft.report.report: the page shows the numbers of the files, opens offline and trusts no name."""

import base64
import hashlib
import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from semraft.analysis import summary
from semraft.analysis.runs import Run, load_run
from semraft.analysis.summary import compare
from semraft.report import report
from semraft.report.pair_pictures import data_uri
from semraft.report.report import final_table, write_report
from tests.unit.analysis.fake_runs import (
    SPLIT,
    make_environment,
    make_pair,
    make_run,
    make_scores,
    make_study,
)
from tests.unit.analysis.page import UPLOT, Page

FOUR = (
    ("world-base", 0, 2.0),
    ("world-base", 42, 3.0),
    ("world-semantic-v1", 0, 1.5),
    ("world-semantic-v1", 42, 2.25),
)

SIX = [(recipe, seed, 2.0) for recipe in ("world-base", "world-semantic-v1") for seed in (0, 1, 2)]


def make_four(folder: Path) -> list[Path]:
    return [make_run(folder / f"{recipe}-{seed}", recipe, seed, epe) for recipe, seed, epe in FOUR]


def render(folder: Path, runs: list[Path]) -> Page:
    write_report(runs, folder / "out" / "report.html")
    return Page((folder / "out" / "report.html").read_text())


def test_no_runs_and_folders_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one run directory"):
        write_report([], tmp_path / "report.html")
    with pytest.raises(ValueError, match=r"config\.json is missing"):
        write_report([tmp_path], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_every_number_of_the_tables_is_one_of_the_files(tmp_path: Path) -> None:
    page = render(tmp_path, make_four(tmp_path))
    results = [cell for cell in page.cells if cell.strata is None]
    shown = {(cell.row[1], cell.metric): cell for cell in results}
    assert len(results) == 6 * 7  # Two means and four seeds of seven key metrics.
    epe = [cell.value for cell in results if cell.metric == "epe"]
    assert epe == [2.5, 2.0, 3.0, 1.875, 1.5, 2.25]
    assert [cell.value for cell in results if cell.metric == "fl"] == [10 * value for value in epe]
    assert shown["42", "wauc"].value == make_scores(2.25)["wauc"]
    for cell in page.cells:
        decimals = len(cell.text.partition(".")[2])
        assert float(cell.text) == pytest.approx(cell.value, abs=0.5000001 * 10**-decimals)
    strata = {(cell.metric, cell.row[0]): cell.value for cell in page.cells if cell.strata == "epe"}
    assert strata["epe_moving", "moving"] == 2 * 1.875  # The last variant's column.


def test_the_best_variant_is_marked_in_every_column(tmp_path: Path) -> None:
    page = render(tmp_path, make_four(tmp_path))
    assert {cell.row[0] for cell in page.cells if cell.strata is None and cell.best} == {"world-semantic-v1"}
    assert {cell.metric for cell in page.cells if cell.strata is None and cell.best} == {
        "epe", "epe_image_mean", "1px", "3px", "5px", "fl", "wauc"
    }  # fmt: skip


def test_the_summary_is_in_the_page_for_programs(tmp_path: Path) -> None:
    page = render(tmp_path, make_four(tmp_path))
    assert [run["metrics"]["epe"] for run in page.summary["runs"]] == [2.0, 3.0, 1.5, 2.25]
    (epe,) = [entry for entry in page.summary["comparisons"] if entry["metric"] == "epe"]
    assert (epe["difference"], epe["seeds"]) == (-0.625, 2)
    assert "\N{MINUS SIGN}0.625" in page.text


def test_curves_carry_the_values_of_the_files(tmp_path: Path) -> None:
    page = render(tmp_path, make_four(tmp_path)[:1])
    charts = [
        attributes for tag, attributes in page.tags if tag == "figure" and attributes.get("class") == "chart"
    ]
    lines = [json.loads(str(chart["data-chart"]))["lines"] for chart in charts]
    line = {
        "label": "world-base",
        "color": 0,
        "kind": "variant",
        "x": [200, 400],
        "y": [3.0, 2.0],
        "spread": [],
    }
    assert [line] in lines


@pytest.mark.parametrize("hostile", ["<script>alert(1)</script>", "\"'><img src=x onerror=alert(1)>"])
def test_untrusted_names_are_text(tmp_path: Path, hostile: str) -> None:
    """Red when: the template is rendered without autoescape, or a name is marked as safe."""
    environment = make_environment() | {"warnings": [hostile], "commit": hostile[:20]}
    environment["data"]["left_out"] = [hostile]
    environment["data"]["train"][0]["name"] = hostile
    environment["classes"][0]["name"] = hostile
    run = make_run(tmp_path / hostile.replace("/", "_"), recipe=f"{hostile}", environment=environment)
    text = (run / "metrics.jsonl").read_text().replace(SPLIT, "<b>val")
    (run / "metrics.jsonl").write_text(text)
    (run / "pairs" / SPLIT).rename(run / "pairs" / "<b>val")
    np.savez_compressed(run / "pairs" / "<b>val" / "scene_000003.npz", **make_pair(hostile))
    plain = render(tmp_path / "plain", [make_run(tmp_path / "run")])
    page = render(tmp_path, [run])
    for tag in ("script", "b", "img"):
        found, expected = ([t for t, _ in p.tags].count(tag) for p in (page, plain))
        assert found == expected, tag
    assert not [a for _, a in page.tags if "onerror" in a]
    assert hostile in page.text


def test_untrusted_names_of_variants_scenes_and_causes_are_text(tmp_path: Path) -> None:
    """Red when: a tip, a grid or a sentence is put into the page as it is."""
    pages = []
    for name in ("plain", "\"'><img src=x onerror=alert(1)>"):
        folder = tmp_path / str(len(pages))
        ids = [f"{name}/{number}" for number in range(9)]
        runs = [
            make_run(folder / f"{number}", recipe, seed, 2.0 - number, environment=make_environment(ids))
            for number, (recipe, seed) in enumerate((("world-base", 0), (f"semantic {name}", 0)))
        ]
        (runs[1] / "verdict.json").write_text(
            json.dumps({"state": name, "first_step": 200, "causes": [{"name": name, "evidence": name}]})
        )
        for run in runs:
            np.savez_compressed(run / "pairs" / SPLIT / "0.npz", **make_pair(ids[0]))
        pages.append(render(folder, runs))
    plain, hostile = pages
    assert [tag for tag, _ in plain.tags] == [tag for tag, _ in hostile.tags]
    assert not [attributes for _, attributes in hostile.tags if "onerror" in attributes]
    assert "#differences" in [attributes.get("href") for _, attributes in hostile.tags]


def test_the_page_opens_offline(tmp_path: Path) -> None:
    page = render(tmp_path, make_four(tmp_path))
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "srcset", "action"):
            if (value := attributes.get(name)) is not None:
                assert value.startswith(("data:image/", "#")), f"{tag} {name}={value[:60]}"
    assert not re.search(r"https?:|@import|url\(", page.html.replace(UPLOT, ""))
    policy = next(str(a["content"]) for tag, a in page.tags if tag == "meta" and a.get("http-equiv"))
    script = page.html.rpartition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert "Copyright (c) 2022 Leon Sorokin" in script  # The licence of uPlot asks for it.
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy  # Else the browser would refuse our own script.


def test_an_interrupted_run_still_has_a_page(tmp_path: Path) -> None:
    page = render(tmp_path, [make_run(tmp_path / "cut", steps=(100,), validated=())])
    assert "No run was validated yet." in page.text
    assert "cut: stopped or still running at step 100 of 400." in page.text
    assert ("h3", "Training") in page.outline
    (tmp_path / "cut" / "metrics.jsonl").unlink()
    assert "No training step was logged yet." in render(tmp_path, [tmp_path / "cut"]).text


def test_what_is_not_comparable_is_said_and_not_marked(tmp_path: Path) -> None:
    other = make_environment(ids=("scene/000099",))
    runs = [
        make_run(tmp_path / "a"),
        make_run(tmp_path / "b", "world-semantic-v1", epe=1.0, environment=other),
    ]
    page = render(tmp_path, runs)
    first = next(index for index, (_, a) in enumerate(page.tags) if a.get("class") == "stop")
    assert first < next(index for index, (tag, _) in enumerate(page.tags) if tag == "table")
    assert "validated on different pairs" in page.text
    assert not [cell for cell in page.cells if cell.best]


def test_a_number_that_is_none_is_a_dash(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines[-1]["epe"] = None
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = render(tmp_path, [run])
    assert "epe" not in {cell.metric for cell in page.cells}
    assert page.html.count('data-metric="epe">-</td>') == 2  # In the results, and by stratum.
    assert page.summary["runs"][0]["metrics"]["epe"] is None


def test_a_run_given_twice_counts_once(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert len(render(tmp_path, [run, run / ".." / "run"]).summary["runs"]) == 1


def test_the_report_of_a_study_reads_every_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Red when: whether a run is finished, its numbers and its page each parse its files anew."""
    study = make_study(tmp_path, {"base": (0.0,) * 2, "v1": (-0.3, -0.2)})
    read: list[str] = []

    def counted(path: Path) -> Run:
        read.append(path.name)
        return load_run(path)

    for module in (summary, report):
        monkeypatch.setattr(module, "load_run", counted)
    write_report([study], tmp_path / "report.html")
    assert read == ["base-seed0", "base-seed1", "v1-seed0", "v1-seed1"]


def test_the_terminal_shows_the_same_numbers(tmp_path: Path) -> None:
    runs = make_four(tmp_path)
    text = write_report(runs, tmp_path / "report.html")
    loaded = [load_run(run) for run in runs]
    assert text == final_table(loaded, compare(loaded, {}, "world-base"))
    lines = text.splitlines()
    assert lines[0] == "world-val, 2 pairs"
    assert lines[1].split() == ["seed", "step", "epe", "epe_image_mean", "1px", "3px", "5px", "fl", "wauc"]
    assert lines[2].split()[:5] == ["world-base", "mean", "of", "2", "400"]
    assert lines[5].split()[5] == "1.875*"
    assert "! Every run: not validated on kitti: no root given" in lines
    cut = load_run(make_run(tmp_path / "cut", steps=(100,), validated=()))
    assert final_table([cut], compare([cut], {}, "world-base")).startswith(
        "No validation yet.\n\n! cut: stopped or still running"
    )


def test_six_runs_of_twelve_hd_pairs_stay_below_8_mb(tmp_path: Path) -> None:
    """From one and two pairs: pictures as large as those of 1920x1080 frames, with more detail."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (90, 160, 3), dtype=np.uint8)
    photo = cv2.resize(coarse, (640, 360), interpolation=cv2.INTER_CUBIC) // 2
    photo += rng.integers(0, 16, (360, 640, 3), dtype=np.uint8)
    assert len(data_uri(photo, "photo")) > 50_000  # A real frame of this size has 45 000.
    runs = [make_run(tmp_path / f"{recipe}-{seed}", recipe, seed) for recipe, seed, _ in SIX]
    for run in runs:
        shutil.rmtree(run / "pairs")
        (run / "pairs" / SPLIT).mkdir(parents=True)
    sizes = []
    for name in ("one", "two"):
        for run in runs:
            noise = cv2.resize(rng.normal(0, 2, (36, 64, 2)).astype(np.float32), (640, 360))
            noise += rng.normal(0, 0.05, noise.shape)
            arrays = make_pair(name, size=(360, 640)) | {"image1": photo, "image2": photo[::-1]}
            arrays["flow"] = (arrays["flow_gt"] + noise).astype(np.float16)
            np.savez(run / "pairs" / SPLIT / f"{name}.npz", **arrays)
        write_report(runs, tmp_path / "report.html")
        sizes.append((tmp_path / "report.html").stat().st_size)
    assert sizes[0] + 11 * (sizes[1] - sizes[0]) < 8e6, f"with one and two pairs: {sizes} bytes"
