"""Judges of single-turn questions by what kind of reply was given."""
