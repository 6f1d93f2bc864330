"""What stands where in a run's directory and among its notes."""

from __future__ import annotations

STUDY_KEY = "study"
ENDPOINTS_KEY = "endpoints"  # how the study's remote models are reached: no secrets, and no part of what was asked
STATE_KEY = "state_judges"  # the study's judges of kinds from elsewhere that read the world's end state
EXTERNAL_KEY = "external"  # by digest, where the study says now that weights lie which were trained elsewhere
FORKED_KEY = "forked_from"
MACHINES_KEY = "machines"  # on which machines, by which versions, steps of the run were carried out
LEDGER = "calls.db"  # of a run: every call to a remote model, with its reply
ANALYSIS_FILE = "analysis.json"
LOGS = "logs"  # where a run keeps the logs of its training stages, by step
CARRIED = "carried"  # where the slices and outcomes of steps lie that other machines carry out
