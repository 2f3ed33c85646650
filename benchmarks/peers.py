"""Times semraft's RAFT against torchvision's (and official code at a path), and what memory each takes.

    python benchmarks/peers.py [--only TEXT] [--rounds 3] [--precision float32] [--official PATH]
                               [--compile] [--markdown FILE]

Contestants have the same weights and take turns in one process on one core (A B A B), in CPU time, so that a
busy machine slows all of them; the first turn of each is not counted. A ratio is the median over rounds of
torchvision / contestant, with the smallest and the largest. Peak memory is that of a process of its own which
does the work once, above what it holds before. All run under the same autocast; `--default-precision` sets
semraft's default against torchvision's (float32) instead. `--official` is a checkout of the authors' code
(princeton-vl/RAFT). `--compile` adds torchvision under torch.compile, compiled before the first turn.
"""

import argparse
import contextlib
import importlib
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from memory import memory_mb
from torch import Tensor, nn
from torchvision_here import torchvision

import semraft
from semraft.losses import sequence_loss
from semraft.models.weights import convert, revert
from semraft.runtime import choose_precision

optical_flow = torchvision.models.optical_flow


@dataclass(frozen=True)
class Work:
    """A piece of work people do: a training step or a prediction."""

    name: str
    arch: str
    size: tuple[int, int]
    num_updates: int
    trains: bool
    timed: bool = True


WORKS = (
    Work("inference large 376x1248, 24 refinements", "large", (376, 1248), 24, False),
    Work("inference large 720x1280, 12 refinements", "large", (720, 1280), 12, False),
    Work("inference small 376x1248, 24 refinements", "small", (376, 1248), 24, False),
    Work("training step large 288x960, 12 refinements", "large", (288, 960), 12, True),
    Work("training step small 288x960, 12 refinements", "small", (288, 960), 12, True),
    Work("inference large 1080x1920, 12 refinements", "large", (1080, 1920), 12, False, timed=False),
)

Run = Callable[[], None]


