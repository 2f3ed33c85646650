"""The monitor of a training: records statistics of its steps and judges it while there is time to act."""

import sys
import time
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from semraft import tracking
from semraft.agreement import Ending
from semraft.config import RunConfig
from semraft.diagnosis.record import RecordReader
from semraft.diagnosis.rollback import VALIDATED_STEPS, is_acted_on, read_rollbacks
from semraft.diagnosis.verdict import Verdict, judge, write_verdict
from semraft.models.raft import RAFT
from semraft.monitor import gradient_stats
from semraft.monitor.gradient_stats import ActivationRanges, has_statistics
from semraft.monitor.step_stats import (
    StepStatistics,
    batch_statistics,
    flow_statistics,
    line_every,
    line_of,
    update_statistics,
)
from semraft.sample import FlowBatch
from semraft.step_result import StepResult

JUDGED_LINES = 10
"""Lines of pulse.jsonl between two verdicts."""


def is_judged(step: int, config: RunConfig) -> bool:
    """Whether there is a verdict after this step."""
    return step % (line_every(config) * JUDGED_LINES) == 0


class Monitor:
    """The monitor of one process: all observe, as they exchange sums, and the one with a tracker writes.

    Args:
        run: The run's folder.
        config: The configuration of the run.
        model: The network that is trained.
        optimizer: Its optimiser.
        scaler: Its gradient scaler.
        statistics: Those of the steps since the last line of pulse.jsonl; a checkpoint keeps the list.
        step: Number of steps done.
        tracker: Open files of the run; None in a process that does not write.
    """

    def __init__(
        self,
        *,
        run: Path,
        config: RunConfig,
        model: RAFT,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        statistics: list[StepStatistics],
        step: int = 0,
        tracker: tracking.Tracker | None = None,
    ) -> None:
        self.run, self.config, self.tracker = run, config, tracker
        self.model, self.optimizer, self.scaler = model, optimizer, scaler
        self.statistics = statistics
        self.verdict: Verdict | None = None
        """The last one."""
        self.ranges = ActivationRanges(model)
        self._reader: RecordReader | None = None
        self._named_causes: set[str] = set()
        self._before: dict[str, Tensor] = {}
        self._began_s, self._spent_s = time.perf_counter(), 0.0
        self._prepare(step + 1)

    @property
    def spent_s(self) -> float:
        """Seconds that monitoring took so far."""
        return self._spent_s + self.ranges.spent_s

    @property
    def share_pct(self) -> float:
        """The part of the training's time that monitoring took so far."""
        return 100 * self.spent_s / (time.perf_counter() - self._began_s)

    def observe(self, result: StepResult, batch: FlowBatch) -> None:
        """Records the statistics of a step on a batch, just done; every so often, the verdict so far."""
        started = time.perf_counter()
        is_done, ranges = result.ending is not Ending.NOT_FINITE, self.ranges.take()
        values = ranges | batch_statistics(batch, self.config) | flow_statistics(result, batch, self.config)
        if is_done:
            norm = result.gradients.norm
            values |= update_statistics(self.model, self.optimizer, norm, self.config, result.step)
        if self.tracker is not None:
            self.statistics.append(values)
        if is_done and has_statistics(self.config, result.step):
            self._record_gradients(result, batch, ranges)
        if not is_done or result.step % line_every(self.config) == 0:
            self._write_line(result.step)
        if not is_done or is_judged(result.step, self.config):
            self.judge(stopped=not is_done)
        self._prepare(result.step + 1)
        self._spent_s += time.perf_counter() - started + result.gradients.separation_s

    def judge(self, stopped: bool = False) -> None:
        """Writes the verdict so far into verdict.json, and prints its new causes."""
        if self.tracker is None:
            return
        self._reader = self._reader or RecordReader(self.run)
        verdict = self.verdict = judge(self._reader.read(), stopped)
        write_verdict(self.run, verdict, [rollback.text() for rollback in read_rollbacks(self.run)])
        for cause in verdict.causes:
            if cause.name not in self._named_causes:
                self._named_causes.add(cause.name)
                what = f"{cause.name} since step {cause.first_step}: {cause.evidence}"
                tqdm.write(f"! {what} (semraft diagnose {self.run})", sys.stderr)
                asked = self.config.when_worse
                if asked != "go-on" and not is_acted_on(self.config, cause):
                    why = f"false alarms were counted in runs of up to {VALIDATED_STEPS} steps, or not yet"
                    tqdm.write(f"! --when-worse {asked} does not act on {cause.name}: {why}", sys.stderr)

    def end(self) -> None:
        """Gives the last verdict, after the last step and its validation."""
        if self.tracker is None:
            return
        self.judge()
        for rollback in read_rollbacks(self.run):
            print(f"! {self.run} {rollback.text()}", file=sys.stderr)
        part = f"{self.share_pct:.1f} % of the time"
        print(f"monitoring took {part}: {self.run / tracking.HEALTH}", file=sys.stderr)

    def close(self) -> None:
        """Takes its hooks off the model."""
        self.ranges.close()

    def _prepare(self, step: int) -> None:
        """Keeps what gradient statistics of the coming step need from before it."""
        coming = has_statistics(self.config, step)
        self.ranges.sees_hidden = coming
        self._before = gradient_stats.shared_weights(self.model) if coming else {}

    def _record_gradients(self, result: StepResult, batch: FlowBatch, ranges: StepStatistics) -> None:
        """Writes a line of health.jsonl."""
        loss, prediction = self.config.loss, result.prediction
        numbers = ranges | gradient_stats.refinement_statistics(prediction, batch, loss)
        numbers |= gradient_stats.floors(prediction, batch, loss, by_class=result.step == 1)
        if result.gradients.loss_scale is not None:
            names = [name for name, value in self.model.named_parameters() if value.requires_grad]
            numbers |= gradient_stats.gradient_statistics(result.gradients, names)
        numbers |= gradient_stats.update_sizes(self._before, self.model)
        if self.tracker is None:
            return
        one = torch.ones((), device=batch.image1.device)
        numbers["loss_scale"] = self.scaler.scale(one)
        values = gradient_stats.read_statistics(numbers, prediction, batch, loss)
        values |= {"learning_rate": self.optimizer.param_groups[0]["lr"], "watching_pct": self.share_pct}
        self.tracker.log_health(result.step, values)

    def _write_line(self, step: int) -> None:
        """Writes a line of pulse.jsonl."""
        if self.tracker is None or not self.statistics:
            return
        line = line_of(self.statistics)
        self.statistics.clear()
        tracking.append_line(self.run / tracking.PULSE, {"step": step, **line})
        if is_judged(step, self.config):
            self.tracker.draw(step, "pulse", line)
