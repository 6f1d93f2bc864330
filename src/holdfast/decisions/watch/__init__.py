"""Many checkpoints or traces in time against a baseline, with alarms that allow for looking often."""
