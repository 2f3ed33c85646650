"""semraft.diagnosis.passed_checks: the numbers that speak against each contradiction."""

from dataclasses import replace

import pytest

from semraft.config import ModelConfig
from semraft.diagnosis.causes import CONTRADICTORY
from semraft.diagnosis.passed_checks import cleared
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
    "l1_px": 4.0,
    "batch_norm_sum": 12.5,
}
ONCE = {
    "rate_ratio": 0.97,
    "optimizer_steps_missing": 3.0,
    "clipped_ratio_max": 1.0,
    "false_still_samples": 1.0,
    "between_classes_frac": 0.05,
    "correlation_abs_max": 31.0,
    "swapped_samples": 2.0,
    "scaled_samples": 3.0,
    "l1_px": 1.0,
}
"""What one line has otherwise."""
SAID = {
    "learning-rate": "the rate is the schedule's, within 3.0%",
    "optimizer-restart": "of 120 steps 3 are missing in the optimiser's moments",
    "skipped-steps": "of 120 steps 3 were skipped",
    "no-clipping": "the longest gradient after clipping has 1 of --optim.clip-norm",
    "invalid-zeros": "1 of 480 samples fit better where they move than where they stand still",
    "label-resize": "2.0% of the pixels at borders, 5.0% at most, have a class between both sides'",
    "half-overflow": "correlations reach 31; float16 ends at 65504",
    "swapped-flow": "2 of 480 samples fit better with u and v exchanged",
    "flow-scale": "3 of 480 samples fit better at another length of flow",
    "normalization": "the flow loss is 0.75 times the mean that --loss.normalize asks for (median)",
    "batch-norm": "running statistics of batch norm stay at 12.5",
}
FROZEN = replace(CONFIG, model=ModelConfig(batch_norm="freeze"))


@pytest.mark.parametrize("name", CONTRADICTORY)
def test_what_is_said(name: str) -> None:
    """Red when: another quantity is told, a mean for the largest, or a ratio the wrong way up."""
    lines = [{"step": step, **LINE, **(ONCE if step == 40 else {})} for step in range(1, STEPS + 1)]
    assert cleared(made(lines, config=FROZEN), name) == SAID[name]
    assert cleared(made([{"step": 1}], config=FROZEN), name) is None


def test_batch_norm_may_learn_where_nothing_is_frozen() -> None:
    assert cleared(made(), "batch-norm") == "batch norm may learn in this run (--model.batch-norm auto)"
