"""The transforms of Winograd's convolution (semraft.kernels.cpu.winograd), compiled by Numba.

Each works on tiles `start` to `stop` of a block whose first tile is number `first`; tiles are counted along
rows, then columns, then images, `tiles` of them (rows, columns) an image. Images are [image, y, x, channel],
spectra and products [point, tile, channel]; `offset` is an image's first channel among those of all images
that are convolved together. A loop over channels inside a transform of scalars is what compiles to vector
instructions.
"""

from typing import no_type_check

import numpy as np

from semraft.kernels.compiled import njit
from semraft.kernels.cpu.threads import REORDERED_SUMS

# `no_type_check` because Numba compiles these functions: nothing may be wrapped around them.


NEAR, FAR = np.float32(0.625), np.float32(1.5)
"""The points of 3 taps are 0, +-NEAR, +-FAR and infinity; these two and their powers are exact in float32."""
_NEAR2, _NEAR3, _FAR2, _FAR3 = NEAR**2, NEAR**3, FAR**2, FAR**3


@njit(inline="always")
@no_type_check
def _input_6(d0, d1, d2, d3, d4, d5):
    """B^T d for 3 taps: the tile's six values as a polynomial's, at the points."""
    a, b = d4 - _FAR2 * d2, NEAR * (d3 - _FAR2 * d1)
    c, d = d4 - _NEAR2 * d2, FAR * (d3 - _NEAR2 * d1)
    product, total = _NEAR2 * _FAR2, _NEAR2 + _FAR2
    first, last = product * d0 - total * d2 + d4, product * d1 - total * d3 + d5
    return first, a + b, a - b, c + d, c - d, last


@njit(inline="always")
@no_type_check
def _output_6(m0, m1, m2, m3, m4, m5):
    """A^T m: the six products interpolated to four results."""
    even, odd, even_far, odd_far = m1 + m2, m1 - m2, m3 + m4, m3 - m4
    second, third = NEAR * odd + FAR * odd_far, _NEAR2 * even + _FAR2 * even_far
    return m0 + even + even_far, second, third, _NEAR3 * odd + _FAR3 * odd_far + m5


@njit(inline="always")
@no_type_check
def _gradient_6(g0, g1, g2, g3):
    """A g, the transpose of `_output_6`."""
    a, b = g0 + _NEAR2 * g2, NEAR * g1 + _NEAR3 * g3
    c, d = g0 + _FAR2 * g2, FAR * g1 + _FAR3 * g3
    return g0, a + b, a - b, c + d, c - d, g3


@njit(inline="always")
@no_type_check
def _input_8(d0, d1, d2, d3, d4, d5, d6, d7):
    """B^T d for 5 taps."""
    large, small, five, quarter = np.float32(5.25), np.float32(4.25), np.float32(5), np.float32(0.25)
    a, b = d6 + d2 - small * d4, d5 + d1 - small * d3
    c = d6 - np.float32(1.25) * d4 + quarter * d2
    d = np.float32(2) * d5 - np.float32(2.5) * d3 + np.float32(0.5) * d1
    e = d6 - five * d4 + np.float32(4) * d2
    f = np.float32(0.5) * d5 - np.float32(2.5) * d3 + np.float32(2) * d1
    first, last = d6 - d0 + large * (d2 - d4), d7 - d1 + large * (d3 - d5)
    return first, a + b, a - b, c + d, c - d, e + f, e - f, last


@njit(inline="always")
@no_type_check
def _output_8(m0, m1, m2, m3, m4, m5, m6, m7):
    even, odd, even2, odd2, even_half, odd_half = m1 + m2, m1 - m2, m3 + m4, m3 - m4, m5 + m6, m5 - m6
    second = odd + np.float32(2) * odd2 + np.float32(0.5) * odd_half
    third = even + np.float32(4) * even2 + np.float32(0.25) * even_half
    fourth = odd + np.float32(8) * odd2 + np.float32(0.125) * odd_half + m7
    return m0 + even + even2 + even_half, second, third, fourth


@njit(inline="always")
@no_type_check
def _gradient_8(g0, g1, g2, g3):
    a, b = g0 + g2, g1 + g3
    c, d = g0 + np.float32(4) * g2, np.float32(2) * g1 + np.float32(8) * g3
    e, f = g0 + np.float32(0.25) * g2, np.float32(0.5) * g1 + np.float32(0.125) * g3
    return g0, a + b, a - b, c + d, c - d, e + f, e - f, g3


