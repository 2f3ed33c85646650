"""Optical flow of a camera or a video by onnxruntime: neither semraft nor torch is needed.

pip install numpy opencv-python onnxruntime
python onnx_flow.py raft-small.onnx 0                  # the first camera, in a window; q ends
python onnx_flow.py raft-small.onnx drive.mp4 out.mp4  # a video, into a video
"""

import sys

import cv2
import numpy as np
import onnxruntime

FASTEST_PX = 20.0
"""Speed of the full colour, pixels a frame."""


def flow_of(session, before, after):
    """Flow H W 2 from one RGB frame to the next, in pixels; the network takes multiples of 8."""
    height, width = before.shape[:2]
    below, right = -height % 8, -width % 8
    frames = [np.pad(frame, ((0, below), (0, right), (0, 0)), mode="edge")[None] for frame in (before, after)]
    (flow,) = session.run(["flow"], {"image1": frames[0], "image2": frames[1]})
    return flow[0, :height, :width]


def picture_of(flow):
    """BGR picture: hue is the direction, brightness the speed."""
    angle, speed = np.arctan2(flow[..., 1], flow[..., 0]), np.hypot(flow[..., 0], flow[..., 1])
    hue = (angle % (2 * np.pi)) / (2 * np.pi) * 180
    value = np.minimum(speed / FASTEST_PX, 1) * 255
    hsv = np.dstack([hue, np.full_like(hue, 255), value]).astype(np.uint8)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)


def main(network, source, out=""):
    session = onnxruntime.InferenceSession(network)
    camera = cv2.VideoCapture(int(source) if source.isdigit() else source)
    writer, before = None, None
    while True:
        there, frame = camera.read()
        if not there:
            break
        after = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        if before is not None:
            picture = picture_of(flow_of(session, before, after))
            if out and writer is None:
                size, rate = picture.shape[1::-1], camera.get(cv2.CAP_PROP_FPS) or 25
                writer = cv2.VideoWriter(out, cv2.VideoWriter_fourcc(*"mp4v"), rate, size)
            if writer is not None:
                writer.write(picture)
            else:
                cv2.imshow("flow", picture)
                if cv2.waitKey(1) == ord("q"):
                    break
        before = after
    if writer is not None:
        writer.release()


if __name__ == "__main__":
    main(*sys.argv[1:])
