"""The documents: their programs run, their links lead somewhere."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

from semraft.cli import main
from semraft.config.recipes import RECIPES
from semraft.data import DATASETS
from semraft.data.files.formats import write_flow
from semraft.studies import Study

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
QUICKER = {
    "--pairs 50": "--pairs 1 --size 64 96",
    "--optim.steps 200 --validate-every 100": "--optim.steps 2 --optim.batch 1 --num-updates 1"
    " --validate-every 2 --data.validation-pairs 1 --data.world.size 64 96 --data.crop 64 64",
    "steps=200": "steps=2, batch=2",
    "replace(base, optim": "replace(base, data=replace(base.data, validation_pairs=2, crop=(64, 64),"
    " world=replace(base.data.world, size=(64, 96))), optim",
    "seeds=(0, 1, 2)": "seeds=(0,)",
    "validate_every=200": "validate_every=2, saved_pairs=1, num_updates=1, validation_updates=1",
}
"""Text of the tutorial -> text of the test: the same commands, in less time."""


def files_of(page: Path) -> dict[str, str]:
    """The files that a page has the reader write: blocks that begin with ```python file=NAME."""
    return dict(re.findall(r"^```python file=(\S+)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL))


def commands_of(page: Path) -> list[list[str]]:
    """The arguments of each `semraft` command in the page's shell blocks."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split()[1:] for line in lines if line.startswith("semraft ")]


def imported(name: str, text: str, folder: Path) -> ModuleType:
    file = folder / f"{name}.py"
    file.write_text(text)
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Red when: a page, picture or file that is linked to has gone."""
    for target in re.findall(r"\]\((?!https?://|#|mailto:)([^)#\s]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_page_is_in_the_contents() -> None:
    """Decisions have a page of their own. Red when: a page can't be reached from the site's contents."""
    contents = (ROOT / "zensical.toml").read_text()
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    assert {page for page in pages if not page.startswith("decisions/0") and f'"{page}"' not in contents} == {
        "decisions/dependencies.md"
    }


def test_the_tutorial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its commands, one after another, on less. Red when: one of them has been renamed or ends otherwise."""
    page = tmp_path / "tutorial.md"
    text = (DOCS / "tutorial.md").read_text()
    for said, done in QUICKER.items():
        assert said in text
        text = text.replace(said, done)
    page.write_text(text)
    monkeypatch.chdir(tmp_path)
    for name, content in files_of(page).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    for command in commands_of(page):
        try:
            code = main.run(command)
        except SystemExit as ended:  # --help
            code = int(ended.code or 0)
        assert code == 0, command
    assert (tmp_path / "tutorial" / "boundaries" / "report.html").stat().st_size > 10_000
    assert "weighted" in capsys.readouterr().out


def test_how_to_add_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Red when: the page's module no longer fits what a data set is."""
    (text,) = files_of(DOCS / "how-to" / "add-a-data-set.md").values()
    module = imported("my_drive", text, tmp_path)
    monkeypatch.setitem(DATASETS, "my-drive", module.index)
    root = tmp_path / "drive"
    for split in ("train", "val"):
        (root / split).mkdir(parents=True)
        rng = np.random.default_rng(0)
        frame = cv2.GaussianBlur(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8), (0, 0), 1.5)
        for name, shift in (("a", 0), ("b", 2)):
            cv2.imwrite(str(root / split / f"000001_{name}.png"), np.roll(frame, shift, axis=1))
        flow = np.zeros((48, 64, 2), np.float32)
        flow[..., 0] = 2
        write_flow(root / split / "000001_flow.png", flow, np.ones((48, 64), bool), "kitti")
    assert main.run(["data", "check", str(root), "--dataset", "my-drive"]) == 0


def test_how_to_add_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Red when: the page's recipe is none, or has not the term."""
    monkeypatch.setattr("semraft.config.recipes.RECIPES", dict(RECIPES))
    (text,) = files_of(DOCS / "how-to" / "add-a-recipe.md").values()
    module = imported("recipe", text, tmp_path)
    recipe = module.RECIPES["world-boundary"]
    assert [term.name for term in recipe.config.loss.terms] == ["matching", "boundary-weight"]


def test_how_to_add_a_study(tmp_path: Path) -> None:
    (text,) = files_of(DOCS / "how-to" / "add-a-study.md").values()
    study = imported("mine", text, tmp_path).study
    assert isinstance(study, Study)
    assert list(study.variants) == ["base", "v1"]


def test_commands_of_the_pages_exist() -> None:
    """Red when: a page has the reader type a command or a recipe that there is not."""
    for page in PAGES:
        for command in commands_of(page):
            assert command[0] in main.COMMANDS or " ".join(command[:2]) in main.COMMANDS, (page.name, command)
            if command[0] == "train" and not command[1].startswith("-"):
                assert command[1] in {*RECIPES, "world-boundary"}, (page.name, command)
    assert len(commands_of(ROOT / "README.md")) > 6


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_paragraph_is_too_long(page: Path) -> None:
    """Red when: a paragraph or an item of a list has more than 80 words; tables and programs don't count."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    lines = [line for line in text.splitlines() if not line.startswith("|")]
    assert [line[:60] for line in lines if len(line.split()) > 80] == []
