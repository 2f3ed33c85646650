"""The tests that are marked `gpu`."""

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.gpu_check.setting import Row, Setting

ROOT = Path(__file__).parents[2]
NEEDED = ("pytest", "beartype", "jaxtyping")


def measure(setting: Setting) -> Iterator[Row]:
    """Only the files that hold such tests: others may need packages that are not there."""
    missing = [package for package in NEEDED if importlib.util.find_spec(package) is None]
    files = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text()]
    if missing or not setting.is_cuda:
        why = (
            f"{', '.join(missing)} not installed" if missing else f"they need CUDA, this is {setting.device}"
        )
        yield {"tests": f"{len(files)} files", "skipped": f"{why}; the part `lookups` checks the kernels"}
        return
    # Not the project's own options: they turn warnings of other versions of packages into errors.
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-o", "addopts=", "-o", "filterwarnings="]
    done = subprocess.run([*command, *map(str, files)], cwd=ROOT, capture_output=True, text=True)
    print(done.stdout, done.stderr, flush=True)
    last = next((line for line in reversed(done.stdout.splitlines()) if line.strip()), "no output")
    counts = {what: int(count) for count, what in re.findall(r"(\d+) (passed|failed|errors?|skipped)", last)}
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    row: Row = {"tests": f"{len(files)} files", "passed": counts.get("passed", 0), "failed": " ".join(failed)}
    yield row | ({} if done.returncode == 0 else {"error": last})
