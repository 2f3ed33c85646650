"""A run is one value: the frozen dataclasses that say everything a training run depends on.

If two runs differ, their configurations differ. Nothing here imports torch, so that `--help` is quick. The
docstring under a field is its help text on the command line.
"""

import dataclasses
import json
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from semraft.config.data import DataConfig, require, require_range
from semraft.config.earlier_versions import read_upgraded
from semraft.config.term import TermConfig
from semraft.records import shaped

Precision = Literal["float32", "bfloat16", "float16"]


Recompute = Literal["auto", "nothing", "ends", "everything"]
"""Activations that training does not keep: none, those of both ends (encoders, upsampling), all of them.
`auto`: on the CPU those of both ends; on a GPU none while its free memory suffices."""

CorrelationKind = Literal["all-pairs", "on-demand", "auto"]
"""Where correlation windows come from; `auto` takes what is faster, or fits, for the size at hand."""


Head = Literal["occlusion", "decoder", "decoder-down"]
"""Heads beside flow: occlusion, and classes decoded at 1/8 or from two stages below."""
HEADS: tuple[Head, ...] = typing.get_args(Head)

EXTRA_STEPS = 100
"""The learning rate's schedule is this much longer than the training: its last rate is not 0 (RAFT's own)."""

Conditioning = Literal["none", "truth", "decoder"]
"""Whose classes of both frames enter a network's context: nobody's, the data's, its own decoder's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """The network and where its weights come from."""

    arch: Literal["large", "small", "tiny"] = "large"
    """RAFT as published (large, small), or a small one for studies on a CPU (tiny)."""
    weights: str = ""
    """A checkpoint to start from: semraft's own, a public RAFT .pth or torchvision's. Empty: from scratch."""
    batch_norm: Literal["auto", "train", "freeze"] = "auto"
    """Batch norm statistics: `auto` learns them from scratch and freezes them with `weights`."""
    correlation: CorrelationKind = "auto"
    """Store the all-pairs volume, or compute on demand what is looked at: less memory on large frames."""
    recompute: Recompute = "auto"
    """Activations that are computed again for the gradients instead of kept: less memory, more time. `auto`:
    both ends of the network on a CPU; on a GPU nothing while its free memory suffices, then both ends, then
    everything."""
    heads: tuple[Head, ...] = ()
    """Outputs of the network beside flow: occlusion, and the classes of both frames (decoder: from features
    at 1/8; decoder-down: two stages further down and back up). The rest of it is the same without."""
    conditioning: Conditioning = "none"
    """Classes of both frames that enter the context: those of the data (truth: then also wherever the network
    is used), or those that its own decoder sees. At the first step they change nothing."""

    def __post_init__(self) -> None:
        both = {"decoder", "decoder-down"} <= set(self.heads) or len(set(self.heads)) < len(self.heads)
        require(not both, "model.heads", " ".join(self.heads), "each head once, and one decoder at most")
        decodes = self.conditioning != "decoder" or bool({"decoder", "decoder-down"} & set(self.heads))
        require(decodes, "model.conditioning", self.conditioning, "a decoder among --model.heads")


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """The sequence loss and the terms added to it."""

    gamma: float = 0.8
    """Weight of refinement t of N in every sum over refinements: gamma^(N-t)."""
    normalize: Literal["valid", "all"] = "valid"
    """Divisor of the flow loss: the number of valid pixels, or that of all pixels (RAFT's own code)."""
    max_flow_px: float = 400.0
    """Ground truth at least so long is not trained on."""
    occluded: Literal["keep", "leave-out"] = "keep"
    """Whether the flow loss acts where the point seen in frame 1 is not visible in frame 2. `leave-out` needs
    data that say where that is; terms go by their own masks."""
    terms: tuple[TermConfig, ...] = ()
    """Auxiliary terms, for example `semantic-v1:0.5 signed-distance:share=0.4,where=things,ramp=200`."""
    combine: Literal["sum", "gate", "project"] = "sum"
    """The part of a term's gradient that stays where it opposes the flow loss's: all, nothing, or the part at
    right angles to it."""
    share_cap: float = 0.0
    """Largest norm of a term's gradient, at any step, in parts of the flow loss's; 0: no limit."""

    @property
    def has_surgery(self) -> bool:
        """Whether terms' gradients are limited: one backward pass of the total does not give the gradient."""
        return self.combine != "sum" or self.share_cap > 0

    def __post_init__(self) -> None:
        require(0 < self.gamma <= 1, "loss.gamma", self.gamma, "above 0, at most 1")
        require(self.max_flow_px > 0, "loss.max-flow-px", self.max_flow_px, "above 0")
        require_range(self, "loss.", 0, math.inf, "share_cap")


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """AdamW under a one-cycle schedule."""

    steps: int = 100_000
    """Optimiser steps."""
    batch: int = 6
    """Samples a step, over all processes."""
    learning_rate: float = 1e-4
    """Peak of the one-cycle schedule."""
    weight_decay: float = 1e-5
    """AdamW's decoupled weight decay."""
    epsilon: float = 1e-8
    """AdamW's epsilon."""
    warm_up_frac: float = 0.05
    """Part of the schedule spent rising to the peak."""
    clip_norm: float = 1.0
    """Largest gradient norm; 0 turns clipping off."""
    ema: float = 0.0
    """Exponential moving average of the weights: the part of it that stays at each step, for example 0.999,
    less over the first steps; 0: no average. It is what is validated, and what a checkpoint gives."""

    def __post_init__(self) -> None:
        require_range(self, "optim.", 1, math.inf, "steps", "batch")
        require_range(self, "optim.", 0, math.inf, "learning_rate", "weight_decay", "epsilon", "clip_norm")
        require_range(self, "optim.", 0, 1, "warm_up_frac")
        require(self.learning_rate > 0, "optim.learning-rate", self.learning_rate, "above 0")
        require(0 <= self.ema < 1, "optim.ema", self.ema, "0 or more, below 1")

    def rate_at(self, step: int) -> float:
        """The learning rate of optimiser step `step` (from 0): linear one-cycle, as torch's OneCycleLR.

        Rises from peak / 25 over `warm_up_frac` of the schedule, then falls to peak / 250 000.
        """
        total = self.steps + EXTRA_STEPS
        top = self.warm_up_frac * total - 1
        first, last = self.learning_rate / 25, self.learning_rate / 25e4
        if step <= top and top > 0:
            return first + (self.learning_rate - first) * step / top
        return self.learning_rate + (last - self.learning_rate) * (step - top) / (total - 1 - top)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """One training run."""

    recipe: str = "custom"
    """The recipe this configuration was made from."""
    seed: int = 0
    """Initial weights, sample order and augmentation."""
    output: str = ""
    """The run's folder; empty: runs/RECIPE-seedSEED."""
    data: DataConfig = field(default_factory=DataConfig)
    """Data."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Network."""
    loss: LossConfig = field(default_factory=LossConfig)
    """Losses."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimiser."""
    num_updates: int = 12
    """Refinements in training."""
    validation_updates: int = 24
    """Refinements in validation."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Arithmetic of the network: `auto` is bfloat16 where the hardware has it, else float32."""
    tracker: Literal["tensorboard", "clearml"] = "tensorboard"
    """Where curves go besides metrics.jsonl: TensorBoard, or ClearML as well."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:1`."""
    log_every: int = 100
    """Steps between lines of training metrics."""
    validate_every: int = 5000
    """Steps between validations, each followed by a checkpoint."""
    health_every: int = 0
    """Steps between lines of health.jsonl; 0: as often as 3 per cent of the time allows."""
    checkpoint_every: int = 1000
    """Steps between updates of checkpoints/last.pt."""
    altered: tuple[str, ...] = ()
    """Alterations of the training itself by an experiment on it; no option of a user's run."""
    when_worse: Literal["go-on", "stop", "lower-rate", "drop-term"] = "go-on"
    """When a run goes wrong: print it and go on, stop, or go back to the last sound checkpoint and on from
    there with half the learning rate, or without the loss term named as cause (if none is: half the rate).
    Statistical symptoms are acted on in runs of up to 180 steps alone, which they were validated on."""
    saved_pairs: int = 8
    """Validation pairs whose pictures and flow the last validation keeps for the report."""

    def __post_init__(self) -> None:
        every = ("log_every", "validate_every", "checkpoint_every")
        require_range(self, "", 1, math.inf, "num_updates", "validation_updates", *every)
        require_range(self, "", 0, math.inf, "health_every", "saved_pairs")
        require(0 <= self.seed < 2**63, "seed", self.seed, "0 or more, below 2^63")


def to_json(config: RunConfig) -> str:
    """A configuration as JSON text, every field named."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def flat(tree: Mapping[str, typing.Any], prefix: str = "") -> dict[str, typing.Any]:
    """Nested fields under the names of the command line: {"optim": {"batch": 6}} -> {"optim.batch": 6}."""
    leaves: dict[str, typing.Any] = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        leaves |= flat(value, f"{path}.") if isinstance(value, Mapping) else {path: value}
    return leaves


def load_config(path: Path) -> RunConfig:
    """Reads what `to_json` wrote.

    Raises:
        DamagedFile: A name or value that no RunConfig has.
    """
    return shaped(path, read_upgraded(path), RunConfig)
