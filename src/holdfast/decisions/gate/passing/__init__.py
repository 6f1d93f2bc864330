"""A gate's answer in forms that others read: model cards, records of results, signed statements.

Nothing here decides anything; every number is one of a verdict's.
"""
