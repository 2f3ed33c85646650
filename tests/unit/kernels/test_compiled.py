"""Compiled loops where neither the sources nor the home can be written."""

import os
from pathlib import Path

import numba
import pytest
from numba.core import caching

from semraft.kernels import compiled


def _nothing_is_writable(monkeypatch: pytest.MonkeyPatch, temporary: Path) -> None:
    """As for a container's user; not by permissions, which root passes over."""
    makedirs = os.makedirs

    def refused(path: str, *arguments: object, **options: object) -> None:
        if not Path(path).is_relative_to(temporary):
            raise OSError(30, "Read-only file system", path)
        makedirs(path, exist_ok=True)

    monkeypatch.setattr(caching.os, "makedirs", refused)
    monkeypatch.setattr(compiled.tempfile, "gettempdir", lambda: str(temporary))
    monkeypatch.setenv("NUMBA_CACHE_DIR", "")
    numba.config.reload_config()


def test_loops_are_kept_in_a_temporary_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Red when: `njit` is taken from numba itself: "cannot locate caching folder" ends every command."""
    with monkeypatch.context() as patch:
        _nothing_is_writable(patch, tmp_path)
        compiled.require_cache()
        compiled.require_cache()
        numba.njit(cache=True)(_nothing_is_writable)
        assert os.environ["NUMBA_CACHE_DIR"] == str(tmp_path / f"semraft-{os.getuid()}")
        assert capsys.readouterr().err.count("NUMBA_CACHE_DIR names a folder that stays") == 1
    numba.config.reload_config()


def test_code_is_not_loaded_from_a_folder_that_others_can_write(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Red when: a folder is taken for its name alone: another user puts code into it that semraft runs."""
    (tmp_path / f"semraft-{os.getuid()}").mkdir(mode=0o777)
    (tmp_path / f"semraft-{os.getuid()}").chmod(0o777)
    with monkeypatch.context() as patch:
        _nothing_is_writable(patch, tmp_path)
        compiled.require_cache()
        folder = Path(os.environ["NUMBA_CACHE_DIR"])
    numba.config.reload_config()
    assert folder.name != f"semraft-{os.getuid()}"
    assert folder.stat().st_mode & 0o077 == 0
