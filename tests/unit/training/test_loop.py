"""The loop itself, in this process: what the network is given, and what a resumed run takes up again."""

import json
import signal
from collections.abc import Generator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import semraft
from semraft.agreement import OutOfTime, TrainingStopped
from semraft.config import DataConfig, ModelConfig, OptimConfig, RunConfig, WorldConfig, load_config
from semraft.data.loader import TrainingBatch, training_batches
from semraft.evaluation.evaluate import Evaluation
from semraft.losses.objective import Objective, objective
from semraft.models.raft import RAFT
from semraft.models.weights import build_model
from semraft.monitor import step_stats
from semraft.runtime import Processes
from semraft.step_result import StepResult
from semraft.training import loop, session, state, step

CONFIG = RunConfig(
    data=DataConfig(crop=(64, 64), workers=0, validation_pairs=1, world=WorldConfig(size=(64, 72), scenes=4)),
    model=ModelConfig(arch="tiny"),
    optim=OptimConfig(steps=4, batch=1, learning_rate=1e-3),
    num_updates=1,
    validation_updates=1,
    precision="float32",
    device="cpu",
    log_every=3,
    checkpoint_every=1,
    saved_pairs=0,
)


class Killed(Exception):
    pass


def last(run: Path) -> dict[str, Any]:
    saved: dict[str, Any] = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    return saved


@pytest.mark.usefixtures("scaled")
def test_a_resumed_run_takes_up_optimiser_schedule_scaler_and_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after 2 of 4 steps. Red when: any of the four starts anew (a warm restart of the warm-up), or
    what the first two steps told of themselves is not in the line of all four."""
    monkeypatch.setattr(step_stats, "LINES", 1)
    whole, cut_short = tmp_path / "whole", tmp_path / "cut-short"
    loop.train(CONFIG, whole)

    def two_batches(*arguments: Any) -> Generator[TrainingBatch, None, None]:
        for number, batch in enumerate(training_batches(*arguments)):
            if number == 3:  # It is read before the third step is taken.
                raise Killed
            yield batch

    with pytest.raises(Killed):
        loop.train(CONFIG, cut_short, open_batches=two_batches)
    assert last(cut_short)["step"] == 2
    loop.train(CONFIG, cut_short, resume=True)

    expected, found = last(whole), last(cut_short)
    assert expected["scaler"]["scale"] == 2.0**9  # It grew once, at step 3, and counts from there.
    assert found["scaler"] == expected["scaler"]
    groups = [state["optimizer"]["param_groups"][0] for state in (expected, found)]
    assert groups[0]["lr"] == groups[1]["lr"]
    moments = [state["optimizer"]["state"] for state in (expected, found)]
    assert moments[0].keys() == moments[1].keys() != set()
    for number, values in moments[0].items():
        assert float(values["step"]) == 4
        assert all(torch.equal(value, moments[1][number][name]) for name, value in values.items())
    assert all(torch.equal(value, found["model"][name]) for name, value in expected["model"].items())
    assert (cut_short / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
    assert (cut_short / "pulse.jsonl").read_text() == (whole / "pulse.jsonl").read_text()
    assert json.loads((whole / "pulse.jsonl").read_text())["seen_samples"] == 4


def test_a_process_that_does_not_write_keeps_nothing_to_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of two. Red when: it writes, or what its steps told of themselves fills its memory."""
    kept: list[int] = []

    def counted(state: state.TrainingState, *arguments: Any) -> StepResult:
        kept.append(len(state.statistics))
        return step.training_step(state, *arguments)

    monkeypatch.setattr(loop.runtime, "join_processes", lambda device: Processes(rank=1, count=2))
    data = replace(CONFIG.data, validation_pairs=2)  # One for it.
    config = replace(CONFIG, data=data, optim=replace(CONFIG.optim, batch=2))
    loop.train(config, tmp_path / "run", step=counted)
    assert kept == [0, 0, 0, 0]
    assert not (tmp_path / "run").exists()


def test_a_run_from_given_weights_is_validated_before_its_first_step(tmp_path: Path) -> None:
    """And resumed without them. Red when: a run can't be compared with the weights that it began with, a
    resumed run is validated at its start again, builds it from a file that may have moved, or judges batch
    norm anew."""
    weights, run = tmp_path / "start.pt", tmp_path / "run"
    begun = build_model(CONFIG.model, 0).state_dict()
    torch.save({"semraft": 1, "arch": "tiny", "model": begun}, weights)
    config = replace(CONFIG, model=replace(CONFIG.model, weights=str(weights)))
    loop.train(config, run)
    weights.unlink()
    assert validated_at(run) == [0, 4]
    kept = torch.load(run / "checkpoints" / "step-000000.pt", weights_only=True)
    assert all(torch.equal(value, begun[name]) for name, value in kept["model"].items())
    recorded = load_config(run / "config.json")
    assert recorded.model.batch_norm == "freeze"
    loop.train(replace(recorded, optim=replace(recorded.optim, steps=5)), run, resume=True)
    assert last(run)["step"] == 5
    assert validated_at(run) == [0, 4, 5]
    loop.train(replace(CONFIG, optim=replace(CONFIG.optim, steps=1)), tmp_path / "from-scratch")
    assert validated_at(tmp_path / "from-scratch") == [1]


def validated_at(run: Path) -> list[int]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if line["split"] != "train"]


