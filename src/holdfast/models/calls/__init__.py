"""Calls as models write them: what a text says of tools, read strictly or named as unread.

    text ─ thoughts aside ─▶ read_native: the calls of a family's own format ─▶ Message
                          └▶ spells_call: what looks like a call that nobody read, or None

What looks like a call and was not read is never a final answer, so whoever takes a text for one asks here first.
"""

from __future__ import annotations

from holdfast.models.calls.families import FAMILIES, Family
from holdfast.models.calls.native import read_native
from holdfast.models.calls.spelled import find_unread, spells_call

__all__ = ["FAMILIES", "Family", "find_unread", "read_native", "spells_call"]
