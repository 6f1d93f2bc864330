"""Other tools' formats, in and out.

inspect/     Inspect logs, tasks and provider
traces/      production traces
published/   the published study
known/       what the scores of known scorers mean
scales.py    what a foreign score means
openings.py  how one case was opened in two places
ties.py      what shares an id, as groups
trl.py       preference pairs for TRL
"""
