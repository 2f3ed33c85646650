"""The result of a training step: the value that the training hands to whatever observes it."""

from dataclasses import dataclass

from semraft.agreement import Ending
from semraft.losses.gradient_surgery import StepGradients
from semraft.losses.objective import Objective
from semraft.sample import Prediction


@dataclass(frozen=True, kw_only=True, slots=True)
class StepResult:
    """One training step; its tensors are on the training's device, without the graph behind them."""

    step: int
    """The number of the step, from 1."""
    prediction: Prediction
    losses: Objective
    weights: dict[str, float]
    """Loss term -> its weight."""
    log_variances: dict[str, float]
    """Loss term -> the log variance in its weight, of the terms with a learnt weight."""
    measured: dict[str, float]
    """Loss term -> its weight, of the terms whose share was measured up to this step."""
    gradients: StepGradients
    ending: Ending
    """Why training ends with this step, agreed on by all processes. NOT_FINITE: the weights did not move."""
