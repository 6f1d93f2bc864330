"""Other tools' formats, in and out.

inspect/   Inspect logs, tasks and provider
traces/    production traces
scales.py  what a foreign score means
trl.py     preference pairs for TRL
"""
