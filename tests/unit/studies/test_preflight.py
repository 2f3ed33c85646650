"""Runs that may be compared, and the many ways in which they may not."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from semraft.config import DataConfig, LossConfig, ModelConfig, RunConfig, to_json
from semraft.studies.catalog import STUDIES
from semraft.studies.job import Job
from semraft.studies.preflight import StudyStopped, check_comparable
from semraft.studies.study import START

BASE = RunConfig()
OTHER = replace(BASE, loss=LossConfig(gamma=0.9))
DATA: dict[str, Any] = {
    "train": [{"name": "viper", "fingerprint": "a"}],
    "validation": {"kitti": {"ids": ["1"], "fingerprint": "k"}},
}


def prints(seed: int, **changed: str) -> dict[str, str]:
    names = ("initial_weights", "sample_order", "first_batches")
    return {name: f"{name} {seed}" for name in names} | changed


def settled(config: RunConfig) -> RunConfig:
    return replace(config, precision="float32", model=replace(config.model, batch_norm="train"))


def begin(
    study: Path,
    variant: str,
    seed: int,
    wanted: RunConfig = BASE,
    ran: RunConfig | None = None,
    **record: Any,
) -> Job:
    """A run that has begun as it should: fingerprints of its seed, the same data everywhere."""
    job = Job(study=study, variant=variant, seed=seed, steps=9)
    job.config.parent.mkdir(parents=True, exist_ok=True)
    job.run.mkdir(parents=True)
    job.config.write_text(to_json(replace(wanted, seed=seed)))
    (job.run / "config.json").write_text(to_json(replace(ran or settled(wanted), seed=seed)))
    (job.run / "environment.json").write_text(
        json.dumps({"data": DATA, "fingerprints": prints(seed), **record})
    )
    return job


@pytest.fixture
def good(tmp_path: Path) -> Sequence[Job]:
    missing = Job(study=tmp_path, variant="other", seed=9, steps=9)
    runs = [begin(tmp_path, "base", 0), begin(tmp_path, "base", 1)]
    return [*runs, begin(tmp_path, "other", 0, OTHER), begin(tmp_path, "other", 1, OTHER), missing]


def test_runs_as_they_should_be(good: Sequence[Job]) -> None:
    check_comparable([], "base")
    check_comparable(good, "base")


@pytest.mark.parametrize("name", ["initial_weights", "sample_order", "first_batches"])
def test_duplicate_seeds_are_no_replicates(name: str, good: Sequence[Job], tmp_path: Path) -> None:
    """The study's three seeds were one. Red when: only one of the three digests is looked at."""
    duplicate = begin(tmp_path, "base", 2, fingerprints=prints(2, **{name: f"{name} 0"}))
    with pytest.raises(StudyStopped, match=f"base: seeds 0 and 2 have the same {name.replace('_', ' ')}"):
        check_comparable([*good, duplicate], "base")


def test_seeds_that_start_from_given_weights_share_them(tmp_path: Path) -> None:
    """Red when: fine-tuning from one file is taken for duplicate_seeds."""
    wanted = replace(BASE, model=ModelConfig(weights="raft-things.pth"))
    same = {"initial_weights": "given"}
    runs = [begin(tmp_path, "base", seed, wanted, fingerprints=prints(seed, **same)) for seed in (0, 1)]
    check_comparable(runs, "base")


@pytest.mark.parametrize("name", ["initial_weights", "sample_order", "first_batches"])
def test_variants_of_one_seed_share_what_they_start_from(
    name: str, good: Sequence[Job], tmp_path: Path
) -> None:
    """Red when: a variant that draws other batches, and so is more than a variant, is compared."""
    odd = begin(tmp_path, "odd", 0, OTHER, fingerprints=prints(0, **{name: "else"}))
    with pytest.raises(StudyStopped, match="seed 0: odd and base differ"):
        check_comparable([*good, odd], "base")


def test_another_network_or_mixture_has_its_own_digests(good: Sequence[Job], tmp_path: Path) -> None:
    """Red when: a variant with another network must share weights, with other data batches."""
    network = replace(BASE, model=ModelConfig(arch="small"))
    small = begin(tmp_path, "small", 0, network, fingerprints=prints(0, initial_weights="small"))
    wanted = replace(BASE, data=replace(BASE.data, train="kitti"))
    data = {**DATA, "train": [{"name": "kitti", "fingerprint": "k"}]}
    own = prints(0, sample_order="kitti", first_batches="kitti")
    kitti = begin(tmp_path, "kitti", 0, wanted, data=data, fingerprints=own)
    check_comparable([*good, small, kitti], "base")


