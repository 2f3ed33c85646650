"""Draws the picture of the README: `python docs/pictures/draw.py`.

One scene of the procedural world that no network is trained on: both frames, classes, true flow, the flow of
OpenCV's DIS, and the error of that flow.
"""

from pathlib import Path

import cv2
import numpy as np

from semraft.data.taxonomy import PALETTE
from semraft.data.world.driving_scene import scene
from semraft.evaluation.baselines import opencv_flow
from semraft.ops.color import flow_to_color, labels_to_color

SIZE = (240, 640)
"""Height and width of a frame, in pixels."""
NUMBER = 16
"""The scene: of those for validation, world seed 7."""
ERROR_PX = 5.0
"""The error that is painted brightest."""
GAP_PX = 6


def titled(picture: np.ndarray, title: str) -> np.ndarray:
    band = np.full((26, picture.shape[1], 3), 255, np.uint8)
    cv2.putText(band, title, (4, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (40, 40, 40), 1, cv2.LINE_AA)
    return np.vstack([band, picture])


def main() -> None:
    sample = scene(7, NUMBER, SIZE, "val")
    assert sample.labels1 is not None
    flow = opencv_flow(sample.image1, sample.image2)
    error_px = np.hypot(*np.moveaxis(flow - sample.flow, -1, 0))
    error = cv2.applyColorMap(
        np.uint8(255 * np.clip(error_px / ERROR_PX, 0, 1) * sample.valid), cv2.COLORMAP_INFERNO
    )[..., ::-1]
    fastest_px = float(np.hypot(*np.moveaxis(sample.flow[sample.valid], -1, 0)).max())
    epe_px = float(error_px[sample.valid].mean())
    pictures = [
        (sample.image1, "frame 1"),
        (sample.image2, "frame 2"),
        (labels_to_color(sample.labels1, PALETTE), "classes of frame 1"),
        (flow_to_color(sample.flow, sample.valid, fastest_px), f"true flow (up to {fastest_px:.0f} px)"),
        (flow_to_color(flow, max_px=fastest_px), "flow of OpenCV's DIS"),
        (error, f"its error (mean {epe_px:.1f} px, brightest from {ERROR_PX:.0f} px)"),
    ]
    cells = [titled(picture, title) for picture, title in pictures]
    gap = np.full((cells[0].shape[0], GAP_PX, 3), 255, np.uint8)
    rows = [np.hstack([left, gap, right]) for left, right in zip(cells[::2], cells[1::2], strict=True)]
    target = Path(__file__).with_name("scene.jpg")
    cv2.imwrite(str(target), np.vstack(rows)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
    print(target)


if __name__ == "__main__":
    main()
