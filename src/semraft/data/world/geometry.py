"""Exact geometry of the driving world: visible points, their flow, and their occlusion.

A scene is a set of flat patches (rectangles and ellipses), each moving rigidly between two frames. Under a
pinhole camera the inverse depth of a plane and inverse depth times its surface coordinates are affine in the
pixel, so visibility, flow and occlusion have closed forms. Pixel coordinates here are relative to the image
centre ("centred"), which keeps float32 differences small. Nothing here knows of colours, roads or cars.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int, Shaped

from semraft.data.world.visibility import Candidates, see
from semraft.ops.warp import match_positions

PATCH = np.dtype(
    [
        ("corner", "f8", 3),  # Top left corner, before the body's rotation, relative to the body's position.
        ("right", "f8", 3),  # Edge along increasing texture column.
        ("down", "f8", 3),  # Edge along increasing texture row; right x down points into a closed body.
        ("position1", "f8", 3),  # The body in frame 1: metres; x right, y down, z forward.
        ("turn1", "f8", 2),  # Its yaw about y and roll about its own z, radians.
        ("position2", "f8", 3),
        ("turn2", "f8", 2),
        ("texture", "i4"),
        ("texel_start", "f8", 2),
        ("texel_count", "f8", 2),  # Texels along `right` and `down`.
        ("tint", "f8", 3),  # 255 leaves the texture as it is.
        ("label", "u1"),
        ("instance", "i4"),
        ("ellipse", "?"),  # The ellipse inside the rectangle instead of the rectangle.
        ("closed", "?"),  # Part of a closed body: its back is never seen.
        ("moving", "?"),
    ]
)
"""One flat patch of the scene."""

BORDER_TOLERANCE_PX = 1e-3
"""Distance outside the frame at which a match counts as inside: rounding of a camera that stands still."""
NEAREST_M = 0.05
_PIXELS_AT_ONCE = 1 << 16
_TILE_PX = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Camera:
    """A pinhole camera in one frame. `rotation` takes world directions to camera directions."""

    size: tuple[int, int]
    focal_px: float
    position: Float64[np.ndarray, "3"]
    rotation: Float64[np.ndarray, "3 3"]


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """The patches as a camera sees them in one frame.

    `surfaces[q] @ (x, y, 1)` is (1/depth, s/depth, t/depth) where the ray of the centred pixel (x, y) meets
    the plane of patch q, whose points are corner + s right + t down; `planes[q] @ (1, s, t)` is that point in
    the camera. A pixel is `uncertain` if a patch that would be in front ends next to it.
    """

    camera: Camera
    planes: Float64[np.ndarray, "Q 3 3"]
    surfaces: Float64[np.ndarray, "Q 3 3"]
    boxes: Int[np.ndarray, "Q 4"]
    patch: Int[np.ndarray, "H W"]
    inverse_depth: Float32[np.ndarray, "H W"]
    uncertain: Bool[np.ndarray, "H W"]


def camera_rotation(yaw: float, pitch: float, roll: float) -> Float64[np.ndarray, "3 3"]:
    """World to camera: yaw turns the camera right, pitch up, roll clockwise (radians)."""
    (cy, sy), (cp, sp), (cr, sr) = ((np.cos(angle), np.sin(angle)) for angle in (yaw, pitch, roll))
    about_y = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    about_z = np.array([[cr, sr, 0], [-sr, cr, 0], [0, 0, 1]])
    return np.asarray(about_z @ about_x @ about_y)


def planes_in_camera(
    patches: Shaped[np.ndarray, " Q"], frame: int, camera: Camera
) -> Float64[np.ndarray, "Q 3 3"]:
    """Columns corner, right, down of every patch in the camera's coordinates, in metres."""
    yaw, roll = patches[f"turn{frame}"].T
    cos_yaw, sin_yaw, cos_roll, sin_roll = np.cos(yaw), np.sin(yaw), np.cos(roll), np.sin(roll)
    zero = np.zeros_like(yaw)
    turn = np.array(
        [
            [cos_yaw * cos_roll, -cos_yaw * sin_roll, sin_yaw],
            [sin_roll, cos_roll, zero],
            [-sin_yaw * cos_roll, sin_yaw * sin_roll, cos_yaw],
        ]
    ).transpose(2, 0, 1)
    local = np.stack([patches["corner"], patches["right"], patches["down"]], axis=2)
    world = turn @ local
    world[:, :, 0] += patches[f"position{frame}"] - camera.position
    return np.asarray(camera.rotation @ world)


