"""A step carried out elsewhere: the slice of the run that it reads, and how what comes of it travels back."""
