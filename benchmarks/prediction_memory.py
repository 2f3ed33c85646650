"""Memory over predictions of ever new sizes: `python -m benchmarks.prediction_memory --count 200`.

Prints the RSS after every 20 predictions of a tiny network, and the slope of the second half in MB for 100.
ONEDNN_PRIMITIVE_CACHE_CAPACITY and LRU_CACHE_CAPACITY choose how many kernels oneDNN keeps.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

import semraft
from semraft import runtime
from semraft.models.raft import ARCHITECTURES


def rss_mb() -> float:
    """Resident memory of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=200)
    count = parser.parse_args().count
    torch.set_num_threads(1)
    runtime.keep_freed_memory()
    model = semraft.load(ARCHITECTURES["tiny"]().state_dict())
    rng, found = np.random.default_rng(0), []
    for number in range(1, count + 1):
        size = int(rng.integers(64, 160)), int(rng.integers(64, 240))
        image = rng.integers(0, 255, (*size, 3), np.uint8)
        semraft.predict(model, image, np.roll(image, 2, 1), num_updates=2)
        if number % 20 == 0:
            found.append(rss_mb())
    half = found[len(found) // 2 :]
    print("RSS MB:", *(f"{value:.0f}" for value in found))
    print(f"second half: {np.polyfit(range(len(half)), half, 1)[0] * 5:.1f} MB for 100 predictions")


if __name__ == "__main__":
    main()
