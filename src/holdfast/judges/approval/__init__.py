"""Judges of talk with users by rules, which are the ground truth there."""