def view(patches: Shaped[np.ndarray, " Q"], frame: int, camera: Camera) -> View:
    """Which patch every pixel centre sees, by a depth buffer over exact plane equations."""
    planes = planes_in_camera(patches, frame, camera)
    flatness = np.linalg.det(planes)
    seen = np.where(patches["closed"], flatness, np.abs(flatness)) > 1e-9
    surfaces = np.zeros_like(planes)
    surfaces[seen] = np.linalg.inv(planes[seen])
    surfaces[:, :, :2] /= camera.focal_px
    boxes = _pixel_boxes(planes, seen, camera)
    nearest_depth = _nearest_depth(planes)
    order = np.argsort(nearest_depth)  # Near first: what lies behind is then skipped.
    order = order[(boxes[order, 0] < boxes[order, 1]) & (boxes[order, 2] < boxes[order, 3])]
    edges = _edge_functions(surfaces[order], patches["ellipse"][order], boxes[order], camera)
    edges = edges.astype(np.float32)
    x, y = (axis.astype(np.float32) for axis in centred_axes(camera.size))
    seen_patches = see(
        Candidates(
            number=order,
            boxes=boxes[order],
            along=edges[:, :, 1, None] * y + edges[:, :, 2, None],
            across=edges[:, :, 0, None] * x,
            ellipse=patches["ellipse"][order],
            nearest_depth=nearest_depth[order],
        )
    )
    return View(
        camera=camera,
        planes=planes,
        surfaces=surfaces,
        boxes=boxes,
        patch=seen_patches.patch,
        inverse_depth=seen_patches.inverse_depth,
        uncertain=seen_patches.uncertain,
    )


def flow_and_occlusion(
    first: View, second: View, ellipse: Bool[np.ndarray, " Q"]
) -> tuple[Float32[np.ndarray, "H W 2"], Float32[np.ndarray, "H W"], Bool[np.ndarray, "H W"]]:
    """Flow from the first view to the second (px), depth ratio second / first, and what is no longer seen.

    A pixel is occluded if its match lies outside the rectangle of pixel centres of the second frame, behind
    the second camera, or behind another patch at exactly that place between the pixels.
    """
    height, width = first.camera.size
    focal = np.array([second.camera.focal_px, second.camera.focal_px, 1.0])[:, None]
    matches = focal * (second.planes @ first.surfaces)
    # Of the displacement, not of the match: that keeps float32 differences exact to 1e-4 px.
    shifts = matches.copy()
    shifts[:, 0, 0] -= matches[:, 2, 2]
    shifts[:, 1, 1] -= matches[:, 2, 2]
    table = shifts.reshape(-1, 9).T.astype(np.float32)
    x, y = (axis.astype(np.float32) for axis in centred_axes(first.camera.size))
    flow = np.empty((height, width, 2), np.float32)
    stretch = np.empty((height, width), np.float32)
    for rows in row_blocks(first.camera.size):
        block = np.take(table, first.patch[rows], axis=1, mode="clip")
        y_rows = y[rows, None]
        change = block[6] * x + block[7] * y_rows
        stretch[rows] = change + block[8]
        divisor = np.maximum(stretch[rows], np.float32(1e-6))
        flow[rows, :, 0] = (block[0] * x + block[1] * y_rows + block[2] - x * change) / divisor
        flow[rows, :, 1] = (block[3] * x + block[4] * y_rows + block[5] - y_rows * change) / divisor
    return flow, stretch, _occluded(first, second, matches, flow, stretch, ellipse)


def _occluded(
    first: View,
    second: View,
    matches: Float64[np.ndarray, "Q 3 3"],
    flow: Float32[np.ndarray, "H W 2"],
    stretch: Float32[np.ndarray, "H W"],
    ellipse: Bool[np.ndarray, " Q"],
) -> Bool[np.ndarray, "H W"]:
    """Tests matches against the patches around them, if the pixels around them leave a doubt.

    Most matches fall among four certain pixels that see one patch, which is then in sight all over the
    cell. Proof: say another patch were in front somewhere in the cell. Inverse depths are affine, so its
    plane is in front at one of the corners; it cannot contain that corner, which sees the one patch; so it
    ends within the cell, and the corner would be uncertain.
    """
    height, width = first.camera.size
    x, y = match_positions(flow)
    inside = (x > -BORDER_TOLERANCE_PX) & (x < width - 1 + BORDER_TOLERANCE_PX)
    inside &= (y > -BORDER_TOLERANCE_PX) & (y < height - 1 + BORDER_TOLERANCE_PX) & (stretch > 0)
    cells = np.where(second.uncertain, -1, second.patch).astype(np.int16)
    corner = cells[:-1, :-1]
    plain = (corner == cells[:-1, 1:]) & (corner == cells[1:, :-1]) & (corner == cells[1:, 1:])
    cells = np.where(plain, corner, np.int16(-1))
    row, column = np.clip(y, 0, height - 2).astype(np.intp), np.clip(x, 0, width - 2).astype(np.intp)
    found = np.take(cells, row * (width - 1) + column, mode="clip")
    occluded: Bool[np.ndarray, "H W"] = (found != first.patch) | ~inside
    unclear = np.flatnonzero((found < 0) & inside)
    occluded.ravel()[unclear] = _covered(first, second, matches, unclear, ellipse)
    return occluded


