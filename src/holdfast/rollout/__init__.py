"""Case into Trajectory: episodes, dialogues with models, worlds that answer, and the audit of what came out."""
