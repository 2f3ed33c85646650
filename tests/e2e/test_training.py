"""Training as a person does it: from the command line, killed, resumed, on two processes."""

import csv
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch

import semraft as semraft_package
from semraft.cli import main
from semraft.config import load_config
from semraft.data.files.pictures import write_image
from semraft.models.weights import build_model
from tests.helpers import PATIENCE_S

SMALL = [
    *("--data.world.size", "64", "96", "--data.world.scenes", "12", "--data.crop", "64", "64"),
    *("--data.validation-pairs", "3", "--validation-updates", "2"),
    *("--num-updates", "2", "--optim.batch", "2"),
    *("--log-every", "2", "--validate-every", "4", "--checkpoint-every", "1", "--saved-pairs", "2"),
    *("--device", "cpu", "--precision", "float32"),
]
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
"""Tiny networks are slower on two threads, and much slower on a busy machine."""
DESCENT = ("--optim.epsilon", "1", "--optim.learning-rate", "0.1")
"""AdamW that is gradient descent with momentum: moves are as far apart as gradients are. With its own epsilon
the first step has one length for every gradient, also for one that is rounding alone."""
AS_ONE = 0.02
"""How far apart gradients of the same batch may be: half a batch may be convolved another way, and a
rectifier that opens or shuts by rounding turns the gradient by some 1e-3. A halved one is 0.5 apart."""

UNDISTURBED = [*SMALL, "--optim.steps", "12", "--seed", "3"]


