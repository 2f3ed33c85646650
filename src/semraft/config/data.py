"""Data of a run: the part of its configuration about training and validation data."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal, get_args

IdTable = Literal["label-ids", "train-ids", "viper-ids"]
ID_TABLES: tuple[IdTable, ...] = get_args(IdTable)
"""Tables of the ids that label files can hold: Cityscapes labelIds and labelTrainIds, VIPER's ids."""

CORES = "SEMRAFT_CORES"
"""Environment variable with the number of cores that a study gives to a run (`data.workers`)."""


def require(ok: bool, option: str, value: object, expected: str) -> None:
    """Refuses a value of a field, by its name on the command line."""
    if not ok:
        raise ValueError(f"--{option} is {value}: expected {expected}")


def require_range(owner: object, prefix: str, low: int, high: int | float, *names: str) -> None:
    """Refuses fields of a part of the configuration that are not numbers from `low` to `high`."""
    expected = f"{low:g} or more" if math.isinf(high) else f"{low:g} to {high:g}"
    for name in names:
        value = getattr(owner, name)
        for number in value if isinstance(value, tuple) else (value,):
            fits = low <= number <= high and math.isfinite(number)  # False for NaN.
            require(fits, f"{prefix}{name.replace('_', '-')}", value, expected)


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

    def __post_init__(self) -> None:
        often = [field.name for field in fields(self) if field.name.endswith("_probability")]
        require_range(self, "data.augment.", 0, 1, "hue_turns", *often)
        require_range(self, "data.augment.", 0, math.inf, "brightness", "contrast", "saturation")
        require_range(self, "data.augment.", 1, math.inf, "eraser_size_px")
        require_range(self, "data.augment.", -4, 4, "min_log2_scale", "max_log2_scale", "max_log2_stretch")
        for least, most in ((self.min_log2_scale, self.max_log2_scale), self.eraser_size_px):
            require(least <= most, "data.augment", f"from {least} to {most}", "the smaller number first")


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldConfig:
    """The procedural driving world, for the data set called `world`."""

    size: tuple[int, int] = (128, 256)
    """Height and width of a frame in pixels."""
    seed: int = 0
    """The world's own seed; the run's seed does not change the scenes."""
    scenes: int = 320
    """Number of training scenes."""

    def __post_init__(self) -> None:
        require_range(self, "data.world.", 64, 16384, "size")
        require_range(self, "data.world.", 0, math.inf, "seed")
        require_range(self, "data.world.", 1, math.inf, "scenes")


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
        require_range(self, "data.shapes.", 64, 16384, "size")
        require_range(self, "data.shapes.", 0, math.inf, "seed", "motion_px")
        require_range(self, "data.shapes.", 1, math.inf, "scenes")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Training and validation data."""

    train: str = "world"
    """Data sets, with weights when there are several: `viper:0.7,virtual-kitti:0.3`."""
    root: str = ""
    """Where the data lies: a folder, or one for each set: `viper=/data/viper,kitti=/data/kitti2015`."""
    split: str = ""
    """Pairs of the training data that are held out and validated on instead of the set's own: a share of
    them, by whole scenes (`0.2`), or a file with an id or scene on each line; for all sets that are trained
    on, or by name (`kitti=0.2,viper=held-out.txt`)."""
    label_table: str = ""
    """The table of the ids in label files: `label-ids` or `train-ids` (Cityscapes) or `viper-ids`; for all
    sets whose labels are ids, or by name (`kitti=train-ids`). Without it the set's own, and a run stops at
    files that clearly hold the ids of another."""
    train_pairs: int | None = None
    """Train on so many pairs of each set only, drawn once by `draw_seed` (overfitting studies)."""
    truth: Literal["all", "static"] = "all"
    """The flow truth that is trained on: `static` hides that of objects that move: KITTI 2012 has none."""
    truth_frac: float = 1.0
    """The part of the training pairs of each set, drawn by `draw_seed`, that have flow truth; the others have
    pictures and labels alone."""
    validation: tuple[str, ...] = ("world",)
    """Data sets to validate on; one without a root is left out with a warning."""
    validation_pairs: int = 200
    """Pairs in the validation draw of each set; KITTI is always taken whole."""
    draw_seed: int = 0
    """The seed of the validation draw, the same in every run whatever its own seed."""
    crop: tuple[int, int] = (288, 960)
    """Height and width of a training crop in pixels."""
    damaged: Literal["refuse", "skip"] = "refuse"
    """A damaged training pair stops the run, or is skipped, counted and named in skipped.jsonl."""
    missing: Literal["skip", "refuse"] = "skip"
    """A file that a pair lacks (its second frame, a label file) costs that pair, or stops the run."""
    small_frames: Literal["refuse", "enlarge"] = "refuse"
    """A frame smaller than the crop stops the run as a damaged pair does, or is enlarged."""
    workers: int | Literal["auto"] = "auto"
    """Loader processes; 0 loads in the training process. `auto` goes by the device and by the cores that the
    process may use; a run's environment.json has their number. The samples are the same."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Augmentation."""
    world: WorldConfig = field(default_factory=WorldConfig)
    """The procedural world."""
    shapes: ShapesConfig = field(default_factory=ShapesConfig)
    """The layered scenes."""

    def table_of(self, name: str) -> IdTable | None:
        """The label table chosen for a data set; None: its own."""
        chosen = by_name(self.label_table, [name], "data.label-table").get(name)
        return next((table for table in ID_TABLES if table == chosen), None)

    def __post_init__(self) -> None:
        fits = all(side % 8 == 0 and side >= 64 for side in self.crop)
        require(fits, "data.crop", self.crop, "two multiples of 8, 64 at least")
        require_range(self, "data.", 0, 1, "truth_frac")
        require_range(self, "data.", 0, math.inf, "draw_seed")
        right = self.workers == "auto" or self.workers >= 0
        require(right, "data.workers", self.workers, "auto, or 0 or more")
        pairs = ("validation_pairs",) if self.train_pairs is None else ("validation_pairs", "train_pairs")
        require_range(self, "data.", 1, math.inf, *pairs)
        for table in by_name(self.label_table, None, "data.label-table").values():
            require(table in ID_TABLES, "data.label-table", table, " or ".join(ID_TABLES))


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


