"""Laws of readers: an altered file is read or refused by name (`tests.mutations` has the wide search)."""

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.mutations import TARGETS, Target, altered, outcome

CHECKPOINTS = ("last.pt", "weights.pt")


@pytest.fixture(scope="module")
def sound_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    paths = {}
    for target in TARGETS:
        paths[target.name] = tmp_path_factory.mktemp("sound") / target.name
        target.write(paths[target.name])
    return paths


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_an_altered_file_is_read_or_refused_by_name(target: Target, sound_files: dict[str, Path]) -> None:
    """Red when: a reader lets an error of json, numpy, zipfile, torch or OpenCV pass, or names no file."""
    path = sound_files[target.name]
    sound = path.read_bytes()

    @settings(
        max_examples=4 if target.name in CHECKPOINTS else 20,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(st.integers(0, 2**32))
    def law(seed: int) -> None:
        path.write_bytes(altered(sound, target.kind, random.Random(seed)))
        assert outcome(target, path) in ("read", "damaged")

    try:
        law()
    finally:
        path.write_bytes(sound)