@njit(inline="always")
@no_type_check
def _pixel(image, y, x, outside):
    """The channels of a pixel, zeros outside the image."""
    return image[y, x] if 0 <= y < image.shape[0] and 0 <= x < image.shape[1] else outside


@njit(inline="always")
@no_type_check
def _corner(tile, tiles):
    """The image of a tile, and its row and column among that image's tiles."""
    image, inside = divmod(tile, tiles[0] * tiles[1])
    row, column = divmod(inside, tiles[1])
    return image, row, column


@njit(cache=True, nogil=True, fastmath=REORDERED_SUMS)
@no_type_check
def to_points_3x3(start, stop, images, spectra, offset, first, tiles, down):
    channels = images.shape[3]
    outside, half = np.zeros(channels, np.float32), np.empty((6, 6, channels), np.float32)
    for t in range(start, stop):
        which, row, column = _corner(first + t, tiles)
        image, y = images[which], 4 * row - 1
        for j in range(6):
            x = 4 * column - 1 + j
            p0, p1 = _pixel(image, y, x, outside), _pixel(image, y + 1, x, outside)
            p2, p3 = _pixel(image, y + 2, x, outside), _pixel(image, y + 3, x, outside)
            p4, p5 = _pixel(image, y + 4, x, outside), _pixel(image, y + 5, x, outside)
            for c in range(channels):
                v0, v1, v2, v3, v4, v5 = _input_6(p0[c], p1[c], p2[c], p3[c], p4[c], p5[c])
                half[0, j, c], half[1, j, c], half[2, j, c] = v0, v1, v2
                half[3, j, c], half[4, j, c], half[5, j, c] = v3, v4, v5
        for i in range(6):
            h, s = half[i], 6 * i
            for c in range(channels):
                v0, v1, v2, v3, v4, v5 = _input_6(h[0, c], h[1, c], h[2, c], h[3, c], h[4, c], h[5, c])
                spectra[s, t, offset + c], spectra[s + 1, t, offset + c], spectra[s + 2, t, offset + c] = (
                    v0,
                    v1,
                    v2,
                )
                (
                    spectra[s + 3, t, offset + c],
                    spectra[s + 4, t, offset + c],
                    spectra[s + 5, t, offset + c],
                ) = v3, v4, v5


@njit(cache=True, nogil=True, fastmath=REORDERED_SUMS)
@no_type_check
def from_points_3x3(start, stop, products, results, shift, first, tiles, down):
    _, height, width, channels = results.shape
    half, line = np.empty((4, 6, channels), np.float32), np.empty((4, channels), np.float32)
    for t in range(start, stop):
        which, row, column = _corner(first + t, tiles)
        result = results[which]
        for j in range(6):
            for c in range(channels):
                r0, r1, r2, r3 = _output_6(
                    products[j, t, c],
                    products[6 + j, t, c],
                    products[12 + j, t, c],
                    products[18 + j, t, c],
                    products[24 + j, t, c],
                    products[30 + j, t, c],
                )
                half[0, j, c], half[1, j, c], half[2, j, c], half[3, j, c] = r0, r1, r2, r3
        for i in range(min(4, height - 4 * row)):
            h = half[i]
            for c in range(channels):
                r0, r1, r2, r3 = _output_6(h[0, c], h[1, c], h[2, c], h[3, c], h[4, c], h[5, c])
                line[0, c], line[1, c] = r0 + shift[c], r1 + shift[c]
                line[2, c], line[3, c] = r2 + shift[c], r3 + shift[c]
            for j in range(min(4, width - 4 * column)):
                result[4 * row + i, 4 * column + j] = line[j]


@njit(cache=True, nogil=True, fastmath=REORDERED_SUMS)
@no_type_check
def gradient_to_points_3x3(start, stop, gradients, spectra, first, tiles, down):
    channels = gradients.shape[3]
    outside, half = np.zeros(channels, np.float32), np.empty((6, 4, channels), np.float32)
    for t in range(start, stop):
        which, row, column = _corner(first + t, tiles)
        image, y = gradients[which], 4 * row
        for j in range(4):
            x = 4 * column + j
            p0, p1 = _pixel(image, y, x, outside), _pixel(image, y + 1, x, outside)
            p2, p3 = _pixel(image, y + 2, x, outside), _pixel(image, y + 3, x, outside)
            for c in range(channels):
                v0, v1, v2, v3, v4, v5 = _gradient_6(p0[c], p1[c], p2[c], p3[c])
                half[0, j, c], half[1, j, c], half[2, j, c] = v0, v1, v2
                half[3, j, c], half[4, j, c], half[5, j, c] = v3, v4, v5
        for i in range(6):
            h, s = half[i], 6 * i
            for c in range(channels):
                v0, v1, v2, v3, v4, v5 = _gradient_6(h[0, c], h[1, c], h[2, c], h[3, c])
                spectra[s, t, c], spectra[s + 1, t, c], spectra[s + 2, t, c] = v0, v1, v2
                spectra[s + 3, t, c], spectra[s + 4, t, c], spectra[s + 5, t, c] = v3, v4, v5