_NAME = re.compile(r"(?:^|,)\s*([a-z][\w-]*)\s*=")
"""The start of NAME=VALUE."""


def by_name(text: str, names: Sequence[str] | None, option: str) -> dict[str, str]:
    """The value of an option for each of the data sets `names`; a name is missing where there is none.

    `text` is one value for all, or NAME=VALUE,NAME=VALUE,... for some or all of the names and perhaps others.
    A value may be a path with `=` and `,` in it, as far as no data set of `names` is called like a part of it
    or the path exists. Without `names` the values of all names there are.

    Raises:
        ValueError: A value is empty, or a name there twice.
    """
    if not is_by_name(text):
        return dict.fromkeys(["all"] if names is None else names, text) if text else {}
    found = list(_NAME.finditer(text))
    ends = [later.start() for later in found[1:]] + [len(text)]
    values: dict[str, str] = {}
    last, start = found[0][1], found[0].end()
    for match, end in zip(found, ends, strict=True):
        is_part = match[1] not in (names or ()) and _exists(text[start:end])
        if match is not found[0] and not is_part:
            last, start = match[1], match.end()
            if last in values:
                raise ValueError(f"--{option} {text!r}: {last} is there twice; keep one")
        values[last] = text[start:end].strip()
    if empty := [name for name, value in values.items() if not value]:
        raise ValueError(f"--{option} {text!r}: {empty[0]} has no value, expected NAME=VALUE,NAME=VALUE,...")
    return values if names is None else {name: values[name] for name in names if name in values}


def _exists(path: str) -> bool:
    return Path(path.strip()).expanduser().exists()


def is_by_name(text: str) -> bool:
    """True where an option's text has a value for each data set rather than one for all."""
    return _NAME.match(text) is not None and not _exists(text)


def parse_roots(text: str, names: Sequence[str]) -> dict[str, Path | None]:
    """The folder of each of the data sets `names`, None where `text` has none.

    `text` is as in `by_name`. In a folder for all, a data set is in the subfolder of its name if there is
    one, else in the folder itself.

    Raises:
        ValueError: As `by_name`.
    """
    folders = {name: Path(value).expanduser() for name, value in by_name(text, names, "data.root").items()}
    if not is_by_name(text):
        folders = {
            name: folder / name if (folder / name).is_dir() else folder for name, folder in folders.items()
        }
    return {name: folders.get(name) for name in names}
