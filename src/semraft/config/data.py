"""What is trained on and validated on: the part of a run's configuration that is about data."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

CORES = "SEMRAFT_CORES"
"""The variable by which a study tells a run how many cores are its own (`data.workers`)."""


def require(ok: bool, option: str, value: object, expected: str) -> None:
    """Refuses a value of a field, by its name on the command line."""
    if not ok:
        raise ValueError(f"--{option} is {value}: expected {expected}")


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig:
    """Random geometry and colour of a training pair; the defaults are the study's."""

    enabled: bool = True
    """Off: a random crop only."""
    scale_probability: float = 0.8
    """How often a pair is resized at all."""
    min_log2_scale: float = -0.5
    """Smallest resize, as a power of two. A crop that would not fit raises it for that pair."""
    max_log2_scale: float = 0.2
    """Largest resize, as a power of two."""
    stretch_probability: float = 0.8
    """How often a resize differs between width and height."""
    max_log2_stretch: float = 0.2
    """Largest difference, as a power of two, in either direction."""
    horizontal_flip_probability: float = 0.5
    """How often left and right change places."""
    vertical_flip_probability: float = 0.1
    """How often up and down change places."""
    brightness: float = 0.4
    """Largest relative change of brightness."""
    contrast: float = 0.4
    """Largest relative change of contrast."""
    saturation: float = 0.4
    """Largest relative change of saturation."""
    hue_turns: float = 0.5 / 3.141592653589793
    """Largest shift of hue, in turns of the colour circle."""
    asymmetric_probability: float = 0.2
    """How often the two frames get different colours."""
    eraser_probability: float = 0.5
    """How often one or two boxes of frame 2 are painted over with its mean colour."""
    eraser_size_px: tuple[int, int] = (50, 100)
    """Smallest and largest side of an erased box."""
    invalid_targets: Literal["left-out", "as-zero", "as-65504"] = "left-out"
    """Where a resize mixes flow that is known with what is not: only what is known by itself is learnt; or,
    as in the original study, all flow is blended, what is not known as 0 px (its NaN) or as 65504 px (its
    infinity), and what has any known part is learnt. Sparse truth is never blended."""
    labels: Literal["nearest", "grey-blended"] = "nearest"
    """How labels are resized: each from its nearest pixel; or, as in the original study at first, as grey
    levels of their classes' colours that are blended, so that new classes lie along every border."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldConfig:
    """The procedural driving world, for the data set called `world`."""

    size: tuple[int, int] = (128, 256)
    """Height and width of a frame in pixels."""
    seed: int = 0
    """The world's own seed; the run's seed does not change the scenes."""
    scenes: int = 320
    """Number of training scenes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShapesConfig:
    """Layered scenes for pre-training, for the data set called `shapes`."""

    size: tuple[int, int] = (256, 320)
    """Height and width of a frame in pixels: little more than the crop, as nothing else is used."""
    seed: int = 0
    """The scenes' own seed; the run's seed does not change them."""
    scenes: int = 100_000
    """Number of training scenes."""
    motion_px: float = 15.0
    """About the mean length of flow in pixels; scenes differ much, and no object moves by more than half of
    the frame."""
    effects: bool = True
    """Noise, fog, shadows, uneven light, and blur and exposure that change between the frames."""
    textures: str = ""
    """A folder of pictures (jpg, png, ppm) to take as textures; procedural ones without it."""

    def __post_init__(self) -> None:
        require(min(self.size) >= 64, "data.shapes.size", self.size, "height and width of at least 64 px")
        require(self.seed >= 0, "data.shapes.seed", self.seed, "0 or more")
        require(self.scenes >= 1, "data.shapes.scenes", self.scenes, "1 or more")
        require(self.motion_px >= 0, "data.shapes.motion-px", self.motion_px, "0 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """What is trained on and validated on."""

    train: str = "world"
    """Data sets, with weights when there are several: `viper:0.7,virtual-kitti:0.3`."""
    root: str = ""
    """Where the data lies: a folder, or one for each set: `viper=/data/viper,kitti=/data/kitti2015`."""
    train_pairs: int | None = None
    """Train on so many pairs of each set only, drawn once by `draw_seed` (overfitting studies)."""
    truth: Literal["all", "static"] = "all"
    """The flow truth that is trained on: `static` hides that of objects that move: KITTI 2012 has none."""
    truth_frac: float = 1.0
    """The part of the training pairs of each set, drawn by `draw_seed`, that have flow truth; the others have
    pictures and labels alone."""
    validation: tuple[str, ...] = ("world",)
    """Data sets to validate on; one without a root is left out, and the run says so."""
    validation_pairs: int = 200
    """Pairs in the validation draw of each set; KITTI is always taken whole."""
    draw_seed: int = 0
    """The seed of the validation draw, the same in every run whatever its own seed."""
    crop: tuple[int, int] = (288, 960)
    """Height and width of a training crop in pixels."""
    damaged: Literal["refuse", "skip"] = "refuse"
    """A damaged training pair stops the run, or is skipped, counted and named in skipped.jsonl."""
    draws: Literal["by-seed", "fixed"] = "by-seed"
    """What sample order and augmentation are drawn by: the run's seed; or 0 whatever that is, as in the
    original study, so that runs from one checkpoint are one run."""
    workers: int | Literal["auto"] = "auto"
    """Loader processes; 0 loads in the training process. `auto` goes by the device and by the cores that the
    process may use; a run's environment.json says how many that were. What is trained on is the same."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Augmentation."""
    world: WorldConfig = field(default_factory=WorldConfig)
    """The procedural world."""
    shapes: ShapesConfig = field(default_factory=ShapesConfig)
    """The layered scenes."""

    def drawn_by(self, seed: int) -> int:
        """The seed that sample order and augmentation of a run with `seed` are drawn by."""
        return seed if self.draws == "by-seed" else 0

    def __post_init__(self) -> None:
        fits = all(side % 8 == 0 and side >= 64 for side in self.crop)
        require(fits, "data.crop", self.crop, "two multiples of 8, 64 at least")
        require(0 <= self.truth_frac <= 1, "data.truth-frac", self.truth_frac, "0 to 1")
        right = self.workers == "auto" or self.workers >= 0
        require(right, "data.workers", self.workers, "auto, or 0 or more")
        require(self.validation_pairs >= 1, "data.validation-pairs", self.validation_pairs, "1 or more")


def parse_mixture(text: str) -> tuple[tuple[str, float], ...]:
    """Reads `viper` or `viper,kitti` (equal weights) or `viper:0.7,virtual-kitti:0.3`, in the order written.

    Raises:
        ValueError: Not of this form, a data set twice, or a weight that is not a positive number.
    """
    form = "expected NAME or NAME:WEIGHT,NAME:WEIGHT,..."
    mixture: dict[str, float] = {}
    for part in text.split(","):
        name, colon, weight = (piece.strip() for piece in part.partition(":"))
        if not name:
            raise ValueError(f"data mixture {text!r}: a name is empty; {form}")
        if name in mixture:
            raise ValueError(f"data mixture {text!r}: {name} is there twice; write it once, with one weight")
        if bool(colon) != (":" in text):
            raise ValueError(f"data mixture {text!r}: {name} has no weight but others have; {form}")
        try:
            mixture[name] = float(weight) if colon else 1.0
        except ValueError:
            raise ValueError(
                f"data mixture {text!r}: the weight {weight!r} is not a number; {form}"
            ) from None
        if not 0 < mixture[name] < float("inf"):
            raise ValueError(f"data mixture {text!r}: the weight of {name} must be above 0, got {weight}")
    return tuple(mixture.items())


def parse_roots(text: str, names: Sequence[str]) -> dict[str, Path | None]:
    """Where each of the data sets `names` lies, None where `text` does not say.

    `text` is empty, or one folder (a data set is in its subfolder NAME if there is one, else in the folder
    itself), or NAME=FOLDER,NAME=FOLDER,... for some or all of the names and perhaps others.

    Raises:
        ValueError: NAME=FOLDER for some parts only, or a name twice.
    """
    if not text:
        return dict.fromkeys(names)
    if "=" not in text:
        root = Path(text).expanduser()
        return {name: root / name if (root / name).is_dir() else root for name in names}
    folders: dict[str, Path] = {}
    for part in text.split(","):
        name, equals, folder = (piece.strip() for piece in part.partition("="))
        if not (name and equals and folder):
            raise ValueError(f"data root {text!r}: expected NAME=FOLDER in every part, got {part!r}")
        if name in folders:
            raise ValueError(f"data root {text!r}: {name} is there twice; keep one folder")
        folders[name] = Path(folder).expanduser()
    return {name: folders.get(name) for name in names}
