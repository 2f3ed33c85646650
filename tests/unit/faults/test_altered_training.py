"""Altered trainings: what a fault does to a step, and that nothing changes before."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal
from unittest.mock import Mock

import pytest
import torch

from semraft import tracking
from semraft.agreement import Ending
from semraft.config import RunConfig, parse_term, to_json
from semraft.data import open_dataset
from semraft.data.loader import collate
from semraft.faults.altered_recipes import ALTERED_RECIPES
from semraft.faults.altered_training import altered_step, inject, train
from semraft.faults.fault_config import Fault, FaultConfig, fault_of
from semraft.monitor.monitor import Monitor
from semraft.sample import FlowBatch
from semraft.training.state import initial_state

STEP = 2


def config_of(fault: Fault) -> RunConfig:
    config = ALTERED_RECIPES[f"fault-{fault}"].config
    optim = replace(config.optim, steps=6)
    planted = (FaultConfig(kind=fault, step=STEP).text,)
    return replace(config, precision="float32", num_updates=2, optim=optim, altered=planted)


@pytest.fixture(scope="module")
def batch() -> FlowBatch:
    data = ALTERED_RECIPES["fault-normalization"].config.data
    world = open_dataset("world", None, "train", replace(data.world, size=(64, 96)))
    found = collate([world[index] for index in range(2)])
    known = ~found.moving1 if found.moving1 is not None else found.valid
    return replace(found, valid=known, flow=torch.where(known[:, None], found.flow, 0))


def observed(
    config: RunConfig, batch: FlowBatch, steps: int, run: Path
) -> tuple[Ending, list[dict[str, float]]]:
    """How the last step ended, and the lines of pulse.jsonl of a training on one batch."""
    state = initial_state(config, torch.device("cpu"))
    state.model.train()
    run.mkdir(exist_ok=True)
    (run / "config.json").write_text(to_json(config))
    monitor = Monitor(
        run=run,
        config=config,
        model=state.model,
        optimizer=state.optimizer,
        scaler=state.scaler,
        statistics=state.statistics,
        tracker=Mock(spec=tracking.Tracker),
    )
    for _ in range(steps):
        result = altered_step(frozenset(), fault_of(config.altered), state, batch, config)
        monitor.observe(result, batch)
    return result.ending, [json.loads(line) for line in (run / "pulse.jsonl").read_text().splitlines()]


def lines_of(fault: Fault, batch: FlowBatch, steps: int, run: Path) -> list[dict[str, float]]:
    return observed(config_of(fault), batch, steps, run)[1]


@pytest.mark.parametrize(
    "fault", ["learning-rate", "normalization", "no-clipping", "v1-weight", "v1-constant"]
)
def test_what_the_configuration_becomes(fault: Fault) -> None:
    """Red when: a fault acts too early, or changes another field."""
    config = config_of(fault)
    state = initial_state(config, torch.device("cpu"))
    assert inject(fault_of(config.altered), config, state) == config
    state.step = STEP - 1
    after = inject(fault_of(config.altered), config, state)
    optim, loss = config.optim, config.loss
    expected = {
        "learning-rate": replace(config, optim=replace(optim, learning_rate=30 * optim.learning_rate)),
        "normalization": replace(config, loss=replace(loss, normalize="all")),
        "no-clipping": replace(config, optim=replace(optim, clip_norm=0.0)),
    }
    if fault in expected:
        assert after == expected[fault]
    else:
        weights = {chosen.name: chosen.weight for chosen in after.loss.terms}
        assert weights == {"matching": 0.5, "semantic-v1": 20.0 if fault == "v1-weight" else 5.0}


def test_step_statistics_show_them(batch: FlowBatch, tmp_path: Path) -> None:
    """Red when: the monitor goes by the faulty configuration instead of the run's own."""
    rates = lines_of("learning-rate", batch, 3, tmp_path / "rate")
    assert [line["rate_ratio"] for line in rates] == pytest.approx([1, 30, 30])
    losses = lines_of("normalization", batch, 3, tmp_path / "mean")
    ratio = [line["flow_loss"] / line["l1_px"] for line in losses]
    assert ratio[0] == pytest.approx(1, rel=1e-4)
    assert ratio[1] == pytest.approx(losses[1]["trusted_frac"], rel=1e-3)
    moments = lines_of("optimizer-restart", batch, 3, tmp_path / "moments")
    assert [line["optimizer_steps_missing"] for line in moments] == [0, 1, 1]


