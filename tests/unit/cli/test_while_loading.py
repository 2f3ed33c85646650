"""Ctrl-C while the modules of a command load."""

import subprocess
import sys
from pathlib import Path

from tests.helpers import PATIENCE_S

SWALLOWING = """import os, signal
try:
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(1000): pass
except BaseException:
    pass
"""


def test_ctrl_c_while_modules_load_is_a_line(tmp_path: Path) -> None:
    """In a module that swallows exceptions, as some of torch's. Red when: there is a traceback of a module,
    or the command goes on as if nothing had been asked."""
    (tmp_path / "swallowing.py").write_text(SWALLOWING)
    code = (
        f"import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); import semraft.cli; "
        f"sys.path.insert(0, {str(tmp_path)!r}); import swallowing; print('went on')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "semraft: stopped\n")
