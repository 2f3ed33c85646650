"""Follow-up commands that would settle the cause of a bad run, made of its own configuration and folder."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from semraft.config import DataConfig, RunConfig, TermConfig, term_text
from semraft.config.data import parse_mixture, parse_roots

LOWER = 3.0
"""Divisor of a learning rate to see whether it was too high."""


def repeat(run: Path, suffix: str, *options: str) -> str:
    """The same run with one thing changed, beside it: RUN-SUFFIX."""
    folder = run if run.name else run.resolve()
    return shlex.join(["semraft", "train", "--from", str(folder), *options, "--output", f"{folder}-{suffix}"])


def at_rate(run: Path, rate: float) -> str:
    """The run at another peak of its schedule."""
    return repeat(run, f"rate-{rate:.3g}", "--optim.learning-rate", f"{rate:.6g}")


def without_term(run: Path, terms: Sequence[TermConfig], left_out: str) -> str:
    """The run with its terms but one."""
    kept = [term_text(term) for term in terms if term.name != left_out]
    return repeat(run, f"without-{left_out}", "--loss.terms", *kept)


def data_check(data: DataConfig) -> str:
    """A look at every training set: files, and whether its flow fits its pictures."""
    return " && ".join(
        shlex.join(["semraft", "data", "check", *([root] if root else []), "--dataset", name])
        for name, root in training_sets(data)
    )


def score(run: Path, config: RunConfig, split: str) -> str:
    """The best and the last checkpoint on a part of the first training set."""
    folder = run / "checkpoints"
    name, root = training_sets(config.data)[0]
    where = ["--root", root] if root else []
    made = {"world": config.data.world.size, "shapes": config.data.shapes.size}
    size = ["--size", *map(str, made[name])] if name in made else []
    pairs = ["--pairs", str(config.data.validation_pairs)]
    files = [str(folder / "best.pt"), str(folder / "last.pt")]
    return shlex.join(
        ["semraft", "evaluate", *files, "--dataset", name, *where, "--split", split, *pairs, *size]
    )


def more_data(run: Path, config: RunConfig) -> str:
    """A test for overfitting: more pairs, or the score on training pairs."""
    if config.data.train_pairs is not None:
        return repeat(run, "all-pairs", "--data.train-pairs", "None")
    if config.data.train == "world":
        scenes = 4 * config.data.world.scenes
        return repeat(run, f"scenes-{scenes}", "--data.world.scenes", str(scenes))
    return score(run, config, "train")


def training_sets(data: DataConfig) -> list[tuple[str, str]]:
    """Each training set and its root, empty where none is given."""
    names = [name for name, _ in parse_mixture(data.train)]
    return [(name, str(root or "")) for name, root in parse_roots(data.root, names).items()]
