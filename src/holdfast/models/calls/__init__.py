"""Calls as models write them: what a text says of tools, read strictly or named as unread.

    text ─ thoughts cut ─▶ spells_call ─▶ what in it looks like a call, or None

What looks like a call and was not read is never a final answer, so whoever takes a text for one asks here first.
"""

from __future__ import annotations

from holdfast.models.calls.spelled import spells_call

__all__ = ["spells_call"]
