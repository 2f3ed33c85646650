"""Training, resuming and scoring on a device that is not the CPU: `tests.stand_in`, for want of a GPU."""

import importlib.util
import json
import shutil
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from semraft.config import ModelConfig
from semraft.data.files.formats import read_flow
from semraft.data.files.pictures import write_image
from semraft.models.memory import KEPT_BYTES_PX
from semraft.models.weights import build_model
from tests.e2e.test_training import ONE_THREAD, called, lines, semraft, weights

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed: it exists for Linux alone"
)
SMALL = (
    *("--data.world.size", "64", "96", "--data.world.scenes", "12", "--data.crop", "64", "64"),
    *("--data.validation-pairs", "1", "--validation-updates", "2"),
    *("--num-updates", "2", "--optim.batch", "2"),
    *("--log-every", "1", "--validate-every", "2", "--checkpoint-every", "2", "--saved-pairs", "1"),
)
TERMS = (
    *("semantic-v1:0.5", "smoothness:0.1", "gradient-matching:0.1", "motion-model:0.1", "census:0.1"),
    *("label-warp:0.5,mask=predicted", "label-distance:0.1", "signed-distance:0.1", "boundary-weight:0.1"),
    *("matching:0.5", "segmentation:1", "temporal-consistency:0.5", "occlusion:1", "zero-forcing:0.2"),
    "transform-consistency:0.2,where=things",
)


def on_the_stand_in(*commands: tuple[str, ...], environment: dict[str, str] = ONE_THREAD) -> None:
    """The commands one after another, in a process of their own, which keeps such a device for good."""
    command = [sys.executable, "-m", "tests.stand_in", json.dumps(commands)]
    called(command, check=True, environment=environment)


def test_every_term_and_head_says_the_same_on_another_device(tmp_path: Path) -> None:
    """Red when: a term, a head, augmentation, scoring or a kernel makes a tensor on the CPU among the
    device's, or the kernels' gradients are not the CPU loops'."""
    heads_and_terms = ("--model.heads", "occlusion", "decoder", "--loss.terms", *TERMS)
    options = (*SMALL, *heads_and_terms, "--optim.steps", "2", "--health-every", "9")
    options += ("--precision", "float32", "--optim.ema", "0.9", "--loss.occluded", "leave-out")
    semraft("train", "world-base", *options, "--device", "cpu", "--output", str(tmp_path / "here"))
    there = ("--device", "standin", "--output", str(tmp_path / "there"))
    on_the_stand_in(("train", "world-base", *options, *there))
    here, there = lines(tmp_path / "here"), lines(tmp_path / "there")
    assert [line["step"] for line in there] == [1, 2, 2]
    for one, other in zip(here, there, strict=True):
        assert other.pop("split") == one.pop("split")
        # Rounding decides the class of a pixel in thousands, and with it a percentage of the small frames.
        shares = [name for name in one if name.endswith("_pct")]
        assert {name: other.pop(name) for name in shares} == pytest.approx(
            {name: one.pop(name) for name in shares}, abs=0.1
        )
        assert other == pytest.approx(one, rel=1e-4, abs=1e-6)


def test_float16_scales_its_gradients_and_resumes_exactly(tmp_path: Path) -> None:
    """Red when: the scaler's factor is not lowered, not saved or not restored, or a checkpoint of that device
    can't be read where it was written or on a CPU."""
    run, resumed = tmp_path / "run", tmp_path / "resumed"
    options = (*SMALL, "--optim.steps", "3", "--health-every", "3", "--precision", "float16")
    options += ("--optim.ema", "0.9", "--device", "standin")
    on_the_stand_in(("train", "world-semantic-v1", *options, "--output", str(run)))
    last = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    assert last["scaler"]["scale"] < 2**16
    shutil.copytree(run, resumed)
    shutil.copy(run / "checkpoints" / "step-000002.pt", resumed / "checkpoints" / "last.pt")
    checkpoint = str(run / "checkpoints" / "last.pt")
    of_world = ("evaluate", checkpoint, "--dataset", "world", "--size", "64", "96", "--pairs", "1")
    scores = tmp_path / "there.json", tmp_path / "here.json"
    for name in ("a.png", "b.png"):
        write_image(tmp_path / name, np.zeros((64, 72, 3), dtype=np.uint8))
    images = str(tmp_path / "a.png"), str(tmp_path / "b.png")
    in_half = ("--device", "standin", "--precision", "float16")
    on_the_stand_in(
        ("train", "--resume", str(resumed)),
        (*of_world, *in_half, "--json", str(scores[0])),
        ("predict", checkpoint, *images, "--out", str(tmp_path / "flow"), *in_half),
    )
    assert all(torch.equal(weights(resumed)[name], value) for name, value in last["model"].items())
    assert lines(resumed) == lines(run)
    semraft(*of_world, "--device", "cpu", "--precision", "float32", "--json", str(scores[1]))
    there, here = (json.loads(path.read_text())["metrics"]["epe"] for path in scores)
    assert there == pytest.approx(here, rel=0.01)
    assert there != here
    assert list((tmp_path / "flow").iterdir())


