"""The readings of a batch against the same worked out point by point, and what planted faults do to them."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from semraft.config import WorldConfig
from semraft.data import open_dataset
from semraft.data.loader import collate
from semraft.monitor.data_checks import (
    CUT,
    FACTORS,
    STRIDE_PX,
    Readings,
    at_points,
    between_frac,
    read,
    read_by_tensors,
)
from semraft.sample import FlowBatch


@pytest.fixture(scope="module")
def batch() -> FlowBatch:
    world = open_dataset("world", None, "train", WorldConfig(size=(72, 104), scenes=3))
    return collate([world[index] for index in range(3)])


def by_hand(batch: FlowBatch, number: int, change: str, factor: float = 1.0) -> tuple[int, float]:
    """Points and mean misfit of one reading of one sample, one point after another."""
    pictures = [image[number, 1].double().numpy() for image in (batch.image1, batch.image2)]
    grids = [picture[STRIDE_PX // 2 :: STRIDE_PX, STRIDE_PX // 2 :: STRIDE_PX] for picture in pictures]
    before, after = (
        (picture - grid.mean()) / max(grid.std(ddof=1), 1)
        for picture, grid in zip(pictures, grids, strict=True)
    )
    height, width = before.shape

    def seen(x: float, y: float) -> float | None:
        if not (0 <= x <= width - 1 and 0 <= y <= height - 1):
            return None
        left, top = min(math.floor(x), width - 2), min(math.floor(y), height - 2)
        a, b = x - left, y - top
        upper = (1 - a) * after[top, left] + a * after[top, left + 1]
        lower = (1 - a) * after[top + 1, left] + a * after[top + 1, left + 1]
        return float((1 - b) * upper + b * lower)

    missed = []
    for row in range(STRIDE_PX // 2, height, STRIDE_PX):
        for column in range(STRIDE_PX // 2, width, STRIDE_PX):
            u, v = batch.flow[number, :, row, column].double().tolist()
            known = bool(batch.valid[number, row, column])
            if not known or u * u + v * v < 1 or seen(column + u, row + v) is None:
                continue
            x, y = {"given": (u, v), "swapped": (v, u), "still": (0.0, 0.0)}[change]
            found = seen(column + factor * x, row + factor * y)
            found = float(after[row, column]) if found is None else found
            missed.append(min(abs(found - before[row, column]), CUT))
    return len(missed), sum(missed) / len(missed)


@pytest.mark.parametrize("way", [read, read_by_tensors])
def test_against_point_by_point(batch: FlowBatch, way: Callable[..., Readings]) -> None:
    """Red when: u and v, rows and columns, the grid, or what leaves the frame are mistaken."""
    found = way(batch.image1, batch.image2, batch.flow, batch.valid)
    for number in range(3):
        points, given = by_hand(batch, number, "given")
        assert int(found.points[number]) == points
        assert float(found.as_given[number]) == pytest.approx(given, abs=1e-4)
        assert float(found.swapped[number]) == pytest.approx(by_hand(batch, number, "swapped")[1], abs=1e-4)
        assert float(found.still[number]) == pytest.approx(by_hand(batch, number, "still")[1], abs=1e-4)
        scaled = min(by_hand(batch, number, "given", factor)[1] for factor in FACTORS)
        assert float(found.scaled[number]) == pytest.approx(scaled, abs=1e-4)


def test_a_misread_flow_fits_worse_than_its_reading(batch: FlowBatch) -> None:
    visible = batch.valid & ~batch.occluded1 if batch.occluded1 is not None else batch.valid
    sound = read(batch.image1, batch.image2, batch.flow, visible)
    assert (sound.as_given < sound.swapped).all()
    assert (sound.as_given < sound.still).all()
    swapped = read(batch.image1, batch.image2, batch.flow.flip(1), visible)
    assert (swapped.swapped < 0.85 * swapped.as_given).all()
    short = read(batch.image1, batch.image2, 0.8 * batch.flow, visible)
    assert (short.scaled < 0.85 * short.as_given).all()
    standing = read(batch.image1, batch.image1, batch.flow, visible)
    assert (standing.still < 1e-6).all()
    assert (standing.scaled > 0.01).all()  # No motion at all is no other length of it.


def test_both_ways_see_the_same_standstill(batch: FlowBatch) -> None:
    """With flow that is no number among the rest. Red when: the compiled loop counts other pixels."""
    flow = torch.where(batch.valid[:, None], batch.flow, torch.nan)
    flow[:, :, 20:50, 30:80] = 0
    results = [way(batch.image1, batch.image2, flow, batch.valid) for way in (read, read_by_tensors)]
    assert (results[0].standing_points > 0).all()
    for one, other in zip(*results, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_pixels_that_seem_to_stand_still(batch: FlowBatch) -> None:
    """Red when: the misfit of pixels without motion is not that of the pictures, or hidden pixels count."""
    hidden = torch.zeros_like(batch.valid)
    hidden[:, 20:50, 30:80] = True
    flow = torch.where(hidden[:, None], 0, batch.flow)
    inside = int(at_points(batch.valid & hidden)[0].sum())
    seen, unseen = (
        read(batch.image1, batch.image2, flow, trusted) for trusted in (batch.valid, batch.valid & ~hidden)
    )
    assert (seen.standing_points[0] - unseen.standing_points[0]) == inside
    assert (seen.standing > 0.05).all()
    same = read(batch.image1, batch.image1, torch.zeros_like(flow), batch.valid)
    assert (same.standing == 0).all()
    assert (same.points == 0).all()


def test_classes_between_others() -> None:
    """Red when: a border is anything but a change along the row, or equal classes count as between."""
    labels = torch.tensor([[[1, 1, 5, 5, 5], [1, 3, 5, 5, 5], [1, 9, 5, 5, 5]]])
    # Borders: row 0 at columns 1 and 2 (1|5 with 1 and 5 between: none), row 1 twice (3 is between once),
    # row 2 twice; none at column 3.
    assert float(between_frac(labels)) == pytest.approx(1 / 6)
    assert float(between_frac(torch.full((2, 3, 5), 4))) == 0


def test_no_point_is_no_misfit() -> None:
    image = torch.from_numpy(np.full((1, 3, 64, 72), 7.0, np.float32))
    found = read(image, image, torch.zeros(1, 2, 64, 72), torch.ones(1, 64, 72, dtype=torch.bool))
    # All 16 x 18 points stand still, and fit.
    assert [float(value.sum()) for value in found] == [0, 0, 0, 0, 0, 288, 0]
