"""semraft.analysis.summary: what is written down of a comparison, and what is refused."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semraft.analysis.runs import Run, load_run
from semraft.analysis.summary import compare, summarize_study
from semraft.config import OptimConfig
from semraft.report.report import write_report
from tests.unit.analysis.fake_runs import (
    SPLIT,
    make_config,
    make_environment,
    make_run,
    make_study,
    rewrite,
)


def two_variants(folder: Path) -> list[Run]:
    """Base with seeds 0 and 42, semantic with seeds 42 and 7: only 42 is common."""
    scored = [("world-base", 0, 2.0), ("world-base", 42, 3.0)]
    scored += [("world-semantic-v1", 42, 2.5), ("world-semantic-v1", 7, 1.0)]
    return [
        load_run(make_run(folder / f"{recipe}-{seed}", recipe, seed, epe)) for recipe, seed, epe in scored
    ]


def comparison(numbers: dict[str, Any], variant: str, metric: str = "epe") -> dict[str, Any]:
    (found,) = [e for e in numbers["comparisons"] if (e["variant"], e["metric"]) == (variant, metric)]
    return dict(found)


def test_the_summary_holds_the_numbers_of_the_files(tmp_path: Path) -> None:
    numbers = compare(two_variants(tmp_path), {}, "world-base")
    runs = [(run["variant"], run["seed"], run["step"], run["metrics"]["epe"]) for run in numbers["runs"]]
    assert runs == [
        ("world-base", 0, 400, 2.0),
        ("world-base", 42, 400, 3.0),
        ("world-semantic-v1", 42, 400, 2.5),
        ("world-semantic-v1", 7, 400, 1.0),
    ]
    means = {mean["variant"]: (mean["seeds"], mean["metrics"]["epe"]) for mean in numbers["means"]}
    assert means == {"world-base": (2, 2.5), "world-semantic-v1": (2, 1.75)}
    assert numbers["means"][0]["spread"]["epe"] == pytest.approx(0.5**0.5)
    assert numbers["splits"] == {SPLIT: {"pairs": 2, "comparable": True}}


def test_a_difference_is_over_common_seeds_only(tmp_path: Path) -> None:
    """Red when: means over all seeds are subtracted (-0.75 instead of seed 42's -0.5)."""
    epe = comparison(compare(two_variants(tmp_path), {}, "world-base"), "world-semantic-v1")
    assert (epe["difference"], epe["seeds"], epe["by_seed"]) == (-0.5, 1, {"42": -0.5})
    assert (epe["low"], epe["p"], epe["effect"], epe["state"]) == (None, None, None, "undecided")


def test_without_a_common_seed_there_is_no_difference(tmp_path: Path) -> None:
    runs = two_variants(tmp_path)
    numbers = compare([runs[0], runs[3]], {}, "world-base")
    assert numbers["comparisons"] == []
    assert (
        numbers["verdict"]["text"] == "Nothing is compared: no variant shares a counted seed with world-base."
    )


def test_every_number_of_a_comparison(tmp_path: Path) -> None:
    """Differences -0.3, -0.25, -0.35 of five seeds: worked out with a pocket calculator and a t table.

    Red when: the sign of a difference, the base of the percentage, or the order of low and high is turned.
    """
    effects = (-0.3, -0.25, -0.35, -0.3, -0.3)
    study = make_study(tmp_path, {"base": (0.0,) * 5, "v1": effects})
    numbers = summarize_study(study)[1]
    epe = comparison(numbers, "v1")
    assert epe["difference"] == pytest.approx(-0.3)
    assert epe["spread"] == pytest.approx(0.0353553, abs=1e-6)
    half = 2.776445 * 0.0353553 / 5**0.5
    assert (epe["low"], epe["high"]) == pytest.approx((-0.3 - half, -0.3 + half), abs=1e-5)
    assert epe["relative_pct"][0] == pytest.approx(100 * -0.3 / 2.02)
    assert epe["effect"] == pytest.approx(-0.3 / 0.0353553 * 0.7978846, rel=1e-5)
    assert epe["p"] < 1e-4
    assert epe["p_holm"] == epe["crossed"]["p"] < 0.05
    assert epe["crossed"]["low"] <= min(epe["low"], epe["scenes"]["low"] + 0.01)
    assert max(epe["high"], epe["scenes"]["high"] - 0.01) <= epe["crossed"]["high"] < 0
    assert epe["scenes"]["count"] == 24
    assert epe["scenes"]["low"] < -0.3 < epe["scenes"]["high"] < 0
    assert epe["without_best_scene"]["scene"] == "scene of s/007"  # make_study's kindest to v1.
    assert epe["without_best_scene"]["difference"] > -0.3
    assert epe["probability"]["value"] > 0.8
    assert (epe["seeds"], epe["state"]) == (5, "better")
    assert "seeds_needed" not in epe  # Power of the effect just seen repeats its p.
    assert epe["seeds_for_pct"]["10"] <= epe["seeds_for_pct"]["5"] <= epe["seeds_for_pct"]["2"]
    assert epe["first_credible"] == {"looks": 2, "step": 200, "state": "better"}
    assert epe["area"]["difference"] == pytest.approx(-0.3)
    one_px = comparison(numbers, "v1", "1px")
    assert one_px["difference"] > 0
    assert one_px["first_credible"]["state"] == "better"  # Higher is.
    assert comparison(numbers, "v1", "epe_iter_000")["scenes"]["count"] == 24
    assert not [e for e in numbers["comparisons"] if e["metric"].startswith(("valid", "non_finite"))]


def test_the_verdict_says_how_sure_it_is(tmp_path: Path) -> None:
    effects = {
        "base": (0.0,) * 5,
        "good": (-0.3, -0.25, -0.35, -0.3, -0.31),
        "null": (0.1, -0.1, 0.2, -0.2, 0.01),
    }
    numbers = summarize_study(make_study(tmp_path, effects))[1]
    good, null = numbers["verdict"]["variants"]
    assert good["state"] == "better"
    epe = comparison(numbers, "good")
    ends = (epe["difference"], epe["crossed"]["low"], epe["crossed"]["high"])
    spans = [f"{v:+.3f}".replace("-", "\N{MINUS SIGN}") for v in ends]
    assert good["text"].startswith(
        f"good is better than base on world-val: EPE {spans[0]} px (\N{MINUS SIGN}15.0 %); "
        f"95 % interval {spans[1]} to {spans[2]} over 5 seeds and 24 scenes; "
    )
    assert null["state"] == "undecided"
    assert null["text"].startswith("null can't be told from base on world-val: EPE +0.002 px (+0.1 %);")
    assert "would have been seen four times in five" in null["text"]
    assert "it may be chance between 5 seeds and 24 scenes (p " in null["text"]
    assert "it is gone without" not in null["text"]  # It was never there.
    assert numbers["verdict"]["text"] == f"{good['text']} {null['text']}"


def test_a_variant_may_be_compared_with_another_than_base(tmp_path: Path) -> None:
    """As in a study of two data sets with a base each. Red when: everything is compared with the one base."""
    effects = {"base": (0.0,) * 3, "other": (0.5, 0.4, 0.6), "other-v1": (0.2, 0.2, 0.2)}
    study = make_study(tmp_path, effects)
    described = json.loads((study / "study.json").read_text())
    (study / "study.json").write_text(json.dumps(described | {"against": {"other-v1": "other"}}))
    numbers = summarize_study(study)[1]
    assert numbers["against"] == {"other": "base", "other-v1": "other"}
    assert comparison(numbers, "other-v1")["difference"] == pytest.approx(-0.3)
    assert comparison(numbers, "other")["difference"] == pytest.approx(0.5)
    pair = numbers["pairs"][0]
    assert pair["difference"]["other-v1"] == pytest.approx(pair["epe"]["other-v1"] - pair["epe"]["other"])
    texts = [said["text"].partition(" on ")[0] for said in numbers["verdict"]["variants"]]
    assert texts == ["other is worse than base", "other-v1 is better than other"]
    write_report([study], tmp_path / "report.html")
    assert "against other" in (tmp_path / "report.html").read_text()


def test_p_values_are_corrected_over_the_variants(tmp_path: Path) -> None:
    """Red when: every variant is tested as if it were the only one."""
    effects = (-0.3, -0.1, -0.2)
    alone = make_study(tmp_path / "a", {"base": (0.0,) * 3, "v1": effects})
    among = make_study(tmp_path / "b", {"base": (0.0,) * 3, "v1": effects, "v2": (0.1, -0.1, 0.3)})
    one = comparison(summarize_study(alone)[1], "v1")
    two = comparison(summarize_study(among)[1], "v1")
    assert one["p_holm"] == one["crossed"]["p"] == two["crossed"]["p"]
    assert two["p_holm"] == pytest.approx(2 * two["crossed"]["p"])


def test_one_scene_carries_no_verdict(tmp_path: Path) -> None:
    """Red when: frames of one scene are drawn as if they were scenes."""
    effects = {"base": (0.0,) * 5, "v1": (-0.3, -0.25, -0.35, -0.3, -0.31)}
    study = make_study(tmp_path, effects)
    for path in (study / "runs").glob("*/per_sample.csv"):
        lines = [line.split(",") for line in path.read_text().splitlines()]
        path.write_text(
            "\n".join(
                ",".join([*row[:2], "scene" if n == 0 else "one", *row[3:]]) for n, row in enumerate(lines)
            )
        )
    epe = comparison(summarize_study(study)[1], "v1")
    assert epe["scenes"] == {"count": 1, "low": None, "high": None}
    assert epe["without_best_scene"] is None
    assert epe["state"] == "undecided"


def test_a_gain_that_one_scene_makes_is_no_gain(tmp_path: Path) -> None:
    """Clear of zero over seeds and over scenes; of the latter no longer without scene 7.

    Red when: what is left without the most favourable scene is not asked.
    """
    kind = 0.7 * np.cos(1.7 * (np.arange(24) - 7) + np.pi)
    kind[7] = -2.4
    effects = (-0.3, -0.25, -0.35, -0.3, -0.31)
    study = make_study(tmp_path, {"base": (0.0,) * 5, "v1": effects}, kind=kind)
    numbers = summarize_study(study)[1]
    epe = comparison(numbers, "v1")
    assert epe["high"] < 0
    assert epe["scenes"]["high"] < 0
    assert epe["without_best_scene"]["scene"] == "scene of s/007"
    assert epe["crossed"]["high"] < 0 < epe["without_best_scene"]["high"]
    assert epe["state"] == "undecided"
    assert "it is gone without scene scene of s/007" in numbers["verdict"]["text"]


def test_rows_of_another_evaluation_are_not_taken(tmp_path: Path) -> None:
    """Red when: rows left by an earlier evaluation tell the scenes of a later one."""
    study = make_study(tmp_path, {"base": (0.0,) * 3, "v1": (-0.3, -0.2, -0.25)})
    rewrite(load_run(study / "runs" / "v1-seed1"), SPLIT, epe=1.7)
    numbers = summarize_study(study)[1]
    assert comparison(numbers, "v1")["scenes"] is None
    assert comparison(numbers, "v1", "fl")["scenes"]["count"] == 24


def test_duplicate_seeds_are_named_and_not_counted(tmp_path: Path) -> None:
    """Red when: a seed whose order and batches are another's counts as a replicate."""
    study = make_study(tmp_path, {"base": (0.0,) * 3, "v1": (-0.3, -0.2, -0.25)})
    path = study / "runs" / "v1-seed2" / "environment.json"
    environment = json.loads(path.read_text())
    environment["fingerprints"]["sample_order"] = "sample_order 0"
    path.write_text(json.dumps(environment))
    numbers = summarize_study(study)[1]
    assert numbers["duplicate_seeds"] == [{"variant": "v1", "seed": 2, "of": 0, "same": ["sample order"]}]
    assert comparison(numbers, "v1")["by_seed"].keys() == {"0", "1"}
    assert [run["seed"] for run in numbers["runs"] if not run["counted"]] == [2]
    assert {mean["variant"]: mean["seeds"] for mean in numbers["means"]} == {"base": 3, "v1": 2}
    assert "2 seeds prove nothing" in numbers["verdict"]["text"]


def test_weights_from_a_file_may_be_the_same_for_all_seeds(tmp_path: Path) -> None:
    config = make_config()
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, weights="things.pth"))
    runs = []
    for seed in (0, 1):
        environment = make_environment(seed=seed)
        environment["fingerprints"]["initial_weights"] = "the same"
        path = tmp_path / f"base-seed{seed}"
        runs.append(make_run(path, environment=environment, config=dataclasses.replace(config, seed=seed)))
    assert compare([load_run(run) for run in runs], {}, "base")["duplicate_seeds"] == []
    for path in runs:
        text = (path / "config.json").read_text().replace('"things.pth"', '""')
        (path / "config.json").write_text(text)
    assert compare([load_run(run) for run in runs], {}, "base")["duplicate_seeds"][0]["same"] == [
        "initial weights"
    ]


