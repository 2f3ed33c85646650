"""The currency between rooms: what is read, what is trained on, what is predicted.

Conventions (docs/conventions.md says them in full): flow component 0 is u (right +), 1 is v (down +), in
pixels of that array, from frame 1 to frame 2, on frame 1's grid; `valid` is bool and always there; invalid
flow is stored as 0 and never read; labels are in the common taxonomy with 255 ignored; instance 0 is none.
"""

import dataclasses
import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int32, Int64, UInt8

from semraft.records import DamagedFile as DamagedFile

LabelTable = Literal["label-ids", "train-ids", "viper-ids", "virtual-kitti-colours"]
"""Names of the tables by which label files are read (`data.taxonomy.LABEL_TABLES`)."""


class SourceClass(NamedTuple):
    """A class of a data set: its id, name and colour (RGB) there, and its common id."""

    id: int
    name: str
    color: tuple[int, int, int]
    common: int


class OwnTable(NamedTuple):
    """A label table that a file of the user's describes, for label files of ids or of colours."""

    path: str
    classes: tuple[SourceClass, ...]
    by_color: bool
    stuff: tuple[int, ...] = ()
    """Ids of classes whose pixels belong to no instance."""


AnyTable = LabelTable | OwnTable
"""The label table of a data set: one of the public ones by name, or the user's own."""

IGNORE_LABEL = 255
"""The label that never counts, in arrays and tensors alike."""
MAX_FLOW_PX = 400.0
"""Ground truth at least so long is not trained on (RAFT's own limit)."""


class WrongSize(DamagedFile):
    """A file that is sound by itself, but whose height and width are not those of its pair."""


class Window(NamedTuple):
    """A part of a frame, in pixels of the frame."""

    top: int
    left: int
    height: int
    width: int

    def of(self, array: np.ndarray) -> np.ndarray:
        """The window's part of an array, not copied."""
        return array[self.top : self.top + self.height, self.left : self.left + self.width]


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """A part of a frame, scaled and perhaps mirrored, in pixels of the frame but for `size` (`ops.views`).

    Without mirroring its pixel (i, j) is the frame's point (top + i / scale, left + j / scale).
    """

    size: tuple[int, int]
    """Its own height and width."""
    top_px: float
    left_px: float
    scale: float
    """Its pixels per pixel of the frame."""
    upside_down: bool = False
    left_to_right: bool = False


Choose = Callable[[tuple[int, int]], Window]
"""Height and width of a frame -> the window of it that is wanted."""


class FramePart(NamedTuple):
    """Part of every file of a pair that is to be read."""

    window: Window
    frame: tuple[int, int]
    """Height and width that every file of the pair must have."""
    measured: str
    """Name of the file with this size."""

    def within(self, path: Path, size: tuple[int, int]) -> Window:
        """The window, for a file of this height and width.

        Raises:
            WrongSize: They are not the frame's.
        """
        require_size(path, size, self.frame, self.measured)
        return self.window

    def of(self, path: Path, array: np.ndarray) -> np.ndarray:
        """The window of what a file holds, not copied.

        Raises:
            WrongSize: The file's height and width are not the frame's.
        """
        return self.within(path, array.shape[:2]).of(array)


def require_size(path: Path, size: tuple[int, int], frame: tuple[int, int], measured: str) -> None:
    """Checks that a file has a frame's height and width, which are those of the file `measured`.

    Raises:
        WrongSize: It has not.
    """
    (rows, columns), (height, width) = size, frame
    if (rows, columns) != (height, width):
        raise WrongSize(path, f"is {columns}x{rows} (width x height), but {measured} is {width}x{height}")


