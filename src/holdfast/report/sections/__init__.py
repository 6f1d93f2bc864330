"""Sections of the report, each with what it computes and how it is shown."""