def images(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Smooth random images, the second one the first moved by (5, 3) pixels."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(1, 3, size[0] // 8 + 3, size[1] // 8 + 3, generator=generator)
    image = nn.functional.interpolate(coarse, scale_factor=8, mode="bicubic").clamp(0, 1) * 255
    height, width = size
    return image[..., 3 : 3 + height, 5 : 5 + width].contiguous(), image[..., :height, :width].contiguous()


def autocast(precision: str) -> contextlib.AbstractContextManager[None]:
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast("cpu", dtype=getattr(torch, precision))


def make(contestant: str, work: Work, precision: str, official: str | None) -> Run:
    """The work, ready to be done by one contestant; what is not counted happens here."""
    torch.manual_seed(0)
    weights = getattr(optical_flow, f"raft_{work.arch}")(weights=None).state_dict()
    image1, image2 = images(work.size)
    truth, valid = torch.randn(1, 2, *work.size), torch.ones(1, *work.size, dtype=torch.bool)
    model, flows = _network(contestant, work, weights, official)
    model.train(work.trains)

    def train() -> None:
        with autocast(precision):
            predicted = flows(image1, image2)
        if contestant.startswith("semraft"):
            loss = sequence_loss(predicted, truth, valid)
        else:
            # As the public training code has it.
            last = len(predicted) - 1
            shares = (
                0.8 ** (last - t) * (valid[:, None] * (flow - truth).abs()).mean()
                for t, flow in enumerate(predicted)
            )
            loss = torch.stack(list(shares)).sum()
        loss.backward()
        model.zero_grad()

    def predict() -> None:
        with torch.inference_mode(), autocast(precision):
            flows(image1, image2)

    return train if work.trains else predict


def _network(
    contestant: str, work: Work, weights: dict[str, Tensor], official: str | None
) -> tuple[nn.Module, Callable[[Tensor, Tensor], list[Tensor]]]:
    updates = work.num_updates
    if contestant.startswith("semraft"):
        arch, state = convert(weights)
        ours = {"large": semraft.raft_large, "small": semraft.raft_small}[arch]()
        ours.load_state_dict(state)
        ours.recompute = "everything" if contestant.endswith("everything") else "ends"
        keep = "all" if work.trains else "last"
        return ours, lambda image1, image2: ours(image1, image2, updates, keep=keep).flows
    if contestant == "official":
        theirs = _official(Path(official or ""), work.arch, weights)

        def run(image1: Tensor, image2: Tensor) -> list[Tensor]:
            found = theirs(image1, image2, iters=updates, test_mode=not work.trains)
            return list(found)

        return theirs, run
    model = getattr(optical_flow, f"raft_{work.arch}")(weights=None)
    model.load_state_dict(weights)
    called: Callable[..., list[Tensor]] = model
    if contestant.endswith("compile"):
        # For this size alone: after another one it would be compiled for every size, which is slower.
        torch._dynamo.reset()
        called = torch.compile(model, dynamic=False)
    return model, lambda image1, image2: called(
        image1 / 127.5 - 1, image2 / 127.5 - 1, num_flow_updates=updates
    )


def _official(checkout: Path, arch: str, weights: dict[str, Tensor]) -> nn.Module:
    """The authors' network from their checkout, with the same weights."""
    sys.path.insert(0, str(checkout / "core"))
    try:
        module = importlib.import_module("raft")
    except ImportError as error:
        raise SystemExit(
            f"--official {checkout}: no core/raft.py of princeton-vl/RAFT there: {error}"
        ) from error

    class Options(SimpleNamespace):
        def __contains__(self, name: str) -> bool:
            return hasattr(self, name)

    model = module.RAFT(
        Options(small=arch == "small", dropout=0, alternate_corr=False, mixed_precision=False)
    )
    _, state = convert(weights)
    model.load_state_dict(revert(state, "princeton", arch))
    return model


def paired(runs: dict[str, Run], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of every contestant in every round, in turn; one turn of each before them."""
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.process_time()
            run()
            seconds[name].append(time.process_time() - start)
    return seconds


def peak_mb(contestant: str, work: Work, precision: str, official: str | None) -> float:
    """Peak resident memory of a process that does the work once, above what it held before."""
    command = [sys.executable, __file__, "--memory", contestant, "--only", work.name]
    command += ["--precision", precision, *(["--official", official] if official else [])]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def measure_memory(contestant: str, work: Work, precision: str, official: str | None) -> None:
    tiny = Work("", work.arch, (128, 128), 1, work.trains)
    make(contestant, tiny, precision, official)()  # Libraries are loaded and kernels compiled.
    run = make(contestant, work, precision, official)
    before_mb = memory_mb("VmRSS")
    run()
    print(memory_mb("VmHWM") - before_mb)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", default="", help="works whose name contains this")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--default-precision", action="store_true")
    parser.add_argument("--official", help="a checkout of princeton-vl/RAFT")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    works = [work for work in WORKS if options.only in work.name]
    if not works:
        raise SystemExit(f"--only {options.only}: no such work; there are {[work.name for work in WORKS]}")
    if options.memory:
        measure_memory(options.memory, works[0], options.precision, options.official)
        return
    ours = options.precision
    if options.default_precision:
        ours = choose_precision("auto", torch.device("cpu"))
    table = [
        f"{cpu_name()}, one thread, torch {torch.__version__}; semraft {ours}, peers {options.precision}",
        "",
        "| work | contestant | CPU s, median | ratio (range) | peak MB above idle |",
        "| --- | --- | --- | --- | --- |",
    ]
    print("\n".join(table), flush=True)
    for work in works:
        rows = measure(work, options, ours)
        table += rows
        print("\n".join(rows), flush=True)
    if options.markdown:
        options.markdown.write_text("\n".join(table) + "\n")


def measure(work: Work, options: argparse.Namespace, ours: str) -> list[str]:
    """The rows of one work."""
    contestants = ["torchvision", *(["official"] if options.official else [])]
    contestants += ["torchvision compile"] if options.compile else []
    contestants += ["semraft", *(["semraft recompute everything"] if work.trains else [])]
    precisions = {name: ours if name.startswith("semraft") else options.precision for name in contestants}
    seconds: dict[str, list[float]] = {}
    if work.timed:
        runs = {name: make(name, work, precisions[name], options.official) for name in contestants}
        seconds = paired(runs, options.rounds)
        del runs
    rows = []
    for name in contestants:
        time_s = ratio = "-"
        if seconds:
            ratios = [theirs / own for theirs, own in zip(seconds["torchvision"], seconds[name], strict=True)]
            time_s = f"{statistics.median(seconds[name]):.2f}"
            ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        memory = (
            "-" if options.no_memory else f"{peak_mb(name, work, precisions[name], options.official):.0f}"
        )
        rows.append(f"| {work.name} | {name} | {time_s} | {ratio} | {memory} |")
    return rows


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
