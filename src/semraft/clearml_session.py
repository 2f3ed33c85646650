"""A run in ClearML (extra `clearml`): scalars under the study's names, configuration, pictures, files.

Through the SDK only. Without a server, or when the configured one does not answer, the session is kept as a
zip in RUN/clearml/, which `clearml.Task.import_offline_session` takes. Checkpoints stay in the run's folder.
"""

import math
import shutil
import socket
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from jaxtyping import UInt8

from semraft.npz import read_npz
from semraft.ops.color import flow_to_color
from semraft.records import read_text
from semraft.run_records import PAIR_LAYOUT, PAIR_MAY_LACK
from semraft.tracking import CONFIG, ENVIRONMENT, METRICS, PAIRS, PER_SAMPLE

PROJECT = "semraft"
FOLDER = "clearml"
PROBE_S = 3.0
"""`Task.init` waits for minutes for a server that does not answer: asked for a connection first."""
FILES = (CONFIG, ENVIRONMENT, METRICS, PER_SAMPLE)
"""Files that become artifacts, where the run has them."""
NOT_CONNECTED = (
    *("detect_repository", "tensorboard", "pytorch", "tensorflow", "matplotlib", "hydra", "jsonargparse"),
    *("joblib", "scikit", "xgboost", "lightgbm", "catboost", "fastai", "megengine", "gradio", "tfdefines"),
)
"""All that ClearML would patch by itself: what a run reports is what it says. Looking for a repository has
been seen to hang for 300 s when the task was closed."""


class ClearMLSession:
    """One task for one start of a run: a resumed run is a task of its own, from the step it goes on at.

    Raises:
        ValueError: ClearML is not installed.
    """

    def __init__(self, run: Path, first_step: int) -> None:
        try:
            from clearml import Task
        except ImportError as error:
            raise ValueError("--tracker clearml needs ClearML: pip install 'semraft[clearml]'") from error
        self._run = run
        self._last_step = first_step
        self._offline = not server_answers()
        if self._offline:
            print(f"! no ClearML server: the session goes into {run / FOLDER}", file=sys.stderr)
        Task.set_offline(self._offline)
        self._task: Any = Task.init(
            project_name=PROJECT,
            task_name=run.name if first_step == 1 else f"{run.name} from step {first_step}",
            auto_connect_frameworks=dict.fromkeys(NOT_CONNECTED, False),
            auto_connect_arg_parser=False,
            auto_connect_streams=False,
            auto_resource_monitoring=False,
            reuse_last_task_id=False,
        )
        for name in (CONFIG, ENVIRONMENT):
            if (run / name).exists():
                text = read_text(run / name)
                self._task.set_configuration_object(Path(name).stem, config_text=text, config_type="json")

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Reports one number; as its own title, as TensorBoard's tags were shown in the study's runs."""
        self._last_step = step
        if math.isfinite(value):  # ClearML would report 0.
            self._task.get_logger().report_scalar(title=name, series=name, value=value, iteration=step)

    def close(self) -> None:
        """Sends the kept validation pairs and the run's files, and closes the task: seconds."""
        for path in sorted((self._run / PAIRS).glob("*/*.npz")):
            self._task.get_logger().report_image(
                title=path.parent.name, series=path.stem, iteration=self._last_step, image=_picture(path)
            )
        for name in FILES:
            if (self._run / name).exists():
                self._task.upload_artifact(name, artifact_object=str(self._run / name))
        self._task.close()
        if self._offline:
            kept = Path(self._task.get_offline_mode_folder())
            (self._run / FOLDER).mkdir(exist_ok=True)
            shutil.move(f"{kept}.zip", self._run / FOLDER / f"{kept.name}.zip")
            shutil.rmtree(kept)


def server_answers() -> bool:
    """Whether a ClearML server is configured and takes a connection within `PROBE_S`."""
    from clearml.backend_api import Session
    from clearml.backend_api.session.defs import ENV_ACCESS_KEY
    from clearml.config import config_obj

    if not ENV_ACCESS_KEY.get(default=config_obj.get("api.credentials.access_key", None)):
        return False
    server = urlsplit(Session.get_api_server_host())
    port = server.port or (443 if server.scheme == "https" else 80)
    try:
        socket.create_connection((server.hostname or "", port), PROBE_S).close()
    except OSError:
        return False
    return True


def _picture(path: Path) -> UInt8[np.ndarray, "H W 3"]:
    """A kept pair: frame 1, ground truth and the run's flow, one above the other, in one scale of colours."""
    pair = read_npz(path, PAIR_LAYOUT, may_lack=PAIR_MAY_LACK)
    truth, flow = pair["flow_gt"].astype(np.float32), pair["flow"].astype(np.float32)
    longest_px = max(float(np.hypot(*np.moveaxis(truth, -1, 0)).max()), 1.0)
    parts = [pair["image1"], flow_to_color(truth, pair["valid"], longest_px)]
    return np.concatenate([*parts, flow_to_color(flow, max_px=longest_px)])