def _covered(
    first: View,
    second: View,
    matches: Float64[np.ndarray, "Q 3 3"],
    pixels: Int[np.ndarray, " N"],
    ellipse: Bool[np.ndarray, " Q"],
) -> Bool[np.ndarray, " N"]:
    """True where another patch is in front of the point that the first view sees, by flat pixel numbers."""
    axis_x, axis_y = centred_axes(first.camera.size)
    row, column = np.divmod(pixels, len(axis_x))
    own = first.patch[row, column]
    forward, toward = _affine(matches), _affine(second.surfaces)
    depth = forward(2, own, axis_x[column], axis_y[row])
    x, y = (forward(axis, own, axis_x[column], axis_y[row]) / depth for axis in (0, 1))
    own_inverse = toward(0, own, x, y) * (1 + 1e-6)  # Faces that share an edge do not cover each other there.
    nearest_depth = _nearest_depth(second.planes)
    # The inverse depth of a patch's nearest point, with room for rounding; one may pass the camera.
    reach = np.where(nearest_depth > 0, 1.001 / np.maximum(nearest_depth, 1e-9), np.inf)
    point, other = _pairs_by_tile(x - axis_x[0], y - axis_y[0], own_inverse, reach, second)
    # Taking by number is several times as fast as by mask.
    near = np.flatnonzero((reach.take(other) > own_inverse.take(point)) & (other != own.take(point)))
    point, other = point.take(near), other.take(near)
    near = np.flatnonzero(toward(0, other, x.take(point), y.take(point)) > own_inverse.take(point))
    point, other = point.take(near), other.take(near)
    x, y = x.take(point), y.take(point)
    inverse, s, t = (toward(term, other, x, y) for term in (0, 1, 2))
    in_rectangle = (s >= 0) & (s <= inverse) & (t >= 0) & (t <= inverse)
    in_ellipse = (2 * s - inverse) ** 2 + (2 * t - inverse) ** 2 <= inverse**2
    covered = np.zeros(len(pixels), bool)
    covered[point[np.where(ellipse[other], in_ellipse, in_rectangle)]] = True
    return covered