@pytest.mark.parametrize("name", ["initial_weights", "sample_order", "first_batches"])
def test_a_study_of_several_data_sets_is_held_to_what_each_pair_should_share(
    name: str, tmp_path: Path
) -> None:
    """The original study's six variants: batches are those of the data, weights those of the seed.

    Red when: variants on other data must share batches with base, or V1 on other data is held against the
    study's base alone, with which it shares no data.
    """
    origin = STUDIES["origin"]
    jobs = []
    for variant, config in origin.variants.items():
        data = [{"name": part, "fingerprint": part} for part in config.data.train.split("+")]
        own = {field: f"{field} of {config.data.train}" for field in ("sample_order", "first_batches")}
        record = {"data": {**DATA, "train": data}, "fingerprints": prints(0, **own)}
        jobs.append(begin(tmp_path, variant, 0, config, **record))
    check_comparable(jobs, origin.base)
    path = jobs[3].run / "environment.json"
    environment = json.loads(path.read_text())
    environment["fingerprints"][name] = "else"
    path.write_text(json.dumps(environment))
    assert (jobs[3].variant, origin.against[jobs[3].variant]) == (
        "virtual-kitti-semantic-v1",
        "virtual-kitti-base",
    )
    with pytest.raises(StudyStopped, match=r"seed 0: .*virtual-kitti-semantic-v1"):
        check_comparable(jobs, origin.base)


def test_runs_of_another_protocol_are_refused(tmp_path: Path) -> None:
    """Red when: a field is not compared, `auto` matches what the study fixed, or a run's place matters."""
    shorter = replace(settled(BASE), optim=replace(BASE.optim, steps=60))
    with pytest.raises(ValueError, match=r"run with optim\.steps 60, its study has 100000"):
        check_comparable([begin(tmp_path, "short", 0, ran=shorter)], "short")
    moved = replace(settled(BASE), output="/there", data=replace(DataConfig(), root="/other", workers=0))
    check_comparable([begin(tmp_path, "moved", 0, ran=moved)], "moved")
    fixed = replace(BASE, precision="bfloat16")
    with pytest.raises(ValueError, match="precision"):
        check_comparable([begin(tmp_path, "fixed", 0, fixed, ran=settled(BASE))], "fixed")


def test_machines_that_settle_auto_differently_are_refused(good: Sequence[Job], tmp_path: Path) -> None:
    """Red when: half of a study runs in bfloat16 because its machine can."""
    half = begin(tmp_path, "base", 3, ran=replace(settled(BASE), precision="bfloat16"))
    with pytest.raises(ValueError, match="`precision` came out differently"):
        check_comparable([*good, half], "base")
    fixed = replace(OTHER, precision="bfloat16")
    meant = begin(tmp_path, "half", 0, fixed, ran=replace(settled(OTHER), precision="bfloat16"))
    check_comparable([*good, meant], "base")


def test_different_data_under_one_name_are_refused(good: Sequence[Job], tmp_path: Path) -> None:
    """Red when: fingerprints of the data, or the ids of the validation draw, are not compared."""
    for number, data in enumerate(
        (
            {**DATA, "validation": {"kitti": {"ids": ["2"], "fingerprint": "k"}}},
            {**DATA, "train": [{"name": "viper", "fingerprint": "b"}]},
        )
    ):
        with pytest.raises(ValueError, match="different data"):
            check_comparable([*good, begin(tmp_path, "base", 10 + number, data=data)], "base")


def test_a_run_without_fingerprints_proves_nothing(good: Sequence[Job], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="base-seed4: no fingerprints"):
        check_comparable([*good, begin(tmp_path, "base", 4, fingerprints={})], "base")


def test_a_run_starts_from_the_start_of_its_own_seed(tmp_path: Path) -> None:
    """Red when: any weights will do for a run that has a start, or a study may not be moved."""
    wanted = replace(BASE, model=ModelConfig(weights=START))
    inside = "start/runs/base-seed{}/checkpoints/last.pt"

    def begun(variant: str, weights: str) -> Job:
        model = replace(settled(wanted).model, weights=weights)
        job = begin(tmp_path, variant, 0, wanted, ran=replace(settled(wanted), model=model))
        return replace(job, start=tmp_path / inside.format(0))

    check_comparable([begun("moved", f"/elsewhere/study/{inside.format(0)}")], "moved")
    with pytest.raises(ValueError, match=r"run with model\.weights .*base-seed1"):
        check_comparable([begun("unpaired", str(tmp_path / inside.format(1)))], "unpaired")
    with pytest.raises(ValueError, match=r"run with model\.weights"):
        check_comparable([replace(begun("untold", str(tmp_path / inside.format(0))), start=None)], "untold")
