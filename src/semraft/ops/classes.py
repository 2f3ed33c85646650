"""The common classes of all data sets. Their encodings in files are in `data.taxonomy`."""

from collections.abc import Iterable
from typing import NamedTuple

Color = tuple[int, int, int]


class CommonClass(NamedTuple):
    """A class of the common taxonomy; `color` (RGB) is for pictures only."""

    id: int
    name: str
    color: Color


CLASSES = (
    CommonClass(0, "road", (128, 64, 128)),
    CommonClass(1, "sidewalk", (244, 35, 232)),
    CommonClass(2, "terrain", (152, 251, 152)),
    CommonClass(3, "building", (70, 70, 70)),
    CommonClass(4, "barrier", (190, 153, 153)),
    CommonClass(5, "street_object", (220, 220, 0)),
    CommonClass(6, "vegetation", (107, 142, 35)),
    CommonClass(7, "sky", (70, 130, 180)),
    CommonClass(8, "person", (220, 20, 60)),
    CommonClass(9, "two_wheeler", (119, 11, 32)),
    CommonClass(10, "car", (0, 0, 142)),
    CommonClass(11, "large_vehicle", (0, 60, 100)),
)
SKY = 7
"""The class that has no ground-truth flow in any data set."""


def class_ids(names: Iterable[str]) -> tuple[int, ...]:
    """The ids of classes by name.

    Raises:
        ValueError: A name that no class has.
    """
    known = {entry.name: entry.id for entry in CLASSES}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"no class is called {' or '.join(unknown)}: choose from {', '.join(known)}")
    return tuple(known[name] for name in names)


THINGS = class_ids(("person", "two_wheeler", "car", "large_vehicle"))
"""Classes of countable objects, which may move on their own; all others are stuff, and stand still."""
PLANAR = class_ids(("road", "sidewalk", "terrain", "building", "barrier"))
"""Classes whose segments are planes, more or less."""
RIGID = (*class_ids(("street_object",)), *THINGS)
"""Classes whose segments are small or far enough for an affine motion."""
