"""What each kind of step does: a step, its settings and a run in, outcomes out."""
