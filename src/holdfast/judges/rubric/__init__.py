"""Judges that are models and read a trajectory by a rubric."""
