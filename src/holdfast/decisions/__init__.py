"""Estimates into verdicts: the gate on one stage, the watch over time, the search for a repair."""
