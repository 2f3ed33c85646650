"""Requirements of a run on its data: usable files, the right label table, labels for the network."""

from collections.abc import Iterable

from semraft.config import Conditioning
from semraft.data.label_tables import contradiction, count_ids, label_files
from semraft.sample import DamagedFile, FlowDataset


def refuse_problems(dataset: FlowDataset, damaged: str, missing: str, prefix: str = "--") -> None:
    """Refuses a data set with damaged or missing files, unless they may be skipped.

    `damaged` and `missing` are "refuse" or "skip", chosen by the options `prefix`damaged and `prefix`missing.
    Missing files are normal in VIPER, where the partner of some frames was never published.

    Raises:
        DamagedFile: The first of them, with their number and the option that skips them.
    """
    for is_missing, choice, option in ((False, damaged, "damaged"), (True, missing, "missing")):
        bad = [problem for problem in dataset.problems if (problem.kind == "missing") is is_missing]
        if bad and choice == "refuse":
            raise DamagedFile(
                bad[0].path,
                f"{bad[0].kind} {bad[0].detail} ({len(bad)} such files in {dataset.name} {dataset.split}): "
                f"`semraft data check` names them, {prefix}{option} skip leaves their pairs out",
            )


def doubtful_table(dataset: FlowDataset) -> str:
    """A line about label files that clearly hold the ids of another table than they are read by, or ""."""
    line = contradiction(count_ids(label_files(dataset)), dataset.label_table)
    return line and f"{dataset.name} {dataset.split}: {line}"


def refuse_doubtful_table(dataset: FlowDataset) -> None:
    """Refuses label files that clearly hold the ids of another table than they are read by.

    Raises:
        ValueError: One line: what they hold, an example, and the option that reads them so.
    """
    if line := doubtful_table(dataset):
        raise ValueError(line)


def require_labels(conditioning: Conditioning, datasets: Iterable[FlowDataset]) -> None:
    """Refuses data without labels for a network that is conditioned on true labels.

    Raises:
        ValueError: One line: the data set, and what it lacks.
    """
    for dataset in datasets:
        missing = [name for name in ("labels1", "labels2") if name not in dataset.provides]
        if conditioning == "truth" and missing:
            raise ValueError(
                f"a network conditioned on true labels needs {' and '.join(missing)}, which data set "
                f"{dataset.name!r} ({dataset.split}) does not have: leave it out, or train with "
                f"--model.conditioning decoder"
            )
