"""Runs a command that is asked to stop when its parent dies.

    python -m semraft.studies.exit_with_parent PID COMMAND

A killed study must not leave trainings behind. Linux sends a process a signal at its parent's death, once
asked to; elsewhere the next `semraft study run` waits for the lock that such a training holds.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
"""From linux/prctl.h; kept over exec."""


def main() -> None:
    """Becomes the command; SIGTERM lets a training save where it is."""
    parent, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != int(parent):  # It died before we asked.
            sys.exit(1)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
