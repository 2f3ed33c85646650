"""`semraft evaluate`: what is left out is named, in the table and in the file."""

import json
from pathlib import Path
from typing import Literal

import pytest
import torch

import semraft
from semraft.config import ModelConfig, RunConfig, ShapesConfig, WorldConfig
from semraft.data import open_dataset
from semraft.data.world.export import synthesize
from semraft.evaluation.evaluate import Evaluation, evaluate
from semraft.evaluation.evaluate_command import score, table, write_json
from semraft.evaluation.validate import network_predictor
from semraft.sample import DamagedFile
from semraft.training.state import initial_state


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Five VIPER pairs: the partner of the first is missing, the second is cut off, the third is empty."""
    root = tmp_path / "viper"
    synthesize(root, "viper", train=1, val=5, size=(64, 96), seed=0, progress=False)
    partners = sorted((root / "val" / "img").rglob("*_00011.jpg"))
    partners[0].unlink()
    partners[1].write_bytes(partners[1].read_bytes()[:500])
    partners[2].write_bytes(b"")
    return root


def scored(
    root: Path,
    damaged: str,
    checkpoint: str = "zero",
    precision: str = "as-validated",
    dataset: str = "viper",
    num_updates: int | None = None,
) -> dict[str, Evaluation]:
    return score(
        [checkpoint],
        dataset,
        root=root,
        split="val",
        pairs=None,
        num_updates=num_updates,
        device="cpu",
        precision=precision,
        damaged=damaged,
        world=WorldConfig(),
        shapes=ShapesConfig(),
    )


def test_every_pair_left_out_is_named(broken: Path, tmp_path: Path) -> None:
    """Red when: only pairs that fail while they are read are listed, and missing or empty files are not."""
    evaluations = scored(broken, "skip")
    write_json(str(tmp_path / "out.json"), evaluations)
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["checkpoint"] == "zero"
    assert result["pairs"] == 2
    named = {problem["pair_id"]: problem["kind"] for problem in result["skipped"]}
    assert named == {"val/001_00010": "missing", "val/002_00010": "damaged", "val/003_00010": "empty"}
    assert "2 pairs, 3 skipped" in table(evaluations)


def test_damage_is_refused_unless_told_otherwise(broken: Path) -> None:
    with pytest.raises(DamagedFile, match="--damaged skip"):
        scored(broken, "refuse")


def test_a_missing_partner_alone_stops_nothing(broken: Path) -> None:
    """VIPER's own download lacks some."""
    for number in ("002", "003"):
        for folder in (broken / "val").iterdir():
            for file in (folder / number).iterdir():
                file.unlink()
    result = scored(broken, "refuse")["zero"]
    assert [problem.kind for problem in result.skipped] == ["missing"]


@pytest.mark.parametrize("native", [True, False])
def test_a_checkpoint_is_scored_as_its_run_validated_it(
    native: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when: a run in bfloat16 says one EPE and `semraft evaluate` of its checkpoint another, nothing says
    which arithmetic a number is of, or a processor without bfloat16 is made to imitate it."""
    capabilities = {"avx512_bf16": native, "amx_bf16": False}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    root, path = tmp_path / "viper", tmp_path / "last.pt"
    synthesize(root, "viper", train=1, val=1, size=(64, 96), seed=0, progress=False)
    config = RunConfig(model=ModelConfig(arch="tiny"), precision="bfloat16", validation_updates=2)
    initial_state(config, torch.device("cpu")).save(path, config)
    found = {
        name: scored(root, "refuse", str(path), name) for name in ("as-validated", "bfloat16", "float32")
    }
    epes = {name: of[str(path)].metrics["epe"] for name, of in found.items()}
    assert epes["as-validated"] == epes["bfloat16" if native else "float32"]
    assert epes["bfloat16"] != epes["float32"]
    assert ("its own validation takes 2 in bfloat16" in table(found["as-validated"])) is not native
    assert found["as-validated"][str(path)].to_json()["precision"] == ("bfloat16" if native else "float32")
    assert scored(root, "refuse")["zero"].to_json()["precision"] is None


@pytest.mark.parametrize("layout", ["viper", "kitti"])
def test_one_checkpoint_has_one_error(layout: Literal["viper", "kitti"], tmp_path: Path) -> None:
    """Validation of a training, `semraft evaluate` and `semraft.predict` have one EPE.

    Red when: one of them refines more often, pads at another border, or computes in another precision.
    """
    root, path = tmp_path / layout, tmp_path / "last.pt"
    synthesize(root, layout, train=1, val=1, size=(68, 100), seed=0, progress=False)
    config = RunConfig(model=ModelConfig(arch="tiny"), precision="float32", validation_updates=2)
    state = initial_state(config, torch.device("cpu"))
    state.save(path, config)
    dataset = open_dataset(layout, root, "val", WorldConfig())
    validated = evaluate(network_predictor(state.scored, 2, "float32"), dataset).metrics["epe"]
    (evaluated,) = scored(root, "refuse", str(path), dataset=layout).values()
    assert evaluated.metrics["epe"] == validated
    assert (evaluated.num_updates, evaluated.unlike_validation) == (2, "")
    model, padding = semraft.load(path), "none" if layout == "kitti" else "half"
    by_hand = evaluate(
        lambda sample: [semraft.predict(model, sample.image1, sample.image2, top_padding=padding)], dataset
    )
    assert by_hand.metrics["epe"] == pytest.approx(validated, abs=1e-5)


def test_numbers_unlike_those_of_the_run_say_why(tmp_path: Path) -> None:
    """Red when: another EPE than the run's own stands there without a reason."""
    root, path = tmp_path / "viper", tmp_path / "last.pt"
    synthesize(root, "viper", train=1, val=1, size=(64, 96), seed=0, progress=False)
    config = RunConfig(model=ModelConfig(arch="tiny"), precision="float32", validation_updates=2)
    initial_state(config, torch.device("cpu")).save(path, config)
    found = scored(root, "refuse", str(path), num_updates=3)
    why = "scored with 3 refinements in float32; its own validation takes 2 in float32"
    assert why in table(found)
    assert why in found[str(path)].to_json()["unlike_validation"]
