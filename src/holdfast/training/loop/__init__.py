"""The training loop that all methods share: passes, sharding, states."""
