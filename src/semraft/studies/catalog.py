"""The studies that come with semraft."""

from dataclasses import replace

from semraft.config import RunConfig
from semraft.config.recipes import RECIPES
from semraft.studies.divergence import DIVERGENCE, DIVERGENCE_CURED, DIVERGENCE_SEEDS
from semraft.studies.study import START, Study

DEMO_STEPS = 250
SMOKE = "smoke"
"""The study that shows whether everything works, in minutes."""


def _recipes(**recipes: str) -> dict[str, RunConfig]:
    return {variant: RECIPES[recipe].config for variant, recipe in recipes.items()}


def _smoke(config: RunConfig) -> RunConfig:
    """A run of a few seconds: is everything wired up, not: is it any good."""
    return replace(
        config,
        data=replace(
            config.data,
            crop=(64, 96),
            validation_pairs=6,
            world=replace(config.data.world, size=(80, 128), scenes=24),
        ),
        optim=replace(config.optim, steps=20, batch=2),
        num_updates=3,
        validation_updates=4,
        log_every=5,
        validate_every=10,
        checkpoint_every=5,
        saved_pairs=4,
    )


def _demo(config: RunConfig) -> RunConfig:
    """As many steps as three runs have in six minutes of two cores."""
    return replace(config, optim=replace(config.optim, steps=DEMO_STEPS), validate_every=DEMO_STEPS)


_WORLD = _recipes(base="world-base", **{"semantic-v1": "world-semantic-v1"})
_DEMO = _WORLD | _recipes(**{"signed-distance": "world-signed-distance"})
_MOVERS = {
    variant: replace(config, model=replace(config.model, weights=START))
    for variant, config in _recipes(
        base="world-movers-base",
        **{"signed-distance": "world-movers-signed-distance", "decoder": "world-movers-decoder"},
    ).items()
}
_FIVE = (0, 1, 2, 3, 4)
_IDEAS = (
    "semantic-v1",
    "v1-instance",
    "smoothness2",
    "label-warp",
    "signed-distance",
    "occlusion",
    "occlusion-consistency",
    "decoder",
    "decoder-temporal",
    "decoder-down",
    "decoder-context",
    "consistency",
)
"""The recipes world-..., one for each idea of the notes and what the field has added to them."""
_REFINEMENTS = {
    f"updates-{updates}": replace(RECIPES["world-base"].config, num_updates=updates, validation_updates=32)
    for updates in (6, 8, 12)
}
_ORIGIN = {
    f"{data}-{variant}": RECIPES[f"{data}-{recipe}"].config
    for data in ("viper", "virtual-kitti", "viper+virtual-kitti")
    for variant, recipe in (("base", "baseline"), ("semantic-v1", "semantic-v1"))
}

STUDIES = {
    study.name: study
    for study in (
        Study(
            name=SMOKE,
            about="does it all work? base and V1 on a tiny world, 20 steps, under 3 minutes on two cores",
            variants={variant: _smoke(config) for variant, config in _WORLD.items()},
            base="base",
            seeds=(0, 1),
        ),
        Study(
            name="world",
            about="the demo's: base, V1 and signed distance on the procedural world, one seed each, minutes "
            "on two cores",
            variants={variant: _demo(config) for variant, config in _DEMO.items()},
            base="base",
            seeds=(0,),
        ),
        Study(
            name="movers",
            about="can labels stand in for flow truth on movers? base, signed distance with census, and the "
            "same by the network's own decoder, from one start a seed; five seeds, an hour on two cores",
            variants=_MOVERS,
            base="base",
            seeds=_FIVE,
            start=Study(
                name="movers-start",
                about="base without flow truth on movers, from scratch: what the movers study starts from",
                variants=_recipes(base="world-movers-start"),
                base="base",
                seeds=_FIVE,
            ),
        ),
        Study(
            name="ideas",
            about="every idea of the notes against base: V1 and smoother, label warp, occlusion, decoders, "
            "consistency; three seeds, three hours on two cores",
            variants=_recipes(base="world-base", **{idea: f"world-{idea}" for idea in _IDEAS}),
            base="base",
            seeds=(0, 1, 2),
        ),
        Study(
            name="few-truths",
            about="a quarter of the pairs with flow truth: do the others teach by their labels? three seeds, "
            "an hour on two cores",
            variants=_recipes(base="world-few-truths-base", semantic="world-few-truths"),
            base="base",
            seeds=(0, 1, 2),
        ),
        Study(
            name="refinements",
            about="trained with 6, 8 and 12 refinements, tested after each of 1 to 32; three seeds, an hour "
            "on two cores",
            variants=_REFINEMENTS,
            base="updates-12",
            seeds=(0, 1, 2),
            may_differ=("num_updates",),
        ),
        DIVERGENCE,
        DIVERGENCE_SEEDS,
        DIVERGENCE_CURED,
        Study(
            name="files",
            about="do labels help on files of your own? base and signed distance with census, three seeds; "
            "give --data.root and --model.weights",
            variants=_recipes(base="files-base", semantic="files-semantic"),
            base="base",
            seeds=(0, 1, 2),
        ),
        Study(
            name="origin",
            about="the study this project started from: base and V1 on VIPER, Virtual KITTI and both, 24 h a "
            "run on a GPU of 2023; give --data.root and --model.weights",
            variants=_ORIGIN,
            base="viper-base",
            seeds=(0, 42, 1234),
            may_differ=("loss", "data.train", "data.validation"),
            against={
                f"{data}-semantic-v1": f"{data}-base" for data in ("virtual-kitti", "viper+virtual-kitti")
            },
        ),
    )
}
"""Every shipped study by name."""
