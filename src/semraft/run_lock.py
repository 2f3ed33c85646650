"""The lock of a run's folder: one process at a time writes into it."""

import errno
import fcntl
import os
import socket
import sys
from pathlib import Path
from typing import IO

LOCK = "training.lock"
"""File in a run's folder, with the process that holds the lock; it stays when that has ended."""
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""Refusals of a file system without locks: NFS without lockd, Lustre without -o flock."""


def lock_run(run: Path) -> IO[str]:
    """The lock of a run, held by this process until the file is closed or the process ends.

    A POSIX record lock: NFS has it between machines, and loader processes do not inherit it, so that those of
    a killed training hold nothing. Where the file system has no locks, a warning is all.

    Raises:
        ValueError: Another process holds it.
    """
    run.mkdir(parents=True, exist_ok=True)
    file = open(run / LOCK, "a+")  # noqa: SIM115 - the caller closes it when the training is over.
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in NO_LOCKS:
            print(f"! {file.name}: this file system has no locks, start no second training", file=sys.stderr)
            return file
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            raise
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        raise ValueError(f"{run} is being trained by {holder}: wait for its end, or stop it") from None
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    return file
