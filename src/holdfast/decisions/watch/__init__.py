"""Many checkpoints or traces in time against a baseline, with alarms that allow for looking often."""

MIN_COVERAGE = 0.95  # of what a look asks must have a score, unless declared otherwise