def semraft(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """The command within this process: a process of its own takes four seconds to import torch."""
    printed, told = io.StringIO(), io.StringIO()
    with redirect_stdout(printed), redirect_stderr(told):
        try:
            code = main.run(arguments)
        except SystemExit as ended:  # The parser of options ends so.
            code = int(ended.code or 0)
    if check:
        assert code == 0, told.getvalue()
    return subprocess.CompletedProcess(arguments, code, printed.getvalue(), told.getvalue())


def in_a_process_of_its_own(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return called([sys.executable, "-m", "semraft", *arguments], check)


def on_two_processes(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return called([*launcher, "-m", "semraft", *arguments], check)


def called(
    command: list[str], check: bool, environment: dict[str, str] = ONE_THREAD
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
    if check:
        assert done.returncode == 0, done.stderr
    return done


def weights(run: Path) -> dict[str, torch.Tensor]:
    checkpoint = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    return checkpoint["model"]


def lines(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "undisturbed"
    semraft("train", "world-semantic-v1", *UNDISTURBED, "--output", str(run))
    return run


def test_a_run_leaves_what_the_report_reads(undisturbed: Path) -> None:
    config = json.loads((undisturbed / "config.json").read_text())
    assert config["seed"] == 3
    assert config["precision"] == "float32"
    environment = json.loads((undisturbed / "environment.json").read_text())
    ids = environment["data"]["validation"]["world-val"]["ids"]
    assert len(set(ids)) == 3
    train = [line for line in lines(undisturbed) if line["split"] == "train"]
    assert [line["step"] for line in train] == list(range(2, 13, 2))
    names = {"flow_loss", "semantic_loss", "matching_loss", "total_loss", "epe", "1px", "3px", "5px"}
    assert names | {"flow_loss_iter_000", "semantic_loss_iter_001", "epe_iter_000"} <= train[0].keys()
    last = train[-1]
    weights = {term["name"]: term["weight"] for term in config["loss"]["terms"]}
    parts = last["flow_loss"] + weights["semantic-v1"] * last["semantic_loss"]
    parts += weights["matching"] * last["matching_loss"]
    assert last["total_loss"] == pytest.approx(parts, rel=1e-5)
    scored = [line for line in lines(undisturbed) if line["split"] == "world-val"]
    assert [line["step"] for line in scored] == [4, 8, 12]
    assert {"epe", "epe_image_mean", "fl", "wauc", "epe_moving", "epe_occluded"} <= scored[-1].keys()
    with open(undisturbed / "per_sample.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == ids
    pairs = sorted((undisturbed / "pairs" / "world-val").iterdir())
    assert len(pairs) == 2
    with np.load(pairs[0]) as pair:
        assert pair["flow"].shape == pair["flow_gt"].shape == (64, 96, 2)
        assert str(pair["id"]) in ids
    names = {path.name for path in (undisturbed / "checkpoints").iterdir()}
    assert names == {"step-000004.pt", "step-000008.pt", "step-000012.pt", "last.pt", "best.pt"}
    assert list(undisturbed.glob("events.out.tfevents.*"))


@pytest.mark.parametrize("kills", [(3,), pytest.param((1, 3, 6), marks=pytest.mark.slow)], ids=len)
def test_killed_at_any_step_it_ends_with_the_same_weights(
    kills: tuple[int, ...], undisturbed: Path, tmp_path: Path
) -> None:
    """SIGKILL at random steps, each one of three. Red when: the optimiser, sample number or window is not
    restored."""
    run = tmp_path / "killed"
    last = run / "checkpoints" / "last.pt"
    command = ["train", "world-semantic-v1", *UNDISTURBED, "--output", str(run)]
    for earliest in kills:  # Long before the end: it goes on while its checkpoint is read.
        target = earliest + random.randrange(3)
        process = subprocess.Popen(
            [sys.executable, "-m", "semraft", *command],
            env=ONE_THREAD,
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        while not (last.exists() and torch.load(last, weights_only=True)["step"] >= target):
            assert process.poll() is None, "ended before it was killed"
            time.sleep(0.01)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        command = ["train", "--resume", str(run)]
    semraft(*command)
    expected, found = weights(undisturbed), weights(run)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert lines(run) == lines(undisturbed)
    pulses = [(folder / "pulse.jsonl").read_text() for folder in (run, undisturbed)]
    assert pulses[0] == pulses[1]


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_sitting_of_no_minutes_takes_a_step_in_every_process(processes: int, tmp_path: Path) -> None:
    """How two of them agree to stop is held by `test_endings` too. Red when: it ends as done or as failed, or
    two processes do not stop at one step, with a checkpoint."""
    run, start = tmp_path / "run", semraft if processes == 1 else on_two_processes
    options = ("--optim.steps", "3", "--max-minutes", "0", "--output", str(run))
    done = start("train", "world-base", *SMALL, *options, check=False)
    assert done.returncode == (75 if processes == 1 else 1), done.stderr
    assert done.stderr.count("stopped after step 1, as --max-minutes says") == processes, done.stderr
    assert f"go on with `semraft train --resume {run}`" in done.stderr
    assert torch.load(run / "checkpoints" / "last.pt", weights_only=True)["step"] == 1


def test_a_run_can_be_repeated_from_its_folder(undisturbed: Path, tmp_path: Path) -> None:
    again, other = tmp_path / "again", tmp_path / "other"
    semraft("train", "--from", str(undisturbed), "--output", str(again))
    assert lines(again) == lines(undisturbed)
    shorter = ("--optim.steps", "2", "--validate-every", "2")
    semraft("train", "--from", str(undisturbed), "--output", str(other), "--seed", "4", *shorter)
    assert lines(other)[0]["epe"] != lines(undisturbed)[0]["epe"]


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    """The same global batch. Red when: each process divides by its own valid pixels or draws a view of its
    own, or a further pass upsets the averaging of gradients."""
    terms = ("semantic-v1:0.5", "matching:0.5", "zero-forcing:0.2", "transform-consistency:0.2,where=things")
    runs = on_one_and_two(tmp_path, "--optim.steps", "2", "--loss.terms", *terms)
    for one, two in zip(lines(runs[0]), lines(runs[1]), strict=True):
        assert one.keys() == two.keys()
        of_terms = ("semantic_loss", "matching_loss", "zero_forcing_loss", "transform_consistency_loss")
        for name in ("flow_loss", *of_terms, "epe", "epe_iter_000"):
            if name in one:
                assert two[name] == pytest.approx(one[name], rel=2e-3, abs=1e-5), (name, one["step"])
        if "1px" in one:  # Of 4096 pixels a sample, some are at the threshold.
            assert two["1px"] == pytest.approx(one["1px"], abs=2e-3)
    assert apart(*runs) < AS_ONE
    same_gradients_seen(*runs)


@pytest.mark.slow
def test_terms_are_held_alike_on_two_processes(tmp_path: Path) -> None:
    """Red when: each process projects or caps the gradient of its own part, gradients are averaged twice or
    not at all, a log variance learns from one process's loss, or one process waits for the other."""
    terms = ("semantic-v1:5,modulation=uncertainty", "segmentation:2", "zero-forcing:1,schedule=flow-loss")
    held = ("--loss.combine", "project", "--loss.share-cap", "0.5", "--model.heads", "decoder")
    runs = on_one_and_two(tmp_path, "--optim.steps", "4", *held, "--loss.terms", *terms)
    one, two = ([line for line in lines(run) if line["split"] == "train"] for run in runs)
    assert min(line["segmentation_loss_kept_frac"] for line in one) < 0.9
    for name in ("semantic_loss", "segmentation_loss", "zero_forcing_loss"):
        kept = f"{name}_kept_frac"
        assert [line[kept] for line in two] == pytest.approx([line[kept] for line in one], abs=AS_ONE)
    name = "semantic_loss_log_variance"
    assert [line[name] for line in two] == pytest.approx([line[name] for line in one], rel=AS_ONE)
    assert apart(*runs) < AS_ONE
    same_gradients_seen(*runs)


def same_gradients_seen(one: Path, other: Path) -> None:
    """Of the whole batch, whatever processes share it: the norms and shares of the second step."""
    first = [json.loads((run / "health.jsonl").read_text().splitlines()[1]) for run in (one, other)]
    seen = [name for name in first[0] if name.startswith(("gradient_norm_", "share_pct_"))]
    assert len(seen) > 3
    assert [first[1][name] for name in seen] == pytest.approx([first[0][name] for name in seen], rel=AS_ONE)


def on_one_and_two(folder: Path, *options: str) -> tuple[Path, Path]:
    """The same run on one process and on two."""
    runs = folder / "one", folder / "two"
    watched = ("--health-every", "2", "--optim.batch", "4")
    command = ["train", "world-semantic-v1", *SMALL, *DESCENT, "--seed", "5", *watched, *options]
    semraft(*command, "--output", str(runs[0]))
    on_two_processes(*command, "--output", str(runs[1]))
    return runs


def apart(one: Path, other: Path, part: str = "") -> float:
    """The distance of two runs' weights in parts of how far they moved; of those whose name begins so."""
    config = load_config(one / "config.json")
    start = build_model(config.model, config.seed).state_dict()
    expected, found = weights(one), weights(other)
    names = [name for name in expected if name.startswith(part)]
    distance, moved = (
        sum(float((expected[name] - state[name]).square().sum()) for name in names)
        for state in (found, start)
    )
    assert moved > 0
    return (distance / moved) ** 0.5


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["train", "no-such-recipe"], 2, "semraft recipes"),
        (["train", "world-base", "--sed", "3"], 2, "--seed"),
        (["train", "world-base", "--max-minutes", "soon"], 2, "--max-minutes is 'soon'"),
        (["train", "--resume", "nowhere"], 2, "no config.json"),
        (["train", "viper-baseline", "--data.root", "nowhere"], 2, "nowhere"),
        (["train", "world-base", "--loss.terms", "semantic:0.5"], 2, "semantic-v1"),
        (["train", "world-base", "--loss.terms", "smoothness:1,order=3"], 2, "choose from 1, 2"),
        (["train", "world-base", "--loss.terms", "matching:1,where=things"], 2, "has no option where"),
        (["train", "world-base", "--loss.terms", "segmentation:1"], 2, "the network does not give"),
        (["train", "world-base", "--device", "cuda:99"], 2, "no GPU"),
        (["train", "world-base", "--precision", "float16", "--device", "cpu"], 2, "float16"),
        (["evaluate", "nowhere.pt", "--dataset", "world"], 2, "nowhere.pt"),
        (["evaluate", "zero", "--dataset", "wrold"], 2, "world"),
        (["report", "nowhere", "--out", "x.html"], 2, "nowhere"),
        (["teleport"], 2, "no command"),
    ],
)
def test_what_a_user_gets_wrong_is_one_clear_line(
    arguments: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Within this process: what `main` adds is the exit, below."""
    try:
        found = main.run(arguments)
    except SystemExit as exit:  # The parser of options ends so.
        found = exit.code
    assert found == code
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    assert says in printed.err


def test_a_wrong_call_ends_the_process_without_a_traceback() -> None:
    done = in_a_process_of_its_own("train", "--resume", "nowhere", check=False)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("semraft train: ")
    assert "no config.json" in line


def test_a_reader_that_has_had_enough_ends_it_quietly() -> None:
    """Red when: `semraft recipes | head -1` prints a traceback."""
    command = [sys.executable, "-m", "semraft", "recipes"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.close()  # Long before it prints.
    told = process.communicate(timeout=PATIENCE_S)[1]
    assert (process.returncode, told) == (1, "")


def test_a_checkpoint_is_scored_from_the_command_line(undisturbed: Path, tmp_path: Path) -> None:
    """With as many refinements as its run was validated with, and the same numbers as its run has."""
    last, out, rows = undisturbed / "checkpoints" / "last.pt", tmp_path / "out.json", tmp_path / "rows.csv"
    world = ["--dataset", "world", "--pairs", "3", "--size", "64", "96"]
    semraft("evaluate", str(last), *world, "--device", "cpu", "--json", str(out), "--per-sample", str(rows))
    result = json.loads(out.read_text())
    assert result["pairs"] == 3
    assert {"epe_iter_001", "fl_road", "1px_speed_0_10", "epe_moving"} <= result["metrics"].keys()
    assert "epe_iter_002" not in result["metrics"]
    assert result["metrics"]["epe"] == pytest.approx(lines(undisturbed)[-1]["epe"], rel=1e-6)
    assert len(rows.read_text().splitlines()) == 4
    both = json.loads(semraft("evaluate", "zero", "dis", *world, "--json", "-").stdout)
    assert both["dis"]["metrics"]["epe"] < both["zero"]["metrics"]["epe"]


def test_flow_for_two_pictures_from_the_command_line(undisturbed: Path, tmp_path: Path) -> None:
    images = [tmp_path / "a.png", tmp_path / "b.png"]
    with np.load(next((undisturbed / "pairs" / "world-val").iterdir())) as pair:
        write_image(images[0], pair["image1"])
        write_image(images[1], pair["image2"])
        expected = pair["flow"].astype(np.float32)
    last = undisturbed / "checkpoints" / "last.pt"
    semraft("predict", str(last), *map(str, images), "--out", str(tmp_path / "flow"), "--device", "cpu")
    flow, valid = semraft_package.read_flow(tmp_path / "flow" / "a.flo")
    assert valid.all()
    np.testing.assert_allclose(flow, expected, atol=0.02)  # The run keeps half precision.
    names = {path.name for path in (tmp_path / "flow").iterdir()}
    assert names == {"a.flo", "a_kitti.png", "a_flow.png", "a_sheet.png"}


def test_a_report_of_real_runs(undisturbed: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    done = semraft("report", str(undisturbed), "--out", str(page))
    epe = lines(undisturbed)[-1]["epe"]
    assert f"{epe:.3f}" in done.stdout
    assert f"{epe:.3f}" in page.read_text()


def test_half_precision_trains(tmp_path: Path) -> None:
    """bfloat16 on any CPU, slow where the hardware lacks it; the first loss is near that of float32 (8 binary
    digits, and some ten roundings one after another)."""
    curves = []
    for precision in ("float32", "bfloat16"):
        run = tmp_path / precision
        options = [*SMALL[:-1], precision, "--optim.steps", "2", "--seed", "3", "--log-every", "1"]
        semraft("train", "world-base", *options, "--output", str(run))
        curves.append([line["flow_loss"] for line in lines(run) if line["split"] == "train"])
    assert curves[0][0] != curves[1][0]
    assert curves[1][0] == pytest.approx(curves[0][0], rel=0.05)
