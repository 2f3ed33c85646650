import numpy as np

from semraft.ops.segments import boundary_distance, boundary_pixels


def slow_distance(labels: np.ndarray, ignore: int | None) -> np.ndarray:
    """The definition, by loops."""
    height, width = labels.shape
    boundary = []
    for i in range(height):
        for j in range(width):
            for k, m in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
                if 0 <= k < height and 0 <= m < width and labels[i, j] != labels[k, m]:
                    if ignore is not None and ignore in (labels[i, j], labels[k, m]):
                        continue
                    boundary.append((i, j))
    rows, columns = np.mgrid[:height, :width]
    return np.min([np.hypot(rows - i, columns - j) for i, j in boundary], axis=0)


def test_equals_the_definition(rng: np.random.Generator) -> None:
    """Red when: one side of a boundary is left out, distances are not Euclidean, or 255 counts as a label."""
    labels = np.kron(rng.choice(np.array([0, 7, 255], np.uint8), (4, 5)), np.ones((6, 7), np.uint8))
    np.testing.assert_allclose(boundary_distance(labels), slow_distance(labels, 255), atol=1e-4)
    np.testing.assert_allclose(boundary_distance(labels, ignore=None), slow_distance(labels, None), atol=1e-4)


def test_both_sides_are_zero_and_the_next_is_one() -> None:
    """Red when: distances start at 1."""
    labels = np.zeros((3, 8), np.int32)
    labels[:, 4:] = 300
    assert boundary_distance(labels).tolist() == [[3, 2, 1, 0, 0, 1, 2, 3]] * 3


def test_an_ignored_region_has_no_boundary() -> None:
    """Red when: the edge of unlabelled pixels counts."""
    labels = np.full((5, 6), 3, np.uint8)
    labels[1:3, 2:4] = 255
    assert not boundary_pixels(labels).any()
    assert np.isinf(boundary_distance(labels)).all()


def test_instance_255_is_an_instance() -> None:
    """Red when: the ignored label is applied to instance ids."""
    instances = np.zeros((5, 6), np.int32)
    instances[1:3, 2:4] = 255
    assert boundary_distance(instances, ignore=None)[1, 2] == 0
