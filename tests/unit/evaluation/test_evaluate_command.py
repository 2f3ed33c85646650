"""`semraft evaluate`: what is left out is named, in the table and in the file."""

import json
from pathlib import Path

import pytest
import torch

from semraft.config import ModelConfig, RunConfig, ShapesConfig, WorldConfig
from semraft.data.world.export import synthesize
from semraft.evaluation.evaluate import Evaluation
from semraft.evaluation.evaluate_command import score, table, write_json
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
    root: Path, damaged: str, checkpoint: str = "zero", precision: str = "as-validated"
) -> dict[str, Evaluation]:
    return score(
        [checkpoint],
        "viper",
        root=root,
        split="val",
        pairs=None,
        num_updates=None,
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
    assert ("bfloat16" in table(found["as-validated"])) is native
    assert found["as-validated"][str(path)].to_json()["precision"] == ("bfloat16" if native else "float32")
    assert scored(root, "refuse")["zero"].to_json()["precision"] is None