@dataclass(frozen=True, kw_only=True, slots=True)
class FlowSample:
    """One image pair and all that is known about it, as numpy arrays of one height and width.

    `occluded1` is True where the point seen in frame 1 is not visible in frame 2: covered, or out of frame
    (`occluded2`: the same from frame 2 to frame 1). `moving1` marks pixels of objects that move on their own.
    `valid_noc` is KITTI's: valid and with the match inside frame 2. `sparse` ground truth must never be
    interpolated. None: the data has none.
    """

    id: str
    scene: str
    dataset: str
    image1: UInt8[np.ndarray, "H W 3"]
    image2: UInt8[np.ndarray, "H W 3"]
    flow: Float32[np.ndarray, "H W 2"]
    valid: Bool[np.ndarray, "H W"]
    sparse: bool = False
    valid_noc: Bool[np.ndarray, "H W"] | None = None
    backward_flow: Float32[np.ndarray, "H W 2"] | None = None
    backward_valid: Bool[np.ndarray, "H W"] | None = None
    labels1: UInt8[np.ndarray, "H W"] | None = None
    labels2: UInt8[np.ndarray, "H W"] | None = None
    instances1: Int32[np.ndarray, "H W"] | None = None
    instances2: Int32[np.ndarray, "H W"] | None = None
    occluded1: Bool[np.ndarray, "H W"] | None = None
    occluded2: Bool[np.ndarray, "H W"] | None = None
    moving1: Bool[np.ndarray, "H W"] | None = None

    def part(self, window: Window) -> "FlowSample":
        """The window of every array, not copied; nothing is judged anew."""
        parts: dict[str, Any] = {
            field.name: window.of(array)
            for field in dataclasses.fields(self)
            if isinstance(array := getattr(self, field.name), np.ndarray)
        }
        return dataclasses.replace(self, **parts)


OPTIONAL_FIELDS = (
    "valid_noc",
    "backward_flow",
    "backward_valid",
    "labels1",
    "labels2",
    "instances1",
    "instances2",
    "occluded1",
    "occluded2",
    "moving1",
)
"""The fields of a sample or batch that may be None; a dataset's `provides` is a subset of these."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FlowBatch:
    """Samples stacked as tensors. Images are RGB, float 0..255. A field is None if any sample lacks it."""

    ids: tuple[str, ...]
    image1: Float[torch.Tensor, "B 3 H W"]
    image2: Float[torch.Tensor, "B 3 H W"]
    flow: Float[torch.Tensor, "B 2 H W"]
    valid: Bool[torch.Tensor, "B H W"]
    valid_noc: Bool[torch.Tensor, "B H W"] | None = None
    backward_flow: Float[torch.Tensor, "B 2 H W"] | None = None
    backward_valid: Bool[torch.Tensor, "B H W"] | None = None
    labels1: Int64[torch.Tensor, "B H W"] | None = None
    labels2: Int64[torch.Tensor, "B H W"] | None = None
    instances1: Int64[torch.Tensor, "B H W"] | None = None
    instances2: Int64[torch.Tensor, "B H W"] | None = None
    occluded1: Bool[torch.Tensor, "B H W"] | None = None
    occluded2: Bool[torch.Tensor, "B H W"] | None = None
    moving1: Bool[torch.Tensor, "B H W"] | None = None
    _trusted: dict[float, Bool[torch.Tensor, "B H W"]] = dataclasses.field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def trusted(self, max_flow_px: float = MAX_FLOW_PX) -> Bool[torch.Tensor, "B H W"]:
        """`trusted_pixels` of the batch, computed once: losses, monitor and metrics share the mask."""
        if max_flow_px not in self._trusted:
            self._trusted[max_flow_px] = trusted_pixels(self.flow, self.valid, max_flow_px)
        return self._trusted[max_flow_px]


def trusted_pixels(
    flow_gt: Float[torch.Tensor, "B 2 H W"],
    valid: Bool[torch.Tensor, "B H W"],
    max_flow_px: float = MAX_FLOW_PX,
) -> Bool[torch.Tensor, "B H W"]:
    """The V of the definitions: valid in the file, finite, and shorter than `max_flow_px`."""
    # A comparison with NaN or infinity is False, so this is also the test for finite.
    return valid & (flow_gt.square().sum(dim=1) < max_flow_px**2)


@dataclass(kw_only=True, slots=True)
class Prediction:
    """Output of a network for a pair. `flows` holds one full-resolution flow per refinement asked for.

    `features1`, `features2` are the 1/8 features that the correlation volume compares (unpadded size rounded
    up to a multiple of 8), for the `matching` term. `occlusion` (logits, positive is occluded) and
    `segmentation1`, `segmentation2` (class logits) are None where the network has no such head.
    None unless a loss term asks for it: `backward_flow`, the last flow from frame 2 to frame 1, in pixels of
    frame 2; `still`, the output for a frame and itself; `viewed`, the output for a view.
    """

    flows: list[Float[torch.Tensor, "B 2 H W"]]
    features1: Float[torch.Tensor, "B C h w"]
    features2: Float[torch.Tensor, "B C h w"]
    occlusion: Float[torch.Tensor, "B H W"] | None = None
    segmentation1: Float[torch.Tensor, "B K H W"] | None = None
    segmentation2: Float[torch.Tensor, "B K H W"] | None = None
    backward_flow: Float[torch.Tensor, "B 2 H W"] | None = None
    still: "Prediction | None" = None
    viewed: "Viewed | None" = None

    def detached(self) -> "Prediction":
        """The same without the graph behind it, and without `still` and `viewed`."""
        own: dict[str, Any] = {
            field.name: made.detach()
            for field in dataclasses.fields(self)
            if isinstance(made := getattr(self, field.name), torch.Tensor)
        }
        flows = [flow.detach() for flow in self.flows]
        return dataclasses.replace(self, **own, flows=flows, still=None, viewed=None)

    @property
    def flow(self) -> Float[torch.Tensor, "B 2 H W"]:
        """The last refinement's flow, in pixels."""
        return self.flows[-1]


