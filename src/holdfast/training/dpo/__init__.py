"""Stages that learn from preference pairs."""
