"""Recipes of altered trainings: a fault half-way, or the original study's code as it was."""

from dataclasses import replace

from semraft.config import LossConfig, WorldConfig, parse_term
from semraft.config.recipes import MATCHING, RECIPES, V1, WORLD, Recipe, named
from semraft.faults.fault_config import ABOUT, FAULTS, FaultConfig


def _fault_recipes() -> dict[str, Recipe]:
    """Each fault planted half-way through a run of a minute: small frames, no flow truth on what moves."""
    sound = replace(
        WORLD,
        data=replace(
            WORLD.data,
            crop=(64, 104),
            truth="static",
            validation_pairs=16,
            world=WorldConfig(size=(96, 160), scenes=80, seed=6),
        ),
        optim=replace(WORLD.optim, steps=200),
        num_updates=3,
        validation_updates=3,
        log_every=20,
        validate_every=40,
        checkpoint_every=20,
    )
    recipes = {}
    for fault in FAULTS:
        config, first = sound, sound.optim.steps // 2 + 1
        if fault.startswith("v1-"):
            config = replace(config, loss=replace(config.loss, terms=(MATCHING, replace(V1, weight=0.1))))
        if fault == "batch-norm":  # No other network has it; its steps take longer.
            model = replace(sound.model, arch="large", batch_norm="freeze")
            optim = replace(sound.optim, steps=60, batch=2, learning_rate=2e-4)
            config, first = replace(config, model=model, optim=optim), 31
        config = replace(config, altered=(FaultConfig(kind=fault, step=first).text,))
        recipes[f"fault-{fault}"] = Recipe(f"from half-way on {ABOUT[fault]}: is it found?", config)
    return recipes


def _as_it_was_recipes() -> dict[str, Recipe]:
    """The divergence recipes with what acted of the original code when its runs got worse."""
    base = RECIPES["world-divergence-base"].config
    base = replace(base, altered=("fixed-draws", "as-zero"), loss=LossConfig(gamma=0.85, normalize="all"))
    v1 = replace(base.loss, terms=(parse_term("semantic-v1:1"),))
    what = "as the original study's code was, at the world's scale"
    return {
        "world-as-it-was-base": Recipe(f"world-divergence-base {what}: one run whatever --seed is", base),
        "world-as-it-was": Recipe(
            f"world-divergence-v1 {what}: one run whatever --seed is",
            replace(base, loss=v1, altered=(*base.altered, "v1-mean-all", "v1-broadcast-mask")),
        ),
    }


ALTERED_RECIPES = named({**_as_it_was_recipes(), **_fault_recipes()})
"""Every recipe of an altered training by name."""
