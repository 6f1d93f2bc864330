"""``holdfast carry``: one step of a run carried out from its slice."""

from __future__ import annotations

import argparse


def carry_out(options: argparse.Namespace) -> tuple[str, int]:
    """Carry out a slice's step as asked, and say where its outcomes are."""
    from holdfast.runs.carrying.carry import carry_to_directory

    done = carry_to_directory(
        options.slice,
        options.output,
        weights_root=options.weights,
        allow_command=options.allow_command,
        budget={"max_calls": options.max_calls, "max_cost": options.max_cost},
    )
    return f"{options.output}: the step's outcomes{'' if done else ', the last of which is its failure'}", int(not done)
