"""Runs the tests that depend on arithmetic again, computing as other processors would.

    python -m tests.processors [VARIANT ...]

What chooses its instructions by the processor can be told to choose older ones: torch's own loops (ATen),
its convolutions (oneDNN) and matrix products (MKL), the loops that Numba compiles, NumPy and OpenCV. Newer
ones than the processor has can't be had so. Prints a table in Markdown; exit code 1 if a test failed.
"""

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

ARITHMETIC = (
    "tests/golden/test_surface.py",
    "tests/parity",
    "tests/property",
    "tests/unit/evaluation/test_evaluate.py",
    "tests/unit/evaluation/test_validate.py",
    "tests/unit/kernels/cpu",
    "tests/unit/losses",
    "tests/unit/models",
    "tests/unit/monitor",
    "tests/unit/ops",
    "tests/unit/training/test_auxiliary_passes.py",
    "tests/unit/training/test_step.py",
    "tests/unit/data/test_augment.py",
    "tests/unit/data/world/test_driving_scene.py",
    "tests/unit/test_inference.py",
    "tests/unit/test_metrics.py",
)
COUNTING = "not every_recipe and not ask_a_device"
"""Without tests that count or only call, and take long. For their time runs that are resumed are left out
too, which are compared with themselves, and Triton's interpreter, which is NumPy."""
OLD_NUMPY = {"NPY_DISABLE_CPU_FEATURES": "X86_V3"} if platform.machine() in ("x86_64", "AMD64") else {}
OLD_OPENCV = {"OPENCV_CPU_DISABLE": "AVX512_SKX,AVX2,FMA3,FP16,AVX,SSE4.2,SSE4.1", "OPENCV_IPP": "disabled"}
VARIANTS: dict[str, dict[str, str]] = {
    "as-it-is": {},
    "two-threads": {"OMP_NUM_THREADS": "2"},
    "aten-default": {"ATEN_CPU_CAPABILITY": "default"},
    "aten-avx2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "onednn-sse41": {"ONEDNN_MAX_CPU_ISA": "SSE41"},
    "onednn-avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    "onednn-avx512": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
    "numba-generic": {"NUMBA_CPU_NAME": "generic"},  # Numba's cache tells processors apart by name.
    "numpy-opencv-old": OLD_NUMPY | OLD_OPENCV,
    "all-old": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "NUMBA_CPU_NAME": "generic",
        "MKL_CBWR": "COMPATIBLE",
        "OMP_NUM_THREADS": "2",
        **OLD_NUMPY,
        **OLD_OPENCV,
    },
}


def run(chosen: dict[str, str]) -> tuple[int, str]:
    """Exit code and closing line of the tests with these variables set; what they say is passed on."""
    command = [sys.executable, "-m", "pytest", "-n", "logical", "--maxprocesses", "8", "--dist", "loadfile"]
    process = subprocess.Popen(
        [*command, "-k", COUNTING, *ARITHMETIC],
        env={**os.environ, "OMP_NUM_THREADS": "1", **chosen},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    last = ""
    for line in process.stdout:
        print(line, end="", flush=True)
        last = line if line.strip() else last
    return process.wait(), re.sub(r"\x1b\[\d+m|=+", "", last).strip()


def processor() -> str:
    """The model's name, where the system tells it."""
    known = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", known.read_text()) if known.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def main(names: list[str]) -> int:
    if unknown := set(names) - set(VARIANTS):
        print(f"no variant {', '.join(unknown)}: choose from {', '.join(VARIANTS)}", file=sys.stderr)
        return 2
    rows = ["| variant | variables | tests |", "| --- | --- | --- |"]
    failed = False
    for name in names or VARIANTS:
        print(f"\n{name}: {VARIANTS[name]}", flush=True)
        code, closing = run(VARIANTS[name])
        failed |= code != 0
        variables = " ".join(f"`{key}={value}`" for key, value in VARIANTS[name].items())
        rows.append(f"| {name} | {variables} | {closing} |")
    print("", processor(), "", *rows, sep="\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
