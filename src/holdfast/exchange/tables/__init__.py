"""Scores in the tables of other tools, a value a case: what a gate needs where there is no log of the episodes.

files.py ─▶ rows.py (CSV, JSON lines), lm_eval.py, promptfoo.py, every_eval_ever.py ─▶ importing.py
which table      what each tool writes, as rows of one shape                            rows into a run
"""
