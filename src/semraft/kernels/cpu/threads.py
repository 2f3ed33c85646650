"""Compilation of sums and threads, common to all loops compiled by Numba."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import torch

REORDERED_SUMS = {"reassoc", "contract", "nsz"}
"""Numba's `fastmath` for vectors of partial sums, without the promise that there is no NaN or infinity."""


def in_threads(kernel: Callable[..., None], count: int, *arguments: Any) -> None:
    """Calls kernel(start, stop, *arguments) on equal parts of 0 ... count, each in a thread of its own.

    For compiled functions that release Python's lock and write to places that no other part writes to. Not
    Numba's own parallel loops: those end a process that was forked after they ran, as loaders are.
    """
    threads = min(torch.get_num_threads(), count)
    if threads < 2:
        kernel(0, count, *arguments)
        return
    ends = [count * part // threads for part in range(threads + 1)]
    parts = [_pool(threads).submit(kernel, start, stop, *arguments) for start, stop in pairwise(ends)]
    for part in parts:
        part.result()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="semraft")