@njit(cache=True, nogil=True, fastmath=REORDERED_SUMS)
@no_type_check
def to_points_5(start, stop, images, spectra, offset, first, tiles, down):
    """Along columns, or rows where `down`."""
    channels = images.shape[3]
    outside = np.zeros(channels, np.float32)
    dy, dx = (1, 0) if down else (0, 1)
    for t in range(start, stop):
        which, row, column = _corner(first + t, tiles)
        image = images[which]
        y, x = (4 * row - 2, column) if down else (row, 4 * column - 2)
        p0, p1 = _pixel(image, y, x, outside), _pixel(image, y + dy, x + dx, outside)
        p2, p3 = (
            _pixel(image, y + 2 * dy, x + 2 * dx, outside),
            _pixel(image, y + 3 * dy, x + 3 * dx, outside),
        )
        p4, p5 = (
            _pixel(image, y + 4 * dy, x + 4 * dx, outside),
            _pixel(image, y + 5 * dy, x + 5 * dx, outside),
        )
        p6, p7 = (
            _pixel(image, y + 6 * dy, x + 6 * dx, outside),
            _pixel(image, y + 7 * dy, x + 7 * dx, outside),
        )
        for c in range(channels):
            v0, v1, v2, v3, v4, v5, v6, v7 = _input_8(p0[c], p1[c], p2[c], p3[c], p4[c], p5[c], p6[c], p7[c])
            (
                spectra[0, t, offset + c],
                spectra[1, t, offset + c],
                spectra[2, t, offset + c],
                spectra[3, t, offset + c],
            ) = v0, v1, v2, v3
            (
                spectra[4, t, offset + c],
                spectra[5, t, offset + c],
                spectra[6, t, offset + c],
                spectra[7, t, offset + c],
            ) = v4, v5, v6, v7


@njit(cache=True, nogil=True, fastmath=REORDERED_SUMS)
@no_type_check
def from_points_5(start, stop, products, results, shift, first, tiles, down):
    _, height, width, channels = results.shape
    line = np.empty((4, channels), np.float32)
    for t in range(start, stop):
        which, row, column = _corner(first + t, tiles)
        result = results[which]
        for c in range(channels):
            r0, r1, r2, r3 = _output_8(
                products[0, t, c],
                products[1, t, c],
                products[2, t, c],
                products[3, t, c],
                products[4, t, c],
                products[5, t, c],
                products[6, t, c],
                products[7, t, c],
            )
            line[0, c], line[1, c] = r0 + shift[c], r1 + shift[c]
            line[2, c], line[3, c] = r2 + shift[c], r3 + shift[c]
        for j in range(min(4, (height - 4 * row) if down else (width - 4 * column))):
            if down:
                result[4 * row + j, column] = line[j]
            else:
                result[row, 4 * column + j] = line[j]


@njit(cache=True, nogil=True, fastmath=REORDERED_SUMS)
@no_type_check
def gradient_to_points_5(start, stop, gradients, spectra, first, tiles, down):
    channels = gradients.shape[3]
    outside = np.zeros(channels, np.float32)
    dy, dx = (1, 0) if down else (0, 1)
    for t in range(start, stop):
        which, row, column = _corner(first + t, tiles)
        image = gradients[which]
        y, x = (4 * row, column) if down else (row, 4 * column)
        p0, p1 = _pixel(image, y, x, outside), _pixel(image, y + dy, x + dx, outside)
        p2 = _pixel(image, y + 2 * dy, x + 2 * dx, outside)
        p3 = _pixel(image, y + 3 * dy, x + 3 * dx, outside)
        for c in range(channels):
            v0, v1, v2, v3, v4, v5, v6, v7 = _gradient_8(p0[c], p1[c], p2[c], p3[c])
            spectra[0, t, c], spectra[1, t, c], spectra[2, t, c], spectra[3, t, c] = v0, v1, v2, v3
            spectra[4, t, c], spectra[5, t, c], spectra[6, t, c], spectra[7, t, c] = v4, v5, v6, v7