def test_variants_of_a_seed_that_saw_other_batches_are_no_pair(tmp_path: Path) -> None:
    """Red when: a seed counts although its two runs share neither order nor batches."""
    study = make_study(tmp_path, {"base": (0.0,) * 3, "v1": (-0.3, -0.2, -0.25)})
    path = study / "runs" / "v1-seed1" / "environment.json"
    path.write_text(path.read_text().replace("first_batches 1", "something else"))
    numbers = summarize_study(study)[1]
    assert numbers["unpaired_runs"] == [{"variant": "v1", "seed": 1, "differs": ["first batches"]}]
    assert comparison(numbers, "v1")["by_seed"].keys() == {"0", "2"}


def test_runs_that_did_not_record_what_they_began_with_are_named(tmp_path: Path) -> None:
    numbers = compare(two_variants(tmp_path), {}, "world-base")
    assert numbers["without_fingerprints"] == [
        "world-base-0", "world-base-42", "world-semantic-v1-42", "world-semantic-v1-7"
    ]  # fmt: skip


@pytest.mark.parametrize("what", ["setting", "pairs", "training data"])
def test_runs_of_another_protocol_are_refused(tmp_path: Path, what: str) -> None:
    study = make_study(tmp_path, {"base": (0.0,) * 2, "v1": (-0.3, -0.2)})
    path = study / "runs" / "v1-seed1"
    if what == "setting":
        config = dataclasses.replace(make_config("v1", 1), optim=OptimConfig(steps=400, batch=5))
        (path / "config.json").write_text(json.dumps(dataclasses.asdict(config)))
        expected = "v1-seed1 is of another protocol: optim.batch is 5, expected 6"
    elif what == "pairs":
        (path / "environment.json").write_text(json.dumps(make_environment(seed=1)))
        expected = "differ in pairs, data or step of their last validation on world-val"
    else:
        text = (path / "environment.json").read_text().replace('"t0"', '"t1"')
        (path / "environment.json").write_text(text)
        expected = "training data called world is not the same in base-seed0 and v1-seed1"
    with pytest.raises(ValueError, match=expected):
        summarize_study(study)


