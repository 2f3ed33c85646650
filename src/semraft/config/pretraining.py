"""The stages of pre-training RAFT small on made scenes: small and slow ones first, then large and fast ones.

Each stage is a recipe and starts from the weights of the one before. As in RAFT's own practice the frames
grow from stage to stage; so do motion and refinements, for a network trained with few of them runs away when
it is asked for many. The first rates rise slowly: at twice the rate, after 100 steps, the context was
switched off for good (docs/diagnosis.md, `inactive-context`). `benchmarks/pretrain.py` runs the stages one
after another. Two chains: for a core of a CPU, over some hours, and for a GPU with 16 cores beside it that
make the scenes, over some sittings of minutes.
"""

from dataclasses import replace
from typing import Literal

from semraft.config import (
    AugmentConfig,
    DataConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    ShapesConfig,
    TermConfig,
    WorldConfig,
)


def _stage(
    size: tuple[int, int],
    motion_px: float,
    refinements: int,
    *,
    batch: int,
    steps: int,
    rate: float,
    matching: float,
    occluded: Literal["keep", "leave-out"] = "leave-out",
    warm_up_frac: float = 0.05,
) -> RunConfig:
    """Shapes of one size and about so much motion. Geometry is random in the scenes: it is not augmented."""
    return RunConfig(
        data=DataConfig(
            train="shapes",
            validation=("shapes",),
            validation_pairs=32,
            crop=size,
            augment=AugmentConfig(
                scale_probability=0.0,
                stretch_probability=0.0,
                eraser_probability=0.3,
                eraser_size_px=(10, 40),
            ),
            shapes=ShapesConfig(size=size, motion_px=motion_px),
        ),
        model=ModelConfig(arch="small", recompute="nothing"),
        loss=LossConfig(terms=(TermConfig(name="matching", weight=matching),), occluded=occluded),
        optim=OptimConfig(
            steps=steps,
            batch=batch,
            learning_rate=rate,
            weight_decay=1e-4,
            ema=0.999,
            warm_up_frac=warm_up_frac,
        ),
        num_updates=refinements,
        validation_updates=24,
        validate_every=1000,
        checkpoint_every=200,
    )


def _with_the_world(config: RunConfig) -> RunConfig:
    """Three samples in ten from the driving world, whose frames are larger than the crop."""
    height, width = config.data.crop
    world = WorldConfig(size=(height * 5 // 4 // 8 * 8, width * 3 // 2 // 8 * 8), scenes=5000)
    data = replace(config.data, train="shapes:0.7,world:0.3", validation=("shapes", "world"), world=world)
    return replace(config, data=data)


CHAINS: dict[str, dict[str, RunConfig]] = {
    "cpu": {
        "pretrain-1": _stage(
            (96, 160), 5.0, 4, batch=8, steps=2000, rate=4e-4, matching=0.5, warm_up_frac=0.15
        ),
        "pretrain-2": _stage((160, 224), 10.0, 8, batch=4, steps=6000, rate=4e-4, matching=0.3),
        "pretrain-3": _with_the_world(
            _stage((224, 320), 18.0, 12, batch=2, steps=20_000, rate=2.5e-4, matching=0.1, occluded="keep")
        ),
    },
    "gpu": {
        "pretrain-gpu-1": _stage(
            (128, 192), 7.0, 6, batch=32, steps=3000, rate=6e-4, matching=0.5, warm_up_frac=0.2
        ),
        "pretrain-gpu-2": _stage((256, 320), 16.0, 12, batch=32, steps=8000, rate=6e-4, matching=0.2),
        "pretrain-gpu-3": _with_the_world(
            _stage((288, 448), 24.0, 12, batch=24, steps=10_000, rate=3e-4, matching=0.1, occluded="keep")
        ),
    },
}
"""Chain -> its stages, in their order."""


def about(config: RunConfig) -> str:
    """A line about a stage."""
    data, (height, width) = config.data, config.data.crop
    mixed = " and the world" if "world" in data.train else ""
    return (
        f"a stage of pre-training RAFT small: shapes{mixed}, {height}x{width}, motion of about "
        f"{data.shapes.motion_px:g} px, {config.num_updates} refinements (`make weights` runs them all)"
    )
