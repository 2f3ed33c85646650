"""The page about own data, command by command, on a folder of no known layout."""

from pathlib import Path

import numpy as np
import pytest
import torch

from semraft.data.files.formats import write_flow
from semraft.data.files.pictures import write_ids, write_image
from semraft.data.world.driving_scene import scene
from semraft.models.raft import raft_tiny
from tests.e2e.test_training import lines, semraft
from tests.test_docs import DOCS, commands_of

PAGE = DOCS / "how-to" / "use-your-own-data.md"
TRAIN_IDS = np.array([0, 1, 9, 2, 4, 5, 8, 10, 11, 18, 13, 14], np.uint8)
"""Common id -> Cityscapes labelTrainId."""
HERE = {
    "--data.crop 96 160": "--data.crop 64 96",
    "--model.weights raft-small.pth --model.arch small": "--model.weights start.pt --model.arch tiny",
}
"""Text of the page -> text of the test: other frames, other weights."""
QUICKER = HERE | {
    "--optim.steps 500 --validate-every 100": "--optim.steps 2 --validate-every 2 --optim.batch 2 "
    "--num-updates 2 --validation-updates 2",
    "world-decoder --seed 0": "world-decoder --seed 0 --optim.steps 2 --validate-every 2 --data.crop 64 64 "
    "--data.world.size 64 72 --data.world.scenes 2 --data.validation-pairs 1",
}
SLOWER = HERE | {
    "--optim.steps 500 --validate-every 100": "--optim.steps 20 --validate-every 10 --optim.batch 2 "
    "--num-updates 4 --validation-updates 6",
    "world-decoder --seed 0": "world-decoder --seed 0 --optim.steps 20 --validate-every 20 "
    "--data.world.scenes 40 --data.validation-pairs 4",
}


def follow(folder: Path, pairs: int, size: tuple[int, int], changed: dict[str, str], left_out: str) -> None:
    """Makes the folder `own`, and runs the page's commands that have not the text `left_out`."""
    for kind in ("own/frames", "own/motion", "own/what it is"):
        (folder / kind).mkdir(parents=True)
    for number in range(pairs):
        sample = scene(7, number, size, "train")
        assert sample.labels1 is not None
        assert sample.labels2 is not None
        for name, image, labels in (
            ("a", sample.image1, sample.labels1),
            ("b", sample.image2, sample.labels2),
        ):
            write_image(folder / "own/frames" / f"shot{number + 1:02d}{name}.png", image)
            write_ids(folder / "own/what it is" / f"shot{number + 1:02d}{name}.png", TRAIN_IDS[labels])
        write_flow(folder / "own/motion" / f"shot{number + 1:02d}.flo", sample.flow, sample.valid)
    torch.save({"semraft": 1, "arch": "tiny", "model": raft_tiny().state_dict()}, folder / "start.pt")
    page = folder / "page.md"
    text = PAGE.read_text()
    for said, done in changed.items():
        assert said in text
        text = text.replace(said, done)
    page.write_text(text)
    for command in commands_of(page):
        if not left_out or left_out not in " ".join(command):
            semraft(*command)


def judge(folder: Path, pairs: int) -> None:
    for recipe in ("base", "semantic"):
        run = folder / "runs" / f"files-{recipe}-seed0"
        *_, scored = [line for line in lines(run) if line["split"] == "files-val"]
        assert np.isfinite(scored["epe"])
        *_, trained = [line for line in lines(run) if line["split"] == "train"]
        assert ("signed_distance_loss" in trained) == (recipe == "semantic")
    assert (folder / "report.html").stat().st_size > 10_000
    rows = (folder / "own/pairs.csv").read_text().splitlines()[1:]
    assert len(rows) == pairs
    assert rows[0].startswith(
        "frames/shot01a.png,frames/shot01b.png,motion/shot01.flo,what it is/shot01a.png,"
    )
    assert sum(row.endswith(",val") for row in rows) == max(1, round(pairs / 5))
    assert "car,car,yes,yes" in (folder / "own/classes.csv").read_text()
    assert len(list((folder / "own/labels").glob("*_labels.png"))) == 2 * pairs


def test_own_data_in_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Red when: a command of the page has been renamed, finds other pairs, or ends otherwise."""
    monkeypatch.chdir(tmp_path)
    follow(tmp_path, 5, (64, 96), QUICKER, "study run")
    judge(tmp_path, 5)


@pytest.mark.slow
def test_own_data_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 pairs, the study too. Red when: as above, or a study does not run on own files."""
    monkeypatch.chdir(tmp_path)
    follow(tmp_path, 20, (96, 160), SLOWER, "")
    judge(tmp_path, 20)
    assert (tmp_path / "studies/files/report.html").stat().st_size > 10_000
