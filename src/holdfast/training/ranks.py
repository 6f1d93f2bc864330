"""The processes that train one model together, and weights spread over them by FSDP2.

The sharding is PyTorch's ``fully_shard``, which accelerate's FSDP2 calls too. It is called here because accelerate
falls back to plain data parallelism on CPUs without a word; accelerate brings the processes together and knows their
devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

_TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """This process's number among ``world`` processes that train together, and its device."""

    rank: int
    world: int
    device: torch.device


def find_ranks() -> Ranks | None:
    """The processes that train together, or None where this one trains alone."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return None
    from accelerate import PartialState

    state = PartialState()
    return Ranks(rank=state.process_index, world=state.num_processes, device=torch.device(state.device))


def join_ranks(meeting: Path) -> None:
    """Meets the other processes at a file that none has made yet; who they are is in RANK and WORLD_SIZE."""
    from accelerate import PartialState

    PartialState(cpu=not torch.cuda.is_available(), init_method=f"file://{meeting}", timeout=_TIMEOUT)


def leave_ranks() -> None:
    """Waits until all processes are done, and takes the ways between them down."""
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def shard(root: nn.Module, layers: Sequence[nn.Module], ranks: Ranks) -> None:
    """Shards a module in place, layer by layer, over all processes; gradients are summed, not averaged.

    Every use of the root's weights must lie inside its forward.
    """
    # Imported where several processes train: they take longer to load than a small stage to train.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    mesh = init_device_mesh(ranks.device.type, (ranks.world,))
    for module in (*layers, root):
        # The root, too, gives its weights back after each forward: a pass without gradient may precede an update.
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
    # A part's loss is divided by the whole step's totals already, so that the processes' gradients add up.
    for module in root.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def gather_whole(tensor: Tensor) -> Tensor:
    """A sharded tensor whole, on every process; others as they are. All processes must ask together."""
    return tensor.full_tensor() if _is_sharded(tensor) else tensor


def spread_like(whole: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, sharded as another is."""
    if not _is_sharded(like):
        return whole
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements)


def _is_sharded(tensor: Any) -> TypeGuard[DTensor]:
    return hasattr(tensor, "full_tensor")


def any_of(here: bool, ranks: Ranks) -> bool:
    """Whether something holds on any process; all must ask together."""
    flag = torch.tensor(int(here), device=ranks.device)
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag.item())
