"""Inspect AI, both ways.

files.py      which files are logs, and which may be opened
messages.py   messages, tool calls and tools ↔ Inspect's
samples.py    what holdfast itself wrote: cases, episodes and scores ↔ what an Inspect sample holds
export.py     a run as Inspect logs
importing.py  Inspect logs as trajectories to judge
actors.py     who acted: what tells the checkpoints of logs apart
attempts.py   retries and copies: which episodes count
dialogue.py   what opened a sample and what its agent did, from messages and events
episodes.py   a sample of another agent as a case and an episode
scoring.py    what other scorers' values mean
wholeness.py  what logs were to hold and do not
tasks.py      the suites as Inspect tasks
provider.py   the models that holdfast makes as an Inspect model provider
registry.py   what `inspect` loads to know tasks and provider by name
"""
