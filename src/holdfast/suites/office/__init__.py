"""The office suite: generated errands with hidden hazards, scripted agents, and their demonstrations."""
