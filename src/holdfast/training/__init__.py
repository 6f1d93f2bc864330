"""How a stage changes weights: batches, objectives, one loop, and the policies that it moves."""
