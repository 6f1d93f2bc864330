"""Judges that rate talk with users from 1 to 10 by the probabilities of the digits."""
