"""Supervised fine-tuning: stages that imitate episodes."""
