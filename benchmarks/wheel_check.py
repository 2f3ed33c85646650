"""Installs the wheel into a new environment of each given Python and predicts flow there.

    python -m benchmarks.wheel_check ~/.pyenv/versions/3.1[123]*/bin/python

No development tool is installed, and nothing of this checkout is on the path. Needs a package index.
"""

import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROGRAM = textwrap.dedent("""
    import importlib.resources, cv2, numpy, torch, semraft
    torch.manual_seed(0)
    torch.save(semraft.raft_small().state_dict(), "small.pth")
    noise = numpy.random.default_rng(0).integers(0, 256, (72, 99, 3), numpy.uint8)
    cv2.imwrite("a.png", noise[:, :96])
    cv2.imwrite("b.png", noise[:, 3:])
    assert (importlib.resources.files("semraft") / "py.typed").is_file()
""")


def check(python: str, wheel: Path) -> str:
    """Installs and predicts; returns a row of a table: Python, torch, files that `predict` wrote."""
    with tempfile.TemporaryDirectory() as place:

        def run(*command: str) -> str:
            return subprocess.run(
                command, cwd=place, check=True, stdout=subprocess.PIPE, text=True
            ).stdout.strip()

        run(python, "-m", "venv", "env")
        own = f"{place}/env/bin/python"
        constraints = f"--constraint={ROOT / 'constraints.txt'}"
        run(own, "-m", "pip", "install", "-q", "--no-compile", "--only-binary=:all:", constraints, str(wheel))
        run(own, "-c", PROGRAM)
        predict = (
            "predict",
            "a.png",
            "b.png",
            "--out",
            "out",
            "--weights",
            "small.pth",
            "--num-updates",
            "3",
        )
        run(f"{place}/env/bin/semraft", *predict)
        versions = run(
            own, "-c", "import platform, torch; print(platform.python_version(), '|', torch.__version__)"
        )
        written = ", ".join(sorted(path.name for path in Path(place, "out").iterdir()))
        return f"| {versions} | {written} |"


def main() -> None:
    """Builds the wheel from this checkout and checks it with every Python that is named."""
    with tempfile.TemporaryDirectory() as dist:
        wheel = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
        subprocess.run([*wheel, "-w", dist, str(ROOT)], check=True)
        (built,) = Path(dist).glob("*.whl")
        for python in sys.argv[1:]:
            print(check(python, built), flush=True)


if __name__ == "__main__":
    main()
