"""A user's own cases as a suite: a file of JSON lines, each a case."""