@pytest.mark.parametrize("with_scaler", [False, True])
def test_a_loss_that_is_not_finite_moves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, with_scaler: bool
) -> None:
    """Red when: the weights move, or only the gradient is looked at, which a scaler passes over for ever."""
    if with_scaler:
        request.getfixturevalue("scaled")

    def broken(*arguments: Any) -> Objective:
        losses = objective(*arguments)
        return Objective(total=losses.total * torch.nan, values=losses.values)

    monkeypatch.setattr(step, "objective", broken)
    with pytest.raises(TrainingStopped, match="not finite at step 1, samples train/"):
        loop.train(CONFIG, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints" / "last.pt").exists()


def test_the_network_is_trained_from_frame_1_to_frame_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when: the loop gives the network frame 2 first (every loss then learns backward flow's motion)."""
    loaded: list[TrainingBatch] = []
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def kept(*arguments: Any) -> Generator[TrainingBatch, None, None]:
        for batch in training_batches(*arguments):
            loaded.append(batch)
            yield batch

    def watched(*arguments: Any) -> RAFT:
        model = build_model(*arguments)
        model.register_forward_pre_hook(
            lambda module, inputs: seen.append((inputs[0], inputs[1])) if module.training else None
        )
        return model

    monkeypatch.setattr(state, "build_model", watched)
    loop.train(CONFIG, tmp_path / "run", open_batches=kept)
    assert len(seen) == len(loaded) == 4
    for (first, second), (batch, _) in zip(seen, loaded, strict=True):
        assert torch.equal(first, batch.image1)
        assert torch.equal(second, batch.image2)
        assert not torch.equal(first, second)


def test_heads_change_nothing_that_variants_of_a_seed_share(tmp_path: Path) -> None:
    """Red when: fingerprints of initial weights count heads, or heads draw from what the rest is drawn from:
    runs with and without them could not be compared seed by seed."""
    records = []
    for name, heads, conditioning in (("without", (), "none"), ("with", ("occlusion", "decoder"), "decoder")):
        model = replace(CONFIG.model, heads=heads, conditioning=conditioning)
        config = replace(CONFIG, model=model, optim=replace(CONFIG.optim, steps=1))
        loop.train(config, tmp_path / name)
        records.append(json.loads((tmp_path / name / "environment.json").read_text())["fingerprints"])
    assert records[0] == records[1]
    assert set(records[0]) == {"initial_weights", "sample_order", "first_batches"}


def test_a_run_in_sittings_of_a_step_is_the_run_in_one(tmp_path: Path) -> None:
    """With a moving average of the weights, and no time at all: each sitting takes the one step it began.

    Red when: the average starts anew from the weights, or the weights from the average; a sitting ends
    without its checkpoint, or its last step leaves something to resume.
    """
    config = replace(CONFIG, optim=replace(CONFIG.optim, steps=3, ema=0.9), validate_every=2, log_every=2)
    whole, sittings = tmp_path / "whole", tmp_path / "sittings"
    loop.train(config, whole)
    for step_number in (1, 2):
        with pytest.raises(OutOfTime, match=rf"after step {step_number}, .*--resume {sittings}`$"):
            loop.train(config, sittings, resume=step_number > 1, max_minutes=0.0)
        assert last(sittings)["step"] == step_number
    loop.train(config, sittings, resume=True, max_minutes=0.0)
    expected, found = last(whole), last(sittings)
    for key in ("model", "unaveraged"):
        assert expected[key].keys() == found[key].keys() != set()
        assert all(torch.equal(value, found[key][name]) for name, value in expected[key].items())
    assert (sittings / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()


def test_a_sitting_ends_when_its_minutes_are_over(tmp_path: Path) -> None:
    """Steps of 20 seconds, by a clock of our own. Red when: minutes are seconds, or are counted anew."""
    times_s = iter([100.0, 120.0, 140.0, 160.0, 180.0])
    with pytest.raises(OutOfTime, match=r"stopped after step 3"):
        loop.train(CONFIG, tmp_path / "run", max_minutes=1.0, clock=lambda: next(times_s))


def test_the_average_is_what_is_scored_and_handed_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when: validation or `semraft.load` take the weights that the optimiser moves, or both are one."""
    scored: list[dict[str, torch.Tensor]] = []

    def watched(model: RAFT, *arguments: Any) -> dict[str, Evaluation]:
        scored.append({name: value.clone() for name, value in model.state_dict().items()})
        return {}

    monkeypatch.setattr(session, "validate", watched)
    loop.train(replace(CONFIG, optim=replace(CONFIG.optim, ema=0.9)), tmp_path / "run")
    checkpoint = last(tmp_path / "run")
    loaded = semraft.load(tmp_path / "run" / "checkpoints" / "last.pt").state_dict()
    for name, value in scored[-1].items():
        assert torch.equal(loaded[name], value)
        assert torch.equal(checkpoint["model"][name], value)
    assert any(not torch.equal(value, loaded[name]) for name, value in checkpoint["unaveraged"].items())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_stop_that_comes_twice_is_one(number: signal.Signals) -> None:
    """Red when: of several processes one is interrupted in the middle of its step because a terminal or SLURM
    signals all of them, and torchrun those that it has started; or a person can't interrupt a run alone."""
    with session.asked_to_stop(Processes(rank=1, count=2)) as asked:
        assert not asked()
        for _ in range(2):
            signal.raise_signal(number)
        assert asked()
    with session.asked_to_stop(Processes()) as asked:
        signal.raise_signal(number)
        assert asked()
        with pytest.raises(KeyboardInterrupt) if number == signal.SIGINT else nullcontext():
            signal.raise_signal(number)