def test_flow_by_the_kernels_of_a_gpu(tmp_path: Path) -> None:
    """Triton's kernels, interpreted, inside a whole command.

    Red when: they are not what lookups call, or give other flow than the CPU's loops.
    """
    checkpoint, rng = tmp_path / "tiny.pt", np.random.default_rng(0)
    model = build_model(ModelConfig(arch="tiny"), seed=0)
    torch.save({"semraft": 1, "arch": "tiny", "model": model.state_dict()}, checkpoint)
    images = [str(tmp_path / name) for name in ("a.png", "b.png")]
    for image in images:
        write_image(Path(image), rng.integers(0, 256, (64, 72, 3), dtype=np.uint8))
    command = ("predict", str(checkpoint), *images, "--precision", "float32", "--num-updates", "1")
    by_triton = {**ONE_THREAD, "STAND_IN_TRITON": "1"}
    there, here = tmp_path / "there", tmp_path / "here"
    on_the_stand_in((*command, "--device", "standin", "--out", str(there)), environment=by_triton)
    semraft(*command, "--device", "cpu", "--out", str(here))
    flows = [read_flow(folder / "a.flo")[0] for folder in (there, here)]
    np.testing.assert_allclose(flows[0], flows[1], atol=1e-3)


def told(script: str) -> Any:
    """The JSON that a script prints on the stand-in, with lookups by the CPU's loops."""
    head = (
        "import json, torch\n"
        "from tests import stand_in\n"
        "from semraft.kernels.cpu import correlation_numba\n"
        "with stand_in.pretended(correlation_numba):\n"
    )
    ran = called([sys.executable, "-c", head + textwrap.indent(textwrap.dedent(script), "    ")], check=True)
    return json.loads(ran.stdout)


def test_a_step_gives_a_device_fewer_operations_than_torchvisions() -> None:
    """RAFT large by its defaults, 12 refinements, forward and backward. Red when: activations are computed
    again, frames are encoded apart, weights are rounded at each refinement, or upsampling is nine products.
    """
    counts = told(
        """
        from semraft.models.weights import build_model
        from semraft.config import ModelConfig
        from tests.parity.torchvision_shim import raft_large

        def count(model, updates, half):
            images = [torch.rand(1, 3, 128, 128, device="standin") for _ in range(2)]  # Torchvision's least.
            model.zero_grad(set_to_none=True)  # Adding to gradients would be an operation each.
            with stand_in.tallied() as tally:
                with torch.autocast("standin", dtype=torch.bfloat16, enabled=half):
                    found = model(*images, updates)
                torch.stack(list(getattr(found, "flows", found))).mean().backward()
            assert not tally.reads
            return tally.operations.total()

        def of_twelve(model, half=False):  # Each refinement gives as many as the one before it.
            model = model.to("standin")
            one, two = (count(model, updates, half) for updates in (1, 2))
            return one + 11 * (two - one)

        ours = [build_model(ModelConfig(arch="large"), seed=0) for _ in range(2)]
        half, theirs = of_twelve(ours[1], half=True), of_twelve(raft_large())
        print(json.dumps({"full": of_twelve(ours[0]), "half": half, "torchvision": theirs}))
        """
    )
    assert counts["full"] < 0.8 * counts["torchvision"]
    assert counts["half"] < 0.9 * counts["torchvision"]
    assert counts["full"] < 2850


def test_a_step_waits_for_its_device_once() -> None:
    """A plain step reads one number, whether to go on; one that is watched has one more wait, and the first
    a third, for the classes that there are. A line of metrics or of pulse.jsonl is one wait. Terms that ask
    which labels occur (`ops.labels.present`) wait for it, once a step.

    Red when: a number is read when it is found instead of with others (`fetched`), by float(), bool(), a
    boolean index or a copy; or a constant is copied to the device in a plain step.
    """
    found = told(
        """
        from dataclasses import fields, replace
        from semraft.config import parse_term
        from semraft.ops.fetch import fetched
        from semraft.config.recipes import RECIPES
        from semraft.monitor.gradient_stats import separates_terms
        from semraft.monitor.monitor import Monitor
        from semraft.training.window_metrics import add_step, window_means
        from semraft.monitor.step_stats import line_of
        from semraft import tracking
        from pathlib import Path
        from unittest.mock import Mock
        from semraft.training.state import initial_state
        from semraft.training.step import training_step
        import numpy as np
        from semraft.data.loader import collate
        from tests.helpers import make_sample

        kinds = torch.ones(2, 3).to("standin"), torch.ones(2), torch.tensor([7, 2]).to("standin")
        back = fetched(kinds)
        assert [(part.device.type, part.dtype, part.tolist()) for part in back] == [
            ("cpu", part.dtype, part.cpu().tolist()) for part in kinds
        ]

        batch = collate([make_sample(np.random.default_rng(seed), 64, 72) for seed in range(2)])
        of_batch = {field.name: getattr(batch, field.name) for field in fields(batch)}
        tensors = {name: part for name, part in of_batch.items() if isinstance(part, torch.Tensor)}
        batch = replace(batch, **{name: part.to("standin") for name, part in tensors.items()})

        names = "semantic-v1:0.5", "smoothness:0.1", "boundary-weight:0.1", "census:0.1"
        terms = tuple(parse_term(text) for text in names)
        base, device = RECIPES["world-base"].config, torch.device("standin", 0)
        found = dict()
        for precision in ("float32", "float16"):
            loss = replace(base.loss, terms=terms)
            config = replace(base, loss=loss, num_updates=2, precision=precision, health_every=3)
            state = initial_state(config, device)
            state.model.train()
            long = replace(config, optim=replace(config.optim, steps=9000))
            monitor = Monitor(run=Path("run"), config=long,
                model=state.model, optimizer=state.optimizer, scaler=state.scaler,
                statistics=state.statistics, tracker=Mock(spec=tracking.Tracker))
            for step in range(1, 4):
                with stand_in.tallied() as tally:
                    result = training_step(state, batch, config, separates_terms(config, step))
                    monitor.observe(result, batch)
                    add_step(state.window, result, config.loss)
                found[f"{precision} {step}"] = tally.reads, tally.uploads
            with stand_in.tallied() as tally:
                line_of(state.statistics)
                window_means(state.window, 0.8)
            found[f"{precision} lines"] = tally.reads, tally.uploads
        print(json.dumps(found))
        """
    )
    most = {"1": 3, "2": 1, "3": 2, "lines": 2}
    for name, (reads, uploads) in found.items():
        assert len(reads) <= most[name.split()[1]], (name, reads)
        assert not (name.endswith(" 2") and uploads), (name, uploads)


