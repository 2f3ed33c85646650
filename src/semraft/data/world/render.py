"""Colours of the driving world: textures read at the resolution a pixel covers, light, fog and lens blur."""

import cv2
import numpy as np
from jaxtyping import Float32, Shaped, UInt8

from semraft.data.world.geometry import View, centred_axes, row_blocks
from semraft.data.world.textures import LEVELS, SIDE, TextureBank


def shade(
    seen: View,
    patches: Shaped[np.ndarray, " Q"],
    bank: TextureBank,
    tints: Float32[np.ndarray, "Q 3"],
    fog_color: Float32[np.ndarray, "3"],
    fog_per_m: float,
) -> UInt8[np.ndarray, "H W 3"]:
    """Colours of a view: texture times tint, then fog; blurred a little, as a lens and a sensor do.

    Each axis of a texture is read at the resolution that the pixel covers, so that nothing aliases.
    """
    height, width = seen.camera.size
    inverse, s, t = seen.surfaces.transpose(1, 0, 2)
    start, count = patches["texel_start"], patches["texel_count"]
    column = start[:, :1] * inverse + count[:, :1] * s
    row = start[:, 1:] * inverse + count[:, 1:] * t
    table = np.concatenate([column, row, inverse[:, :2], bank.origins[patches["texture"]], tints], axis=1)
    table = table.T.astype(np.float32)
    x, y = (axis.astype(np.float32) for axis in centred_axes(seen.camera.size))
    image = np.empty((height, width, 3), np.float32)
    for rows in row_blocks(seen.camera.size):
        block = np.take(table, seen.patch[rows], axis=1, mode="clip")
        depth = 1 / seen.inverse_depth[rows]
        y_rows = y[rows, None]
        places, detail_places = [], []
        for axis in (0, 1):
            along_x, along_y, constant = block[3 * axis : 3 * axis + 3]
            texel = (along_x * x + along_y * y_rows + constant) * depth
            change_x, change_y = np.abs(along_x - texel * block[6]), np.abs(along_y - texel * block[7])
            footprint = np.maximum(change_x, change_y) * depth
            places.append(_level_position(texel, footprint) + block[8 + axis])
            detail_places.append(_level_position(texel * 8, footprint * 8))
        colors = cv2.remap(bank.atlas, places[0], places[1], cv2.INTER_LINEAR)
        detail = cv2.remap(bank.detail, detail_places[0], detail_places[1], cv2.INTER_LINEAR)
        clear = np.exp(np.minimum(depth, 300) * np.float32(-fog_per_m))
        light = (detail * np.float32(0.5 / 128) + np.float32(0.5)) * clear
        fog = 1 - clear
        channels = [
            colors[..., channel] * (block[10 + channel] * light) + fog * fog_color[channel]
            for channel in range(3)
        ]
        cv2.merge(channels, image[rows])
    return np.asarray(cv2.convertScaleAbs(cv2.GaussianBlur(image, (3, 3), 0.55)))


def _level_position(
    texel: Float32[np.ndarray, "h w"], footprint: Float32[np.ndarray, "h w"]
) -> Float32[np.ndarray, "h w"]:
    """Position in a cell of a texel coordinate (any, wraps around) for a footprint in texels a pixel.

    The level is the nearest power of two, from the exponent bits of the footprint.
    """
    level = (footprint * np.float32(1.7)).view(np.int32) >> 23
    level = np.clip(level - 127, 0, LEVELS - 1)
    scale = ((127 - level) << 23).view(np.float32)
    turns = texel * np.float32(1 / SIDE) - np.float32(0.5 / SIDE) / scale
    turns -= np.floor(turns)
    # Level starts are the sum of 256 / 2^i + 1 over the levels before.
    return np.asarray(level + 2 * SIDE * (1 - scale) + turns * (SIDE * scale), np.float32)
