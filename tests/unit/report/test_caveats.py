"""semraft.report.caveats: every limit of a comparison is said, and a sound one is not nagged at."""

import json
from pathlib import Path

from semraft.analysis.runs import Run, load_run
from semraft.analysis.summary import compare, finished_runs
from semraft.report.caveats import Caveat, caveats, replicate_caveats
from tests.unit.analysis.fake_runs import make_environment, make_run, make_study


def texts(runs: list[Run], level: str) -> str:
    return "\n".join(caveat.text for caveat in caveats(runs) if caveat.level == level)


def test_sound_runs_only_tell_what_was_left_out(tmp_path: Path) -> None:
    runs = [
        load_run(make_run(tmp_path / f"{recipe}{seed}", recipe, seed))
        for recipe in ("world-base", "world-semantic-v1")
        for seed in (0, 42)
    ]
    expected = [Caveat(level="warning", text="Every run: not validated on kitti: no root given")]
    assert caveats(runs) == expected


def test_a_study_names_runs_that_are_not_healthy(tmp_path: Path) -> None:
    """In its caveats, which the terminal shows too, and in summary.json.

    Red when: a verdict's state, step or cause is lost on the way, or a healthy run is named.
    """
    study = make_study(tmp_path, {"base": (0.0, 0.1), "v1": (0.2, 0.3)})
    (study / "runs" / "base-seed0" / "verdict.json").write_text('{"state": "healthy", "causes": []}')
    (study / "runs" / "v1-seed1" / "verdict.json").write_text(
        '{"state": "worse", "first_step": 300, "causes": [{"name": "term-too-heavy"}]}'
    )
    runs = finished_runs(study)
    said = texts(runs, "warning")
    assert "v1-seed1: health worse since step 300: term too heavy" in said
    assert said.count("health worse") == 1
    assert compare(runs, {}, "base")["not_healthy"] == [
        {"variant": "v1", "seed": 1, "state": "worse", "first_step": 300, "cause": "term too heavy"}
    ]


def test_a_run_that_went_back_says_so(tmp_path: Path) -> None:
    """Red when: a run that was changed on the way stands beside others as if it had not been."""
    run = make_run(tmp_path / "run")
    (run / "verdict.json").write_text(
        '{"state": "healthy", "causes": [], "rollbacks": ["went back from step 30 to 20"]}'
    )
    assert "went back from step 30 to 20." in texts([load_run(run)], "warning")


def test_one_seed_each_proves_nothing(tmp_path: Path) -> None:
    runs = [load_run(make_run(tmp_path / recipe, recipe)) for recipe in ("world-base", "world-semantic-v1")]
    assert "world-base, world-semantic-v1: a single seed proves nothing" in texts(runs, "warning")
    assert "single seed" not in texts(runs[:1], "warning")


def test_different_validation_pairs_and_data_stop_the_comparison(tmp_path: Path) -> None:
    base = load_run(make_run(tmp_path / "base"))
    draw = load_run(make_run(tmp_path / "a", seed=1, environment=make_environment(ids=("scene/9",))))
    data = load_run(make_run(tmp_path / "b", seed=2, environment=make_environment(fingerprint="f1")))
    assert "world-val: the runs were validated on different pairs" in texts([base, draw], "stop")
    assert "world-val: the validation data differs" in texts([base, data], "stop")
    assert caveats([base, draw])[0].level == "stop"


def test_different_training_data_of_one_name_stops_the_comparison(tmp_path: Path) -> None:
    environment = make_environment()
    environment["data"]["train"][0]["fingerprint"] = "t1"
    runs = [load_run(make_run(tmp_path / "a")), load_run(make_run(tmp_path / "b", environment=environment))]
    assert "The training data called world differs" in texts(runs, "stop")


def test_unfinished_and_broken_runs_are_named(tmp_path: Path) -> None:
    path = make_run(tmp_path / "cut", steps=(100,), validated=())
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 200, "split": "train", "total_loss": null}\n{"step": 300, "spl')
    (path / "skipped.jsonl").write_text(
        '{"step": 3, "id": "scene/000007", "path": "x.png", "reason": "truncated"}\n'
    )
    said = texts([load_run(path)], "warning")
    assert "cut: stopped or still running at step 200 of 400." in said
    assert "cut: no validation yet." in said
    assert "cut: line 3 of metrics.jsonl is torn and was ignored." in said
    assert "cut: total_loss was not finite at 1 logged step, first at step 200." in said
    assert "cut: 1 damaged sample skipped (such as scene/000007)." in said


def test_last_validations_of_different_steps(tmp_path: Path) -> None:
    runs = [load_run(make_run(tmp_path / "a")), load_run(make_run(tmp_path / "b", validated=(200,)))]
    assert "world-val: the last validations are of different steps (200, 400)" in texts(runs, "warning")


def test_uneven_and_repeated_seeds(tmp_path: Path) -> None:
    seeds = [("world-base", 0), ("world-base", 0), ("world-semantic-v1", 1)]
    runs = [
        load_run(make_run(tmp_path / str(index), recipe, seed)) for index, (recipe, seed) in enumerate(seeds)
    ]
    said = texts(runs, "warning")
    assert "world-base: one seed appears more than once among seeds [0, 0]" in said
    assert "not run with the same seeds (world-base: 0, 0; world-semantic-v1: 1)" in said


def test_versions_warnings_and_unreadable_validation_pairs(tmp_path: Path) -> None:
    environment = make_environment() | {"torch": "2.14.0", "warnings": ["the <disk> is slow"]}
    first = load_run(make_run(tmp_path / "a"))
    path = make_run(tmp_path / "b", seed=1, environment=environment)
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    lines[-1] |= {"skipped": 1.0, "pairs": 1.0, "non_finite": 12}
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    runs = [first, load_run(path)]
    assert "The runs differ in torch: 2.13.0, 2.14.0." in texts(runs, "note")
    said = texts(runs, "warning")
    assert "b: the <disk> is slow" in said
    assert "b: 1 pair of world-val could not be read: in no number." in said
    assert "b: the flow of world-val is NaN or infinite at 12 pixels." in said


def test_runs_that_do_not_count_are_named_once(tmp_path: Path) -> None:
    study = make_study(tmp_path, {"base": (0.0,) * 3, "v1": (-0.3, -0.2, -0.25)})
    for name, seed, field in (("v1-seed2", 2, "sample_order"), ("v1-seed1", 1, "first_batches")):
        path = study / "runs" / name / "environment.json"
        other = "sample_order 0" if field == "sample_order" else "another"
        path.write_text(path.read_text().replace(f"{field} {seed}", other))
    runs = finished_runs(study)
    numbers = compare(runs, {}, "base") | {"missing": ["v1-seed9"]}
    said = [caveat.text for caveat in replicate_caveats(numbers)]
    assert said[0] == "v1 seed 2 is seed 0 again (same sample order): it is not counted."
    assert "v1 seed 1 does not share first batches with base" in "\n".join(said)
    assert said[-1] == "Not finished, and in no number: v1-seed9."


def test_seeds_without_fingerprints_have_a_caveat(tmp_path: Path) -> None:
    bare = [load_run(make_run(tmp_path / f"base-seed{seed}", seed=seed)) for seed in (0, 1)]
    (caveat,) = replicate_caveats(compare(bare, {}, "base"))
    assert caveat.text.startswith("No run has fingerprints")