class Viewed(NamedTuple):
    """A view of a pair, and the flow that the network gives it after each refinement, in its own pixels."""

    view: View
    flows: list[Float[torch.Tensor, "B 2 h w"]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """Output of a network for one pair as arrays: a `Prediction` decided. None: it has no such head."""

    flows: Sequence[Float32[np.ndarray, "H W 2"]]
    """After each refinement asked for, the last one being the prediction."""
    errors_px: Sequence[float] | None = None
    """Sums of the endpoint error over valid pixels after each refinement but the last, where they were taken
    on the device; `flows` is the last one alone then."""
    backward_flow: Float32[np.ndarray, "H W 2"] | None = None
    """From frame 2 to frame 1, where it was asked for."""
    occluded1: Bool[np.ndarray, "H W"] | None = None
    labels1: UInt8[np.ndarray, "H W"] | None = None
    labels2: UInt8[np.ndarray, "H W"] | None = None


class Problem(NamedTuple):
    """Reason why a pair can't be used: the pair, the file, and what is wrong with the file."""

    pair_id: str
    path: Path
    kind: Literal["missing", "empty", "damaged", "size"]
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """One pair before anything is opened: its id, its scene, its files by role (`image1`, `flow`, ...).

    `id` is unique within (dataset, split) and stable across machines; `scene` groups pairs that are not
    independent of each other (a sequence), which is what a bootstrap resamples.
    """

    id: str
    scene: str
    files: dict[str, Path]

    def sizes(self) -> dict[str, int]:
        """Role -> bytes of its file."""
        return {role: path.stat().st_size for role, path in self.files.items()}


@contextmanager
def unreadable_is_damaged(pair: Pair) -> Iterator[None]:
    """Turns the system's refusal to read a file of a pair into a damaged file, which may be skipped.

    Deleted, no permission, a disk or network that fails. Not a lack of the process's own: it has no memory or
    too many open files.

    Raises:
        DamagedFile: The file, or where the system does not name it the first one, and the system's words.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (None, errno.ENOMEM, errno.EMFILE, errno.ENFILE):
            raise
        path = error.filename or next(iter(pair.files.values()), pair.id)
        raise DamagedFile(path, f"can't be read: {error.strerror}") from error


class Origin(NamedTuple):
    """Identity of the files of a pair."""

    sizes: dict[str, int]
    """Role -> bytes of its file."""
    image1_sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class FlowDataset:
    """The usable pairs of one split, how to read one, and what could not be used."""

    name: str
    split: str
    pairs: tuple[Pair, ...]
    read: Callable[[Pair], FlowSample]
    """Raises DamagedFile for a file that does not hold what it should."""
    provides: frozenset[str]
    """The optional fields (OPTIONAL_FIELDS) that every one of its samples has."""
    sparse: bool = False
    problems: tuple[Problem, ...] = ()
    read_window: Callable[[Pair, Choose], tuple[FlowSample, tuple[int, int]]] | None = None
    """Implementation of `read_part` that does not read the whole pair, where there is one."""
    origin: Callable[[Pair], Origin] | None = None
    """Original files of a pair of a copied data set; None: these are the originals."""
    label_table: AnyTable | None = None
    """The table by which its label files are read; None: it has none."""

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> FlowSample:
        with unreadable_is_damaged(self.pairs[index]):
            return self.read(self.pairs[index])

    def read_part(self, pair: Pair, choose: Choose) -> tuple[FlowSample, tuple[int, int]]:
        """The window that `choose` takes of a pair, as in `read`; and height and width of the whole frame.

        Labels and values outside the window are not judged.

        Raises:
            DamagedFile: As `read`, of what is read.
        """
        with unreadable_is_damaged(pair):
            if self.read_window is not None:
                return self.read_window(pair, choose)
            sample = self.read(pair)
        height, width = sample.valid.shape
        return sample.part(choose((height, width))), (height, width)
