"""The command line. Ctrl-C while its modules load ends the process at once, with a line.

An exception there would be a traceback of somebody's module, or be swallowed by one: torch's are.
"""

import os
import signal
import threading
from types import FrameType


def _stop(number: int, frame: FrameType | None) -> None:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os.write(2, b"semraft: stopped\n")
            os._exit(1)
        frame = frame.f_back
    raise KeyboardInterrupt


if (
    threading.current_thread() is threading.main_thread()
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
):
    signal.signal(signal.SIGINT, _stop)
