"""Studies: variants x seeds under one protocol, run job by job wherever there is room."""

from semraft.studies.study import Study

__all__ = ["Study"]
