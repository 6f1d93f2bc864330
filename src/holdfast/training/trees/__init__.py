"""Token trees: shared prefixes computed once, exactly."""
