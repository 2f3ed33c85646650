"""The first two cases of `speed` with torchvision under torch.compile: last, as compiling takes minutes."""

from collections.abc import Iterator

from benchmarks.gpu_check import speed
from benchmarks.gpu_check.setting import Row, Setting


def measure(setting: Setting) -> Iterator[Row]:
    if setting.device.type not in ("cuda", "cpu"):
        yield {"work": "torchvision compiled", "skipped": f"torch.compile knows no device {setting.device}"}
        return
    yield from speed.compare(setting, compiled=True)
