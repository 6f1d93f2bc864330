"""An own stage method: every weight of the checkpoint that a stage starts from gets a little noise.

It is a control: a change of weights that means nothing. What it costs an agent, any training of that size may cost.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

from pydantic import Field

from holdfast.runs.methods import Emit, Finished, Method, StageSettings, StageTable, Step, weights_of
from holdfast.store import Store


class JitterTable(StageTable):
    """``[stages.NAME]``: the noise has ``scale`` times the standard deviation of the weights' own tensor."""

    scale: Annotated[float, Field(gt=0, le=1)] = 0.01


def carry_out(step: Step, settings: StageSettings, store: Store, scratch: Path, emit: Emit) -> Finished:
    """The weights with noise, in a directory below ``scratch``; the step's fingerprint is the seed."""
    import torch
    from safetensors.torch import load_file, save_file

    table = settings.section
    assert isinstance(table, JitterTable)
    (checkpoint,) = step.checkpoints
    target = scratch / "weights"
    shutil.copytree(weights_of(store, settings.parent), target, dirs_exist_ok=True)
    generator = torch.Generator().manual_seed(int(step.fingerprint[:15], 16))
    for file in sorted(target.glob("*.safetensors")):
        tensors = load_file(file)
        for name, tensor in sorted(tensors.items()):
            noise = torch.randn(tensor.shape, generator=generator)
            tensors[name] = tensor + (table.scale * tensor.float().std() * noise).to(tensor.dtype)
        save_file(tensors, file, metadata={"format": "pt"})
    return Finished(result={"scale": table.scale}, checkpoints=((checkpoint, target),))


METHOD = Method(name="jitter", table=JitterTable, version=1, carry_out=carry_out)
