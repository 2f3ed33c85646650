"""semraft.diagnosis.invariants: the sentence of each where it holds, and missing flow truth."""

from dataclasses import replace

import pytest

from semraft.config import ModelConfig
from semraft.diagnosis.causes import CAUSES
from semraft.diagnosis.invariants import flow_truth
from semraft.diagnosis.record import Record
from semraft.diagnosis.verdict import judge
from tests.unit.diagnosis.made_runs import CONFIG, STEPS, made

LINE = {
    "rate_ratio": 1.0,
    "optimizer_steps_missing": 2.0,
    "clipped_ratio_max": 0.25,
    "false_still_samples": 0.0,
    "between_classes_frac": 0.02,
    "correlation_abs_max": 8.0,
    "seen_samples": 4.0,
    "swapped_samples": 0.0,
    "scaled_samples": 0.0,
    "flow_loss": 3.0,
    "l1_px": 3.0,
    "trusted_frac": 0.25,
    "batch_norm_sum": 12.5,
}
ONCE = {
    "rate_ratio": 0.97,
    "optimizer_steps_missing": 3.0,
    "clipped_ratio_max": 1.0,
    "false_still_samples": 1.0,
    "between_classes_frac": 0.05,
    "correlation_abs_max": 31.0,
    "swapped_samples": 1.0,
    "scaled_samples": 3.0,
    "l1_px": 1.0,
    "trusted_frac": 0.5,
}
"""The values in which one line differs."""
SAID = {
    "learning-rate": "the rate is the schedule's, within 3.0%",
    "optimizer-restart": "of 120 steps 3 are missing in the optimiser's moments",
    "skipped-steps": "of 120 steps 3 were skipped",
    "no-clipping": "the longest gradient after clipping has 1 of --optim.clip-norm",
    "invalid-zeros": "1 of 480 samples have pixels with a flow of exactly 0 that fit worse than moving ones",
    "label-resize": "2.0% of the pixels at borders have a class numbered between both sides', 5.0% at most",
    "half-overflow": "correlations reach 31; float16 ends at 65504",
    "swapped-flow": "1 of 480 samples fit their pictures with u and v exchanged, and not as given",
    "flow-scale": "3 of 480 samples fit their pictures better at another length of flow",
    "normalization": "the flow loss is 1.000 times the mean distance over the valid pixels, which "
    "--loss.normalize valid asks for (median)",
    "no-flow-truth": "25.0% of the pixels have flow truth (median)",
    "batch-norm": "running statistics of batch norm stay at 12.5",
}
FROZEN = replace(CONFIG, model=ModelConfig(batch_norm="freeze"))


@pytest.mark.parametrize("name", [name for name, cause in CAUSES.items() if cause.check])
def test_the_sentence_of_an_invariant_that_holds(name: str) -> None:
    """Red when: another quantity is told, a mean for the largest, or a ratio the wrong way up."""
    check = CAUSES[name].check
    assert check is not None
    lines = [{"step": step, **LINE, **(ONCE if step == 40 else {})} for step in range(1, STEPS + 1)]
    found = check(made(lines, config=FROZEN))
    assert found is not None
    assert (found.text, found.first_step) == (SAID[name], None)
    assert check(made([{"step": 1}], config=FROZEN)) is None


def test_batch_norm_may_learn_where_nothing_is_frozen() -> None:
    check = CAUSES["batch-norm"].check
    assert check is not None
    found = check(made())
    assert found is not None
    assert found.text == "batch norm may learn in this run (--model.batch-norm auto)"


def with_truth(text: str, truth_frac: float = 1.0, every: int = 1) -> Record:
    """A line of batches of one sample for each letter, with truth where it is x."""
    config = replace(
        CONFIG,
        data=replace(CONFIG.data, truth_frac=truth_frac),
        optim=replace(CONFIG.optim, batch=1),
    )
    lines = [
        {"step": every * step, "trusted_frac": 0.3 * (mark == "x")} for step, mark in enumerate(text, start=1)
    ]
    return made(lines, [], config)


@pytest.mark.parametrize(
    ("record", "step"),
    [
        (with_truth("....."), 1),
        (with_truth("...."), None),
        (with_truth("....x..."), None),
        (with_truth("xx" + 19 * "."), None),
        (with_truth("xx" + 20 * "." + "x"), 3),
        (with_truth(8 * ".", truth_frac=0.25), None),
        (with_truth(45 * ".", truth_frac=0.25), 1),
        (with_truth(8 * ".", truth_frac=0.25, every=10), 10),
        (with_truth(60 * ".", truth_frac=0.0), None),
    ],
)
def test_a_window_of_steps_without_one_valid_pixel(record: Record, step: int | None) -> None:
    """From the start five lines are enough, later twenty; of pairs of which a part has truth as many as are
    no chance. Red when: a run that learns nothing is healthy, or some sparse batches are an alarm."""
    found = flow_truth(record)
    assert found is not None
    assert found.first_step == step
    verdict = judge(record)
    assert (verdict.state, verdict.first_step) == ("healthy" if step is None else "worse", step)
