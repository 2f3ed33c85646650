"""Alterations of a training on purpose: faults, and the behaviour of the original study's code.

A fault is a bug that has cost somebody days, planted to measure whether a training notices and names it.
Nothing that judges a run reads its alterations.
"""

from collections.abc import Sequence
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


AS_IT_WAS = {
    "fixed-draws": "sample order and augmentation are drawn by seed 0 whatever the run's seed is",
    "as-zero": "resizing blends all flow, unknown flow as 0 px, and trusts a pixel with any known part",
    "as-65504": "as-zero, with unknown flow as 65504 px",
    "grey-labels": "labels are resized as grey levels of their classes' colours, which gives new classes",
    "broadcast-flow-mask": "the flow loss masks each sample by the mask of every sample of the batch",
    "v1-broadcast-mask": "V1 masks each sample by the same-label mask of every sample of the batch",
    "v1-mean-all": "V1 is divided by the number of all pixels",
}
"""Alteration -> the behaviour of the original study's code that it brings back (docs/divergence.md)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FaultConfig:
    """A fault, and the first step at which it acts."""

    kind: Fault = "none"
    step: int = 1

    def __post_init__(self) -> None:
        if self.step < 1:
            raise ValueError(f"a fault begins at step {self.step}: expected 1 or more")

    @property
    def text(self) -> str:
        """The entry of `RunConfig.altered`: KIND@STEP."""
        return f"{self.kind}@{self.step}"


SOUND = FaultConfig()
"""No fault."""


def fault_of(altered: Sequence[str]) -> FaultConfig:
    """The fault among the alterations of a run; SOUND if there is none.

    Raises:
        ValueError: An alteration that does not exist, or a second fault.
    """
    found = SOUND
    for text in altered:
        kind, at, step = text.partition("@")
        if text in AS_IT_WAS:
            continue
        if kind not in FAULTS or not (at and step.isdigit()) or found is not SOUND:
            raise ValueError(
                f"--altered {text}: expected one FAULT@STEP and names, of faults {', '.join(FAULTS)}; of "
                f"names {', '.join(AS_IT_WAS)}"
            )
        found = FaultConfig(kind=kind, step=int(step))
    return found
