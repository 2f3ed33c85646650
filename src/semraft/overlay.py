"""Flow over the frames of a video, in one colour scale, as a video."""

from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from semraft.ops.color import color_wheel_legend, flow_to_color

CODECS = {".mp4": "mp4v", ".avi": "MJPG", ".webm": "VP80"}
FLOW_FRAC = 0.6
"""Weight of the flow's colours; the rest is the frame, in grey."""


class Overlay:
    """A video file that is being written: frames under the colours of their flow, with the scale."""

    def __init__(self, path: Path, frames_per_s: float, fastest_px: float) -> None:
        """Refuses an ending without a codec; the file is made with the first frame.

        Args:
            fastest_px: Speed of the full colour, in pixels from one frame to the next that is used.

        Raises:
            ValueError: An unknown ending, or a codec that OpenCV lacks here (from `write`).
        """
        if path.suffix.lower() not in CODECS:
            raise ValueError(f"{path}: the ending says what to write, one of {', '.join(CODECS)}")
        self.path, self.frames_per_s, self.fastest_px = path, frames_per_s, fastest_px
        self.writer: cv2.VideoWriter | None = None

    def write(self, frame: UInt8[np.ndarray, "H W 3"], flow: Float32[np.ndarray, "H W 2"]) -> None:
        """Appends a frame and its flow."""
        picture = self.picture(frame, flow)
        height, width = picture.shape[:2]
        if self.writer is None:
            code = cv2.VideoWriter.fourcc(*CODECS[self.path.suffix.lower()])
            self.writer = cv2.VideoWriter(str(self.path), code, self.frames_per_s, (width, height))
            if not self.writer.isOpened():
                raise ValueError(f"{self.path}: no codec for it here, try another of {', '.join(CODECS)}")
        self.writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))

    def picture(
        self, frame: UInt8[np.ndarray, "H W 3"], flow: Float32[np.ndarray, "H W 2"]
    ) -> UInt8[np.ndarray, "H W 3"]:
        """The frame in grey under the colours of its flow, the colour code in a corner."""
        grey = cv2.cvtColor(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        colors = flow_to_color(flow, max_px=self.fastest_px)
        picture = cv2.addWeighted(colors, FLOW_FRAC, grey, 1 - FLOW_FRAC, 0).astype(np.uint8)
        side = min(frame.shape[:2]) // 5
        picture[-side:, -side:] = color_wheel_legend(side)
        text = f"{self.fastest_px:.1f} px"
        cv2.putText(picture, text, (6, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
        return picture

    def close(self) -> None:
        """Finishes the file."""
        if self.writer is not None:
            self.writer.release()
