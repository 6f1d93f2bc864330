"""The ways to make checkpoints of others, a folder each, found by this table."""

from __future__ import annotations

from collections.abc import Mapping

from holdfast.runs.methods import merges, pairs, rewards
from holdfast.runs.methods.method import Method

METHODS: Mapping[str, Method] = {one.name: one for one in (pairs.METHOD, *rewards.METHODS, merges.METHOD)}
