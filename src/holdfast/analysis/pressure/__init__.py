"""What pressure and shifts change: the same cases under attack, shifted, or met again."""
