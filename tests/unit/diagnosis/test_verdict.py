"""semraft.diagnosis.verdict: verdict.json, which other programs read."""

import json
from pathlib import Path

from semraft.diagnosis.symptoms import Finding
from semraft.diagnosis.verdict import Verdict, write_verdict


def test_what_is_written(tmp_path: Path) -> None:
    """Red when: a field of the contract is renamed, or a cause does not say which term it is."""
    spike = Finding(name="spike", first_step=31, evidence="4.2 times")
    heavy = Finding(name="term-too-heavy", first_step=30, evidence="60 %", term="semantic-v1")
    write_verdict(tmp_path, Verdict(state="worse", first_step=30, causes=(heavy,), symptoms=(spike,)))
    assert json.loads((tmp_path / "verdict.json").read_text()) == {
        "state": "worse",
        "first_step": 30,
        "causes": [
            {
                "name": "term-too-heavy",
                "first_step": 30,
                "evidence": "60 %",
                "term": "semantic-v1",
            }
        ],
        "symptoms": [{"name": "spike", "first_step": 31, "evidence": "4.2 times"}],
    }
    write_verdict(tmp_path, Verdict(state="healthy", first_step=None, causes=(), symptoms=()), ["went back"])
    healthy = json.loads((tmp_path / "verdict.json").read_text())
    assert (healthy["state"], healthy["first_step"], healthy["rollbacks"]) == ("healthy", None, ["went back"])
