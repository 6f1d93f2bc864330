"""Several runs of one study with other seeds made into one run: members, sharing, join."""
