import torch

from semraft.ops.occlusion import forward_backward, out_of_frame, predicted, same_label


def constant(u: float, v: float) -> torch.Tensor:
    return torch.tensor([u, v], dtype=torch.float32).view(1, 2, 1, 1).expand(2, 2, 6, 9).clone()


def test_there_and_back_is_visible() -> None:
    """Red when: F - B is compared instead of F + B."""
    flow = constant(2, -1)
    assert not forward_backward(flow, -flow).any()


def test_leaving_the_frame_is_counted_apart() -> None:
    """Red when: pixels out of frame, where the returned flow is 0, count as covered."""
    flow = constant(2, -1)
    expected = torch.ones(2, 6, 9, dtype=torch.bool)
    expected[:, 1:, :7] = False
    assert torch.equal(out_of_frame(flow), expected)
    assert not forward_backward(flow, -flow)[expected].any()
    assert out_of_frame(torch.full((2, 2, 6, 9), torch.nan)).all()


def test_a_covered_background_is_occluded() -> None:
    """A box moves two pixels right over a still background. Red when: B is read at p, not at p + F."""
    flow, backward = torch.zeros(2, 2, 6, 9), torch.zeros(2, 2, 6, 9)
    flow[:, 0, 1:4, 2:4] = 2
    backward[:, 0, 1:4, 4:6] = -2
    expected = torch.zeros(2, 6, 9, dtype=torch.bool)
    expected[:, 1:4, 4:6] = True
    assert torch.equal(forward_backward(flow, backward), expected)


def test_tolerance_is_of_squared_norms() -> None:
    """|F + B|^2 > 0.01 (|F|^2 + |B|^2) + 0.5. Red when: norms are not squared, a constant is changed."""
    # Still: a gap below sqrt(0.5) px is allowed.
    assert not forward_backward(constant(0, 0), constant(0.5, 0.49)).any()
    assert forward_backward(constant(0, 0), constant(0.51, 0.5)).all()
    # F = (3, 0), B = (g - 3, 0): g^2 > 0.01 (9 + (3 - g)^2) + 0.5 from g = 0.7990 on, in columns that stay.
    assert not forward_backward(constant(3, 0), constant(0.798 - 3, 0)).any()
    assert forward_backward(constant(3, 0), constant(0.800 - 3, 0))[:, :, :6].all()


def test_a_head_calls_occluded_what_is_more_likely_than_not() -> None:
    """Red when: the sign is turned, or probabilities are expected."""
    logits = torch.tensor([[[-2.0, -0.1, 0.1], [0.4, 0.6, 3.0]]] * 2)
    assert predicted(logits).tolist() == [[[False, False, True], [True, True, True]]] * 2


def test_same_label_calls_occluded_what_changed_or_is_ignored() -> None:
    """Red when: two ignored pixels are taken for one class."""
    labels1 = torch.tensor([[[3, 3, 255], [255, 7, 7]]] * 2)
    labels2 = torch.tensor([[[3, 7, 255], [3, 7, 255]]] * 2)
    assert same_label(labels1, labels2).tolist() == [[[False, True, True], [True, False, True]]] * 2