@pytest.mark.parametrize("normalize", ["all", "valid"])
@pytest.mark.parametrize("truth_frac", [1.0, 0.01])
def test_the_mean_that_the_flow_loss_should_be(
    batch: FlowBatch, normalize: Literal["all", "valid"], truth_frac: float, tmp_path: Path
) -> None:
    """Truth as a laser scanner leaves it included. Red when: the mean of the step statistics is over other
    pixels than the loss is, as when it was over every fourth in each direction."""
    drawn = torch.rand(batch.valid.shape, generator=torch.Generator().manual_seed(1)) < truth_frac
    batch = replace(batch, valid=batch.valid & drawn)
    config = config_of("normalization")
    config = replace(config, loss=replace(config.loss, normalize=normalize), altered=())
    _, (line,) = observed(config, batch, 1, tmp_path)
    assert line["flow_loss"] / line["l1_px"] == pytest.approx(1, rel=1e-4)


def test_the_gradient_after_clipping_is_looked_at(batch: FlowBatch, tmp_path: Path) -> None:
    line = lines_of("no-clipping", batch, 5, tmp_path / "free")[4]
    assert line["clipped_ratio_max"] == pytest.approx(line["gradient_norm"], rel=1e-4)
    assert lines_of("learning-rate", batch, 5, tmp_path / "clipped")[4]["clipped_ratio_max"] <= 1.001


def test_batch_norm_learns_again(batch: FlowBatch, tmp_path: Path) -> None:
    """Red when: frozen statistics are not distinguished from moving ones."""
    sums = [line["batch_norm_sum"] for line in lines_of("batch-norm", batch, 3, tmp_path / "large")]
    assert sums[0] == sums[0]
    assert len(set(sums)) == 3
    (line,) = lines_of("label-resize", batch, 1, tmp_path / "tiny")
    assert "batch_norm_sum" not in line


def test_an_overflow_moves_no_weight_and_leaves_its_line(batch: FlowBatch, tmp_path: Path) -> None:
    """Red when: the step that was not done leaves no statistics, or they are of the sound correlations."""
    ending, lines = observed(config_of("half-overflow"), batch, 2, tmp_path)
    assert ending is Ending.NOT_FINITE
    assert [line["step"] for line in lines] == [1, 2]
    assert lines[0]["correlation_abs_max"] is not None
    assert lines[1]["correlation_abs_max"] is None  # JSON has no infinity.
    assert json.loads((tmp_path / "verdict.json").read_text())["causes"][0]["name"] == "half-overflow"


@pytest.mark.parametrize("fault", ["label-resize", "learning-rate"])
def test_a_training_has_its_fault(fault: Fault, tmp_path: Path) -> None:
    """Of batches, and of the step. Red when: the loop is not wrapped, or the fault begins with the run."""
    config = config_of(fault)
    world = replace(config.data.world, scenes=4)
    data = replace(config.data, workers=0, world=world, validation_pairs=1)
    optim = replace(config.optim, steps=2, batch=2)
    config = replace(config, data=data, optim=optim, saved_pairs=0, device="cpu")
    train(config, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "pulse.jsonl").read_text().splitlines()]
    name = "between_classes_frac" if fault == "label-resize" else "rate_ratio"
    assert lines[1][name] > 2 * lines[0][name]


@pytest.mark.parametrize(
    "text", ["learning-rate", "learning-rate@", "learning-rate@0", "sparks@3", "@3", "as-one"]
)
def test_an_alteration_that_does_not_exist_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected one FAULT@STEP|begins at step 0"):
        fault_of((text,))
    with pytest.raises(ValueError, match="expected one FAULT@STEP"):
        fault_of(("no-clipping@3", "learning-rate@3"))
    assert fault_of(("as-zero", "no-clipping@3")) == FaultConfig(kind="no-clipping", step=3)


def test_blended_labels_are_no_classes_to_learn(tmp_path: Path) -> None:
    """Red when: a cross-entropy is asked for class 143, at the first step and with a traceback."""
    config = replace(config_of("no-clipping"), altered=("grey-labels",))
    learning = replace(config.loss, terms=(parse_term("segmentation:1"),))
    for learns in (
        replace(config, loss=learning),
        replace(config, model=replace(config.model, conditioning="truth")),
    ):
        with pytest.raises(ValueError, match="learns no classes"):
            train(learns, tmp_path / "run")
