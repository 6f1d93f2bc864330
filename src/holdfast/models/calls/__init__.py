"""Calls as models write them: what a text says of tools, read strictly or named as unread.

    text ─ thoughts aside ─▶ native.read_native: the calls of a family's own format ─▶ Message
                          └▶ spelled.spells_call: what looks like a call that nobody read, or None

What looks like a call and was not read is never a final answer, so whoever takes a text for one asks here first.
"""