@pytest.mark.parametrize("archs", [("tiny", "small"), pytest.param(("large",), marks=pytest.mark.slow)])
def test_a_step_keeps_what_the_rule_for_recomputing_believes(archs: tuple[str, ...]) -> None:
    """Bytes kept for the gradients, without weights, which larger images do not add to.

    Red when: the network keeps more or less than `memory.KEPT_BYTES_PX` says, or not half in half precision.
    """
    kept = told(
        f"""
        from semraft.models.raft import ARCHITECTURES

        def kept(arch, again, size, updates, half):
            model = ARCHITECTURES[arch](correlation="on-demand").to("standin")
            model.recompute, found = again, dict()
            def note(tensor):
                storage = stand_in.of_here(tensor).untyped_storage()
                found[storage.data_ptr()] = storage  # Held, so that no other gets its place.
                return tensor
            image = torch.rand(1, 3, *size, device="standin")
            with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
                with torch.autocast("standin", dtype=torch.bfloat16, enabled=half):
                    prediction = model(image, image, updates)
            return sum(storage.nbytes() for storage in found.values())

        def by_pixel(arch, again, half):
            of = ((64, 96), 1), ((128, 192), 1), ((64, 96), 2)
            small, large, twice = (kept(arch, again, size, updates, half) for size, updates in of)
            refinement = (twice - small) / (64 * 96)
            return (large - small) / (3 * 64 * 96) - refinement, refinement

        ways = [(arch, again) for arch in {archs} for again in ("nothing", "ends")]
        print(json.dumps([(*way, *(by_pixel(*way, half) for half in (False, True))) for way in ways]))
        """
    )
    assert len(kept) == 2 * len(archs)
    for arch, again, full, half in kept:
        once, refinement = KEPT_BYTES_PX[again][arch]
        assert full == pytest.approx((once, refinement), rel=0.15, abs=8)
        total, total_half = (of_all + 12 * each for of_all, each in (full, half))
        assert 0.4 * total < total_half < 0.75 * total


def test_tensors_of_the_cpu_are_refused_where_cuda_refuses_them() -> None:
    """The basis of the tests above: of the CPU's tensors CUDA takes one number in elementwise arithmetic, any
    in `where`, indices, and what is copied."""
    refused = told(
        """
        there, number = torch.ones(3, device="standin"), torch.tensor(1.0)
        assert (there * 2.0 + number).tolist() == [3.0, 3.0, 3.0]
        assert torch.where(there > 0, number, number).tolist() == [1.0, 1.0, 1.0]
        assert there[torch.tensor([0, 2])].tolist() == there.clone().copy_(torch.ones(3))[:2].tolist()

        def is_refused(work):
            try:
                work()
            except RuntimeError as error:
                return "of the CPU" in str(error)
            return False

        meetings = {
            "tensor": lambda: there + torch.ones(3),
            "stack": lambda: torch.stack([there[0], number]),
            "cat": lambda: torch.cat([there, number[None]]),
            "two numbers": lambda: torch.addcmul(there, number, number),
            "written": lambda: number.add_(there[0]),
            "foreach": lambda: torch._foreach_add_([there], [number]),
            "matrix": lambda: there @ torch.ones(3),
            "put": lambda: there.index_put_((torch.tensor([0, 2]),), torch.ones(2)),
        }
        print(json.dumps({name: is_refused(work) for name, work in meetings.items()}))
        """
    )
    assert all(refused.values()), refused
