"""Judges that are predicates over tool calls."""
