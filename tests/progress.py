"""How a run of the tests in several processes tells how far it is, and what it left out and why."""

import time
from collections import Counter, defaultdict
from typing import Any

import pytest

EVERY_PCT = 2
EVERY_S = 30.0


class Progress:
    """A pytest plugin of the process that the others report to: lines in place of dots."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.started = self.told = time.monotonic()
        self.total = self.done = self.told_pct = self.failed = self.deselected = 0
        self.files: dict[str, str] = {}
        """Worker -> the file of its last test."""

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        self.total = len(ids)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        output = getattr(node, "workeroutput", {})  # One that crashed has none.
        self.deselected = max(self.deselected, output.get("deselected", 0))

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str]:
        """As pytest has it, but for the letters."""
        if report.failed:
            return ("failed", "", "FAILED") if report.when == "call" else ("error", "", "ERROR")
        if report.skipped:
            return "skipped", "", "SKIPPED"
        return ("passed", "", "PASSED") if report.when == "call" else ("", "", "")

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.failed += 1
            self.write(f"FAILED {report.nodeid}")
        if report.when != "teardown":
            return
        self.done += 1
        self.files[report.node.gateway.id] = report.nodeid.partition("::")[0].removeprefix("tests/")
        percent, now = 100 * self.done // max(1, self.total), time.monotonic()
        if percent >= self.told_pct + EVERY_PCT or now > self.told + EVERY_S:
            self.told_pct, self.told = percent, now
            failed = f", {self.failed} failed" if self.failed else ""
            minutes, seconds = divmod(round(now - self.started), 60)
            at = ", ".join(sorted(set(self.files.values())))
            self.write(
                f"{percent:3} %  {self.done} of {self.total}{failed}, {minutes}:{seconds:02} min, at {at}"
            )

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        left_out = Counter[str]()
        files = defaultdict[str, set[str]](set)
        for report in terminalreporter.stats.get("skipped", []):
            reason = report.longrepr[2].removeprefix("Skipped: ")
            left_out[reason] += 1
            files[reason].add(report.nodeid.partition("::")[0].removeprefix("tests/"))
        if self.deselected:
            left_out["not chosen by -m or -k; the slow ones are run by `make test-all`"] = self.deselected
        if left_out:
            terminalreporter.section("left out, and why")
        for reason, count in left_out.most_common():
            named = f" ({', '.join(sorted(files[reason]))})" if files[reason] else ""
            terminalreporter.line(f"{count:4}  {reason}{named}")

    def write(self, line: str) -> None:
        self.config.get_terminal_writer().line(line, red=line.startswith("FAILED"))
