"""Jobs on a Ray cluster: the same `run_job`, as a task on whatever machine has room (extra `ray`).

All machines see the study's folder under the same path and have semraft installed. When a machine is lost,
Ray gives its jobs to others, and these go on from the last checkpoint.
"""

import socket
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

from semraft.config.data import CORES
from semraft.studies.job import Job, Submit, run_job

KNOCK_S = 5.0
RETRIES = 10
"""Machines that a job may lose before it counts as failed."""


@contextmanager
def ray_engine(address: str, cores: int, gpu: bool) -> Iterator[Submit]:
    """A cluster as an engine: each job gets `cores` cores and, with `gpu`, a GPU if any machine has one.

    Raises:
        ValueError: Ray is not installed, or no cluster answers at the address.
    """
    _knock(address)
    try:
        import ray
    except ImportError as error:
        raise ValueError("--ray needs Ray: pip install 'semraft[ray]'") from error
    try:
        ray.init(address=address, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ValueError(f"no Ray cluster at {address}: {error}") from error
    gpus = 1 if gpu and ray.cluster_resources().get("GPU") else 0
    task = ray.remote(num_cpus=cores, num_gpus=gpus, max_retries=RETRIES)(run_job)
    environment = {"OMP_NUM_THREADS": str(cores), CORES: str(cores)}

    def submit(job: Job) -> Future[int]:
        future: Future[int] = task.remote(job, environment=environment, directory=Path.cwd()).future()
        return future

    try:
        yield submit
    finally:
        ray.shutdown()  # Workers of tasks that are still going end, and their trainings with them.


def _knock(address: str) -> None:
    """Ray itself tries for minutes to reach a cluster that is not there."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return  # `auto`, or a name that Ray resolves.
    try:
        socket.create_connection((host, int(port)), KNOCK_S).close()
    except OSError as error:
        raise ValueError(f"no Ray cluster at {address}: {error}") from error
