"""Connected components of a label map, compiled by Numba."""

from typing import no_type_check

from semraft.kernels.compiled import njit


@njit(cache=True, nogil=True)
@no_type_check
def first_pixels(ids, ignore, first):
    """Writes, for each pixel, the first pixel of its segment in row-major order; of an ignored pixel, itself.

    Union-find (Galler and Fischer, 1964) with parents that come before their children, so that one pass in
    order replaces every parent by the root.
    """
    height, width = ids.shape
    for y in range(height):
        for x in range(width):
            here = y * width + x
            first[here] = here
            if ids[y, x] == ignore:
                continue
            if x > 0 and ids[y, x - 1] == ids[y, x]:
                first[here] = first[here - 1]
            if y > 0 and ids[y - 1, x] == ids[y, x]:
                one, other = _root(first, here), _root(first, here - width)
                first[max(one, other)] = min(one, other)
                first[here] = min(one, other)
    for here in range(first.size):
        first[here] = first[first[here]]


@njit(cache=True, nogil=True)
@no_type_check
def _root(first, here):
    while first[here] != here:
        first[here] = first[first[here]]
        here = first[here]
    return here
