"""Truncated distances against scipy's exact transform."""

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt

from semraft.ops.distance import (
    boundary_distance,
    distance_to,
    distances_by_class,
    signed_distances_by_class,
    squared_by_windows,
)
from semraft.ops.labels import segment_ids


def exact(mask: np.ndarray, radius_px: int) -> np.ndarray:
    """scipy's distance to the nearest True pixel, cut; without one, the radius."""
    if not mask.any():
        return np.full(mask.shape, radius_px, np.float32)
    return np.minimum(distance_transform_edt(~mask), radius_px)


@pytest.mark.parametrize("radius_px", [1, 5, 16, 127])
@pytest.mark.parametrize("share", [0.002, 0.05, 0.5])
def test_distance_equals_scipy(rng: np.random.Generator, radius_px: int, share: float) -> None:
    """Red when: the cut comes before the second axis, or a distance beyond the radius is missed by one."""
    masks = rng.random((2, 3, 41, 67)) < share
    masks[1, 2] = False
    found = distance_to(torch.from_numpy(masks), radius_px)
    for mask, distance in zip(masks.reshape(-1, 41, 67), found.view(-1, 41, 67), strict=True):
        np.testing.assert_allclose(distance.numpy(), exact(mask, radius_px), atol=1e-5)
    by_windows = squared_by_windows(torch.from_numpy(masks[1]), radius_px)
    assert torch.equal(by_windows.float().sqrt(), found[1])


def test_images_thinner_than_the_radius() -> None:
    """Red when: a shift is longer than the image."""
    mask = torch.zeros(1, 3, dtype=torch.bool)
    mask[0, 0] = True
    assert distance_to(mask, 16).tolist() == [[0, 1, 2]]
    for wrong in (0, 128):
        with pytest.raises(ValueError, match="1 to 127"):
            distance_to(mask, wrong)


def test_classes_and_signs(rng: np.random.Generator) -> None:
    """Red when: inside is negative, classes change places, or an ignored region has a border."""
    labels = np.kron(rng.choice([2, 7, 7, 300, 255], (2, 5, 6)), np.ones((7, 5), np.int64))
    classes = np.array([2, 7, 11, 300])
    tensor = torch.from_numpy(labels)
    unsigned = distances_by_class(tensor, torch.from_numpy(classes), 6).numpy()
    signed = signed_distances_by_class(tensor, torch.from_numpy(classes), 6).numpy()
    for b in range(2):
        for k, label in enumerate(classes):
            inside = labels[b] == label
            outside = ~inside & (labels[b] != 255)
            np.testing.assert_allclose(unsigned[b, k], exact(inside, 6), atol=1e-5)
            np.testing.assert_allclose(signed[b, k], exact(outside, 6) - exact(inside, 6), atol=1e-5)
    assert (signed[:, 2] == -6 + 0).sum() > 0


def slow_distance(labels: np.ndarray, ignore: int = 255) -> np.ndarray:
    """The distance to the nearest boundary pixel by its definition, in loops."""
    height, width = labels.shape
    boundary = []
    for i in range(height):
        for j in range(width):
            for k, m in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
                if not (0 <= k < height and 0 <= m < width) or ignore in (labels[i, j], labels[k, m]):
                    continue
                if labels[i, j] != labels[k, m]:
                    boundary.append((i, j))
    rows, columns = np.mgrid[:height, :width]
    return np.min([np.hypot(rows - i, columns - j) for i, j in boundary], axis=0)


def test_boundary_distance_equals_the_definition(rng: np.random.Generator) -> None:
    """Red when: one side of a boundary is left out, distances are not Euclidean, or 255 counts as a label."""
    labels = np.kron(rng.choice([0, 7, 255], (2, 4, 5)), np.ones((6, 7), np.int64))
    found = boundary_distance(torch.from_numpy(labels), 20).numpy()
    for b in range(2):
        np.testing.assert_allclose(found[b], np.minimum(slow_distance(labels[b]), 20), atol=1e-4)


def test_both_sides_of_a_boundary_are_zero_and_the_next_is_one() -> None:
    """Red when: distances start at 1."""
    labels = torch.zeros(1, 3, 8, dtype=torch.int64)
    labels[..., 4:] = 300
    assert boundary_distance(labels, 9).tolist() == [[[3, 2, 1, 0, 0, 1, 2, 3]] * 3]


def test_an_ignored_region_has_no_boundary() -> None:
    """Red when: the edge of unlabelled pixels counts."""
    labels = torch.full((1, 5, 6), 3)
    labels[:, 1:3, 2:4] = 255
    assert (boundary_distance(labels, 4) == 4).all()


def test_instance_255_is_an_instance() -> None:
    """Red when: the ignored label is applied to instance numbers."""
    labels, instances = torch.full((1, 5, 6), 10), torch.zeros(1, 5, 6, dtype=torch.int64)
    instances[:, 1:3, 2:4] = 255
    assert boundary_distance(segment_ids(labels, instances), 4)[0, 1, 2] == 0
