"""Named runs: recipe name -> complete configuration. The study's scenarios, RAFT's stages, the small world.

A recipe is a value; what differs from it on the command line is recorded in the run's config.json.
"""

from dataclasses import dataclass, replace

from semraft.config import (
    AugmentConfig,
    Conditioning,
    DataConfig,
    Head,
    LossConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    TermConfig,
    WorldConfig,
    parse_term,
    pretraining,
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """A named run: its purpose and its configuration."""

    about: str
    config: RunConfig


V1 = TermConfig(name="semantic-v1", weight=0.5)
"""The study's semantic loss at the weight its notes give."""
MATCHING = TermConfig(name="matching", weight=0.5)
"""The demo's minutes need it: 2.41 px after 250 steps, 2.82 without (one seed, docs/experiments.md)."""

STUDY = RunConfig(
    data=DataConfig(crop=(288, 960), validation=("viper", "kitti"), validation_pairs=200),
    loss=LossConfig(gamma=0.85),
    optim=OptimConfig(steps=100_000, batch=6, learning_rate=1e-4, weight_decay=1e-5),
)
"""The protocol of the study (the runs that got worse): what its scenarios share."""

WORLD = RunConfig(
    data=DataConfig(
        train="world",
        validation=("world",),
        crop=(96, 192),
        augment=AugmentConfig(min_log2_scale=-0.2, max_log2_scale=0.4, eraser_size_px=(10, 30)),
        world=WorldConfig(size=(128, 256), scenes=320),
    ),
    model=ModelConfig(arch="tiny", recompute="nothing"),
    loss=LossConfig(terms=(MATCHING,)),
    optim=OptimConfig(steps=500, batch=4, learning_rate=2.5e-3),
    num_updates=4,
    validation_updates=6,
    log_every=25,
    validate_every=500,
    checkpoint_every=50,
    saved_pairs=32,  # Small ones: the report shows those with the largest gains and losses.
)
"""A study in minutes on a laptop: the tiny network on the procedural driving world."""


def _with_v1(config: RunConfig) -> RunConfig:
    return replace(config, loss=replace(config.loss, terms=(*config.loss.terms, V1)))


def _on_the_world(
    *terms: str, heads: tuple[Head, ...] = (), conditioning: Conditioning = "none"
) -> RunConfig:
    """world-base with further terms, as one types them, heads, and classes in the context."""
    more = (*WORLD.loss.terms, *map(parse_term, terms))
    model = replace(WORLD.model, heads=heads, conditioning=conditioning)
    return replace(WORLD, model=model, loss=replace(WORLD.loss, terms=more))


_RAMPED = "measure-after=50,ramp=150"
"""From scratch a term enters once flow is more than noise; the rate warms up over 25 of the 500 steps."""


def _by_signed_distance(shares: tuple[float, float], options: str) -> tuple[str, ...]:
    """Things stay as deep inside their class along the flow (signed distance), and look the same (census)."""
    return tuple(
        f"{name}:share={share},where=things,{options}"
        for name, share in zip(("signed-distance", "census"), shares, strict=True)
    )


def _idea_recipes() -> dict[str, Recipe]:
    """The ideas of the study's notes at the world's scale; weights are first guesses, not tuned."""
    decoder = "segmentation:0.5"
    consistency = f"temporal-consistency:share=0.1,{_RAMPED}"
    warp, there = f"label-warp:share=0.4,where=things,{_RAMPED}", "mask=forward-backward"
    still = f"zero-forcing:share=0.1,{_RAMPED}"
    return {
        "world-v1-instance": Recipe(
            "V1's smoothness inside instances instead of classes",
            _on_the_world("smoothness:0.5,order=1,boundary=instance,mask=same-label"),
        ),
        "world-smoothness2": Recipe(
            "second-order smoothness inside classes: planes may slant",
            _on_the_world(f"smoothness:share=0.1,order=2,{_RAMPED}"),
        ),
        "world-label-warp": Recipe(
            "labels of things must match along the flow, but where forward and backward flow disagree",
            _on_the_world(f"{warp},{there}"),
        ),
        "world-signed-distance": Recipe(
            "the demo's third run: things stay as deep inside their class along the flow, and look the same",
            _on_the_world(*_by_signed_distance((0.4, 0.2), _RAMPED)),
        ),
        "world-occlusion": Recipe(
            "label warp where an occlusion head, learning from the exact occlusion, sees frame 2",
            _on_the_world("occlusion:0.5", f"{warp},mask=predicted", heads=("occlusion",)),
        ),
        "world-decoder": Recipe(
            "classes of both frames are decoded from the features that are matched",
            _on_the_world(decoder, heads=("decoder",)),
        ),
        "world-decoder-temporal": Recipe(
            "world-decoder whose classes must agree along the flow",
            _on_the_world(decoder, consistency, heads=("decoder",)),
        ),
        "world-decoder-down": Recipe(
            "world-decoder two stages further down and back up",
            _on_the_world(decoder, heads=("decoder-down",)),
        ),
        "world-decoder-context": Recipe(
            "world-decoder whose classes of both frames enter the context",
            _on_the_world(decoder, heads=("decoder",), conditioning="decoder"),
        ),
        "world-conditioning": Recipe(
            "the true classes of both frames enter the context of world-base; it needs them to be scored too",
            replace(WORLD, model=replace(WORLD.model, conditioning="truth")),
        ),
        "world-occlusion-consistency": Recipe(
            "occlusion by the network's own forward and backward flow, and none in still pictures",
            _on_the_world("occlusion:0.5,mask=forward-backward,ramp=150", still, heads=("occlusion",)),
        ),
        "world-consistency": Recipe(
            "still pictures do not move, and a mirrored, scaled part of a pair moves as the pair",
            _on_the_world(still, f"transform-consistency:share=0.2,{_RAMPED}"),
        ),
    }


def _few_truths_recipes() -> dict[str, Recipe]:
    """A part of the pairs with flow truth, the others with labels and nothing else that is exact."""

    def few(config: RunConfig) -> RunConfig:
        return replace(config, data=replace(config.data, truth_frac=0.25))

    what = "a quarter of the pairs with flow truth"
    by_itself = "where=unsupervised,mask=forward-backward,measure-after=150,ramp=100"
    return {
        "world-few-truths-base": Recipe(f"world-base with {what}", few(WORLD)),
        "world-few-truths": Recipe(
            f"{what}; the others teach by signed distance and census, where forward and backward flow agree",
            few(_on_the_world(f"signed-distance:share=0.4,{by_itself}", f"census:share=0.4,{by_itself}")),
        ),
    }


def _go_on(config: RunConfig) -> RunConfig:
    """250 steps more from a checkpoint, at a third of the rate."""
    return replace(
        config,
        optim=replace(config.optim, steps=250, learning_rate=8e-4),
        validate_every=250,
        validation_updates=config.num_updates,
    )


def _movers_recipes() -> dict[str, Recipe]:
    """No flow truth on what moves, as in KITTI 2012: from scratch, then three ways on from there.

    Shares were chosen on scenes of world seed 1 (docs/experiments.md); these are other scenes.
    """

    def unknown(config: RunConfig, world_seed: int) -> RunConfig:
        world = replace(config.data.world, seed=world_seed)
        return replace(config, data=replace(config.data, truth="static", world=world))

    def go_on(config: RunConfig) -> RunConfig:
        return _go_on(unknown(config, 3))

    what = "no flow truth on what moves"
    shares = (0.6, 0.6)
    itself = "mask=forward-backward,labels=decoder,measure-after=80,ramp=40"
    decoded = ("segmentation:0.5", *_by_signed_distance(shares, itself))
    return {
        "world-movers-start": Recipe(f"world-base with {what}, as in KITTI 2012", unknown(WORLD, 2)),
        "world-movers-base": Recipe(f"250 steps more, {what}; give --model.weights", go_on(WORLD)),
        "world-movers-signed-distance": Recipe(
            f"250 steps more, {what}: things are led by signed distance and census; give --model.weights",
            go_on(_on_the_world(*_by_signed_distance(shares, "ramp=50"))),
        ),
        "world-movers-decoder": Recipe(
            f"250 steps more, {what}: the same by the network's own decoder and forward-backward occlusion, "
            f"without an exact label; give --model.weights",
            go_on(_on_the_world(*decoded, heads=("decoder",))),
        ),
    }


def _divergence_recipes() -> dict[str, Recipe]:
    """Does V1 get worse where the base loss does not, and what of the original code makes it so?

    docs/divergence.md says what that did. It had no matching term, so none is here. World seed 4 is for
    choosing, 5 for reporting.
    """
    world = replace(WORLD.data.world, seed=5)
    clean = _go_on(replace(WORLD, data=replace(WORLD.data, world=world), loss=LossConfig()))
    return {
        "world-divergence-base": Recipe("250 steps more, the flow loss alone; give --model.weights", clean),
        "world-divergence-v1": Recipe(
            "250 steps more, with semantic smoothness V1; give --model.weights", _with_v1(clean)
        ),
    }


def _overfit(config: RunConfig) -> RunConfig:
    return replace(
        config,
        data=replace(config.data, train_pairs=100),
        optim=replace(config.optim, steps=5000),
        validate_every=1000,
    )


def _study_recipes() -> dict[str, Recipe]:
    mixtures = {
        "viper": ("viper", ("viper", "kitti")),
        "virtual-kitti": ("virtual-kitti", ("virtual-kitti", "kitti")),
        "viper+virtual-kitti": ("viper:0.5,virtual-kitti:0.5", ("viper", "virtual-kitti", "kitti")),
    }
    recipes: dict[str, Recipe] = {}
    for name, (train, validation) in mixtures.items():
        base = replace(STUDY, data=replace(STUDY.data, train=train, validation=validation))
        what = f"fine-tune RAFT on {name.replace('+', ' and ')}, the study's protocol; give --model.weights"
        few = f"overfit 100 pairs of {name.replace('+', ' and ')}: does the loss fall at all?"
        recipes |= {
            f"{name}-baseline": Recipe(what, base),
            f"{name}-semantic-v1": Recipe(f"{what}; with semantic smoothness V1", _with_v1(base)),
            f"{name}-overfit-100": Recipe(few, _overfit(base)),
            f"{name}-overfit-100-semantic-v1": Recipe(
                f"{few} With semantic smoothness V1", _with_v1(_overfit(base))
            ),
        }
    return recipes


def _files_recipes() -> dict[str, Recipe]:
    """Fine-tuning on files of one's own: a short run, and the terms that helped most in the studies.

    Few have occlusion maps: the mask is by the network's own forward and backward flow.
    """
    base = replace(
        STUDY,
        data=replace(STUDY.data, train="files", validation=("files",)),
        loss=LossConfig(),
        optim=replace(STUDY.optim, steps=2000, batch=4),
        log_every=50,
        validate_every=500,
        checkpoint_every=250,
    )
    terms = tuple(map(parse_term, _by_signed_distance((0.4, 0.2), "mask=forward-backward,ramp=200")))
    what = "fine-tune RAFT on files of your own; give --data.root and --model.weights"
    return {
        "files-base": Recipe(what, base),
        "files-semantic": Recipe(
            f"{what}; things stay as deep inside their class along the flow, and look the same",
            replace(base, loss=replace(base.loss, terms=terms)),
        ),
    }


def _stage(train: str, crop: tuple[int, int], scales: tuple[float, float], optim: OptimConfig) -> RunConfig:
    """A stage of RAFT's own pre-training, judged on Sintel."""
    return RunConfig(
        data=DataConfig(
            train=train,
            validation=("sintel", "sintel-final"),
            crop=crop,
            augment=AugmentConfig(min_log2_scale=scales[0], max_log2_scale=scales[1]),
        ),
        optim=optim,
        validation_updates=32,
    )


def _make() -> dict[str, Recipe]:
    recipes = {
        "world-base": Recipe(
            "the demo's base run: tiny RAFT on the procedural world, minutes on two cores", WORLD
        ),
        "world-semantic-v1": Recipe(
            "the demo's semantic run: world-base with semantic smoothness V1", _with_v1(WORLD)
        ),
        "world-long": Recipe(
            "tiny RAFT on the procedural world, 40 minutes on one core: a lower EPE than OpenCV DIS (medium)",
            replace(
                WORLD,
                data=replace(WORLD.data, world=replace(WORLD.data.world, scenes=2000)),
                optim=replace(WORLD.optim, steps=4000, learning_rate=2e-3),
                log_every=100,
                validate_every=1000,
                checkpoint_every=250,
            ),
        ),
        "chairs": Recipe(
            "RAFT's first stage: FlyingChairs from scratch",
            _stage(
                "flying-chairs",
                (368, 496),
                (-0.1, 1.0),
                OptimConfig(batch=10, learning_rate=4e-4, weight_decay=1e-4),
            ),
        ),
        "things": Recipe(
            "RAFT's second stage: FlyingThings3D; give the first stage's --model.weights",
            _stage(
                "flying-things",
                (400, 720),
                (-0.4, 0.8),
                OptimConfig(batch=6, learning_rate=1.25e-4, weight_decay=1e-4),
            ),
        ),
        **_idea_recipes(),
        **_movers_recipes(),
        **_few_truths_recipes(),
        **_divergence_recipes(),
        **_study_recipes(),
        **_files_recipes(),
        **{
            name: Recipe(pretraining.about(config), config)
            for chain in pretraining.CHAINS.values()
            for name, config in chain.items()
        },
    }
    return named(recipes)


def named(recipes: dict[str, Recipe]) -> dict[str, Recipe]:
    """The recipes with their names in their configurations."""
    return {
        name: replace(recipe, config=replace(recipe.config, recipe=name)) for name, recipe in recipes.items()
    }


RECIPES = _make()
"""Every recipe by name."""
