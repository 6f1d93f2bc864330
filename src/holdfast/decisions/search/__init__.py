"""``run --search``: how much of the other objective to mix into a stage, and how long to train it, within a budget.

trials     which trial comes next, as a study's lineage, and what its scores say against the parent
running    the trials in a run of their own, each step once, and the winner on fresh cases
outputs    the table and the document
"""
