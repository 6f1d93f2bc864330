"""What is asked: the tables of a study file, what must fit together, and the study that a run notes."""
