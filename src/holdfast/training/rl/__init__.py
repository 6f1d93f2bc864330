"""Stages that learn from rewards: groups, supplies of rollouts, selection."""