def test_unfinished_runs_are_missing_and_what_is_none_is_refused(tmp_path: Path) -> None:
    study = make_study(tmp_path, {"base": (0.0,) * 2, "v1": (-0.3, -0.2)})
    shutil.rmtree(study / "runs" / "v1-seed0")
    lines = (study / "runs" / "v1-seed1" / "metrics.jsonl").read_text().splitlines()
    (study / "runs" / "v1-seed1" / "metrics.jsonl").write_text("\n".join(lines[:2]) + "\n")
    numbers = summarize_study(study)[1]
    assert numbers["missing"] == ["v1-seed0", "v1-seed1"]
    assert {run["variant"] for run in numbers["runs"]} == {"base"}
    assert numbers["runs"][0]["path"] == "runs/base-seed0"
    for name in ("base-seed0", "base-seed1"):
        shutil.rmtree(study / "runs" / name)
    with pytest.raises(ValueError, match="no run is finished"):
        summarize_study(study)
    with pytest.raises(ValueError, match=r"is no study: it has no study\.json"):
        summarize_study(tmp_path / "nothing")
    with pytest.raises(ValueError, match="no run of 'other' to compare with: there are base"):
        compare([load_run(make_run(tmp_path / "base-seed9", seed=9))], {}, "other")


def test_the_summary_does_not_depend_on_place_or_order_of_work(tmp_path: Path) -> None:
    """Red when: absolute paths, folder order or global random numbers get into summary.json."""
    effects = {"base": (0.0,) * 3, "v1": (-0.3, -0.2, -0.25)}
    texts = []
    for place in ("a", "b"):
        study = make_study(tmp_path / place, effects)
        np.random.default_rng().random()
        summarize_study(study)
        texts.append((study / "summary.json").read_text())
        summarize_study(study)
        assert (study / "summary.json").read_text() == texts[-1]
    assert texts[0] == texts[1]