def _pairs_by_tile(
    x: Float64[np.ndarray, " N"],
    y: Float64[np.ndarray, " N"],
    inverse_depth: Float64[np.ndarray, " N"],
    reach: Float64[np.ndarray, " Q"],
    second: View,
) -> tuple[Int[np.ndarray, " P"], Int[np.ndarray, " P"]]:
    """Points paired with the patches that may be in front of one in the same tile of the frame.

    Boxes are a pixel and more larger than their patches on every side within the frame. A patch is nowhere
    nearer, in inverse metres, than its `reach`.
    """
    boxes, size = second.boxes, second.camera.size
    across, down = -(-size[1] // _TILE_PX), -(-size[0] // _TILE_PX)
    left, top = np.arange(across) * _TILE_PX, np.arange(down) * _TILE_PX
    x_hits = (boxes[:, 0, None] < left + _TILE_PX - 1) & (boxes[:, 1, None] > left + 1)
    y_hits = (boxes[:, 2, None] < top + _TILE_PX - 1) & (boxes[:, 3, None] > top + 1)
    x_hits[:, -1] |= boxes[:, 1] == size[1]
    y_hits[:, -1] |= boxes[:, 3] == size[0]
    filled = (boxes[:, 0] < boxes[:, 1]) & (boxes[:, 2] < boxes[:, 3])
    tile_x, tile_y = (
        np.clip(axis.astype(np.intp) // _TILE_PX, 0, end - 1) for axis, end in ((x, across), (y, down))
    )
    of_point = tile_y * across + tile_x
    farthest = np.full(down * across, np.inf)
    np.minimum.at(farthest, of_point, inverse_depth)
    hits = (y_hits.T[:, None] & x_hits.T[None] & filled).reshape(down * across, -1)
    tile, patch = np.nonzero(hits & (reach > farthest[:, None]))
    starts = np.searchsorted(tile, np.arange(down * across + 1))
    counts = starts[of_point + 1] - starts[of_point]
    point = np.repeat(np.arange(len(x)), counts)
    rank = np.arange(len(point)) - np.repeat(np.cumsum(counts) - counts, counts)
    return point, patch.take(starts[of_point].take(point) + rank)


def _affine(
    matrices: Float64[np.ndarray, "Q 3 3"],
) -> Callable[[int, np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
    """The function (row, q, x, y) -> matrices[q, row] @ (x, y, 1), for arrays of q, x, y."""
    table = np.ascontiguousarray(matrices.transpose(1, 2, 0))

    def evaluate(row: int, which: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        along_x, along_y, constant = (terms.take(which) for terms in table[row])
        return np.asarray(along_x * x + along_y * y + constant)

    return evaluate


def row_blocks(size: tuple[int, int]) -> list[slice]:
    """Slices of rows that keep the working set of large frames in the cache."""
    step = max(_PIXELS_AT_ONCE // size[1], 1)
    return [slice(start, min(start + step, size[0])) for start in range(0, size[0], step)]


def centred_axes(size: tuple[int, int]) -> tuple[Float64[np.ndarray, " W"], Float64[np.ndarray, " H"]]:
    """Pixel coordinates relative to the image centre, which the optical axis meets."""
    height, width = size
    return np.arange(width) - (width - 1) / 2, np.arange(height) - (height - 1) / 2


def _nearest_depth(planes: Float64[np.ndarray, "Q 3 3"]) -> Float64[np.ndarray, " Q"]:
    depth = planes[:, 2]
    return np.asarray(depth[:, 0] + np.minimum(depth[:, 1], 0) + np.minimum(depth[:, 2], 0))


def _pixel_boxes(
    planes: Float64[np.ndarray, "Q 3 3"], seen: Bool[np.ndarray, " Q"], camera: Camera
) -> Int[np.ndarray, "Q 4"]:
    """x0, x1, y0, y1 (ends excluded) of the pixels a patch can cover or come near to; empty if unseen.

    The outline is cut at NEAREST_M in front of the camera, edge by edge.
    """
    height, width = camera.size
    weights = np.array([[1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 0, 1]], float).T
    corners = (planes @ weights).transpose(0, 2, 1)
    others = np.roll(corners, -1, axis=1)
    depth, other_depth = corners[..., 2], others[..., 2]
    crossing = (depth < NEAREST_M) != (other_depth < NEAREST_M)
    share = np.where(crossing, (NEAREST_M - depth) / np.where(crossing, other_depth - depth, 1), 0)
    cut = corners + share[..., None] * (others - corners)
    points = np.concatenate([corners, cut], axis=1)
    front = np.concatenate([depth >= NEAREST_M, crossing], axis=1)
    pixels = camera.focal_px * points[..., :2] / np.where(front, points[..., 2], 1)[..., None]
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    low = np.where(front[..., None], pixels, np.inf).min(axis=1) + centre - 2
    high = np.where(front[..., None], pixels, -np.inf).max(axis=1) + centre + 2
    low = np.clip(np.ceil(low), 0, (width, height)).astype(int)
    high = np.clip(np.floor(high) + 1, 0, (width, height)).astype(int)
    boxes = np.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], axis=1)
    return np.where(seen[:, None], boxes, 0)


def _edge_functions(
    surfaces: Float64[np.ndarray, "Q 3 3"],
    ellipse: Bool[np.ndarray, " Q"],
    boxes: Int[np.ndarray, "Q 4"],
    camera: Camera,
) -> Float64[np.ndarray, "Q 5 3"]:
    """Affine functions of the centred pixel (x, y, 1), five for each patch; the last is the inverse depth.

    Rectangle: four signed distances to the edges in pixel cells along the normal, positive inside. Ellipse:
    c, a, b such that c^2 - a^2 - b^2 is positive inside and above -1 at the corners of cells that it cuts.
    """
    inverse, s, t = surfaces.transpose(1, 0, 2)
    lines = np.stack([s, inverse - s, t, inverse - t], axis=1)
    lines = lines / np.maximum(np.abs(lines[..., :2]).sum(axis=2), 1e-12)[..., None]
    terms = np.stack([inverse, 2 * s - inverse, 2 * t - inverse], axis=1)
    # The conic's gradient is 2 C p: largest at a corner of the box, and a second-order bound on its change.
    conic = terms[:, 0, :, None] * terms[:, 0, None] - terms[:, 1, :, None] * terms[:, 1, None]
    conic = conic - terms[:, 2, :, None] * terms[:, 2, None]
    x, y = centred_axes(camera.size)
    corners = np.stack(
        [
            np.stack([x[0] + boxes[:, column], y[0] + boxes[:, row], np.ones(len(boxes))], axis=1)
            for column in (0, 1)
            for row in (2, 3)
        ],
        axis=2,
    )
    slope = np.linalg.norm(2 * conic[:, :2] @ corners, axis=1).max(axis=1)
    bend = 2 * np.linalg.norm(conic[:, :2, :2], axis=(1, 2))
    steepness = np.maximum(slope * np.sqrt(2) + bend, 1e-30)
    terms = terms / np.sqrt(steepness)[:, None, None]
    shape = np.where(ellipse[:, None, None], np.concatenate([terms, terms[:, :1]], axis=1), lines)
    return np.asarray(np.concatenate([shape, inverse[:, None]], axis=1))
