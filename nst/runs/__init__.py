"""The life of a run, whatever its task: record, status, log, checkpoint, resume, sweep. Knows nothing of losses."""
