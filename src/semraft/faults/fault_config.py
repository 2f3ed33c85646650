"""Faults that can be planted in a training on purpose, to see whether it is noticed and named.

Each is a bug that has cost somebody days. Nothing that judges a run knows what was planted.
"""

from dataclasses import dataclass
from typing import Literal, get_args

Fault = Literal[
    "none",
    "learning-rate",
    "v1-weight",
    "v1-constant",
    "label-resize",
    "flow-scale",
    "swapped-flow",
    "invalid-zeros",
    "batch-norm",
    "normalization",
    "half-overflow",
    "no-clipping",
    "optimizer-restart",
]
FAULTS: tuple[Fault, ...] = get_args(Fault)[1:]
ABOUT: dict[Fault, str] = {
    "learning-rate": "the learning rate is 30 times the schedule's",
    "v1-weight": "semantic smoothness V1 weighs 20",
    "v1-constant": "semantic smoothness V1 weighs 5 and stays there while the learning rate falls",
    "label-resize": "labels are resized bilinearly, like pictures",
    "flow-scale": "resizing a pair leaves its flow in pixels of the old size",
    "swapped-flow": "u and v are swapped in 1 of 100 samples",
    "invalid-zeros": "pixels without flow truth count as valid ones that stand still",
    "batch-norm": "batch norm that should stay frozen, as in fine-tuning, learns again",
    "normalization": "the flow loss is divided by all pixels, its terms by the valid ones",
    "half-overflow": "correlations pass through float16 and leave its range",
    "no-clipping": "the gradient is not clipped any more",
    "optimizer-restart": "AdamW forgets its moments, as in a restart without the optimiser's state",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class FaultConfig:
    """A fault planted on purpose."""

    kind: Fault = "none"
    """What goes wrong."""
    step: int = 1
    """The first step at which it does."""

    def __post_init__(self) -> None:
        if self.step < 1:
            raise ValueError(f"--fault.step is {self.step}: expected 1 or more")

    def acts_at(self, step: int, kind: Fault) -> bool:
        """Whether this is the fault, and has begun."""
        return self.kind == kind and step >= self.step


SOUND = FaultConfig()
"""No fault."""
