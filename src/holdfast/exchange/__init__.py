"""Other tools' formats, in and out.

inspect/     Inspect logs, tasks and provider
traces/      production traces
published/   the published study
known/       what the scores of known scorers mean
scales.py    what a foreign score means
openings.py  how one case was opened in two places
trl.py       preference pairs for TRL
"""

from __future__ import annotations

from collections.abc import Mapping

# What a run can be exported to → what writes it, given the run and a new directory; a name's options go by keyword.
FORMATS: Mapping[str, str] = {
    "jsonl": "holdfast.exchange.exports:write_jsonl",
    "csv": "holdfast.exchange.exports:write_csv",
    "parquet": "holdfast.exchange.exports:write_parquet",
    "trl": "holdfast.exchange.exports:write_trl",
    "inspect": "holdfast.exchange.exports:write_inspect",
    "hf": "holdfast.exchange.exports:write_checkpoint",
    "run": "holdfast.store.copying:copy_run",
}
