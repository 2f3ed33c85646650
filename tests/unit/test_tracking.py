"""The run directory: whole files, torn lines, names of scalars."""

import json
import resource
from pathlib import Path

import pytest

from semraft import tracking


def test_scalars_keep_the_study_names() -> None:
    """Old and new runs stand side by side in a tracker only while these names hold."""
    assert tracking.scalar_name("train", "flow_loss_iter_000") == "flow_loss_iter_000"
    assert tracking.scalar_name("viper-val", "1px") == "viper-val-1px"
    assert tracking.scalar_name("kitti", "fl") == "kitti-f1"
    assert tracking.scalar_name("kitti", "epe_image_mean") == "kitti-epe"
    assert tracking.scalar_name("kitti", "epe") == "kitti-epe-pooled"
    assert tracking.scalar_name("world-val", "epe_image_mean") == "world-val-epe_image_mean"


def test_resuming_forgets_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    for step in (5, 10, 15):
        tracking.append_line(file, {"step": step, "epe": step / 2})
    with open(file, "a") as torn:
        torn.write('{"step": 20, "ep')
    tracking.forget_after(file, 10)
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [5, 10]


def test_numbers_that_json_lacks_become_null(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    tracking.append_line(file, {"step": 1, "epe": float("nan"), "fl": float("inf"), "1px": 0.5})
    assert json.loads(file.read_text()) == {"step": 1, "epe": None, "fl": None, "1px": 0.5}


@pytest.mark.parametrize(
    ("numbers", "reason", "shown"),
    [(60, ValueError("the reason"), "the reason"), (60, None, "too large"), (3000, None, "too large")],
    ids=["a reason", "at the end", "on the way"],
)
def test_curves_that_a_full_disk_refuses_hide_no_reason(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    numbers: int,
    reason: Exception | None,
    shown: str,
) -> None:
    """A limit on the size of files stands for the disk. Red when: the error that ends a training is replaced
    by that of its curves, or comes with the traceback of a thread; or curves are lost in silence."""

    def draw() -> None:
        with tracking.Tracker(tmp_path, 1) as tracker:
            for step in range(numbers):
                tracker.draw(step, "group", {"name": 1.0})
            if reason:
                raise reason

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400, before[1]))
    try:
        with pytest.raises((ValueError, OSError), match=shown):
            draw()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "Traceback" not in capsys.readouterr().err


def test_a_run_is_not_overwritten(tmp_path: Path) -> None:
    """Red when: a checkpoint is lost, or the records of another run."""
    run = tmp_path / "run"
    tracking.create_run(run, "{}")
    tracking.append_line(run / tracking.METRICS, {"step": 1})
    with pytest.raises(ValueError, match="of another configuration"):
        tracking.create_run(run, "{ }")
    assert (run / tracking.METRICS).exists()
    tracking.create_run(run, "{}")
    assert not (run / tracking.METRICS).exists()
    (run / tracking.CHECKPOINTS / "last.pt").touch()
    with pytest.raises(ValueError, match="--resume"):
        tracking.create_run(run, "{}")
