"""Studies: variants x seeds under one protocol, run cell by cell wherever there is room."""

from semraft.studies.study import Study

__all__ = ["Study"]
