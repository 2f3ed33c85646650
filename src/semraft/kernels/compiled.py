"""Numba's compiler, with a folder for compiled loops that can be written.

Numba keeps compiled code beside the sources or in the user's home and fails where neither can be written, as
in a container whose user owns nothing. Then it goes into a folder of the user's own under the system's
temporary one.
"""

import os
import stat
import sys
import tempfile
from pathlib import Path

import numba
from numba import njit as njit


def require_cache() -> None:
    """Names a temporary folder in NUMBA_CACHE_DIR, also for processes started later, if Numba finds none."""
    try:
        numba.njit(cache=True)(_nothing)  # Looks for a folder; compiles at the first call, which is never.
    except RuntimeError:
        folder = _own_temporary_folder()
        os.environ["NUMBA_CACHE_DIR"] = str(folder)
        numba.config.reload_config()  # type: ignore[no-untyped-call]
        print(
            f"! neither semraft's folder nor the home can be written: compiled loops go to {folder} and may "
            "have to be compiled again another day; NUMBA_CACHE_DIR names a folder that stays",
            file=sys.stderr,
        )


def _nothing() -> None:
    """A function for Numba to look for a folder for."""


def _own_temporary_folder() -> Path:
    """A folder that nobody else can write: compiled code in it is loaded and run."""
    folder = Path(tempfile.gettempdir(), f"semraft-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    is_own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
    return folder if is_own else Path(tempfile.mkdtemp(prefix="semraft-"))


require_cache()
