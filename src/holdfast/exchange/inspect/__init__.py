"""Inspect AI, both ways.

messages.py   messages, tool calls and tools ↔ Inspect's
samples.py    cases, episodes and scores ↔ what an Inspect sample holds
export.py     a run as Inspect logs
importing.py  Inspect logs as trajectories to judge
tasks.py      the suites as Inspect tasks
provider.py   the models that holdfast makes as an Inspect model provider
registry.py   what `inspect` loads to know tasks and provider by name
"""
