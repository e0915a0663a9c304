"""Several processes that share the work as one, started by `torchrun` and joined by torch.distributed.

Training splits every batch and adds up the gradients; evaluation and attacks split the batches. Without `torchrun`
there is one process, of rank 0, and these functions do nothing.
"""

import atexit
import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta

import torch
import torch.distributed as dist

# Imported before `join`: otherwise the defaults of its functions hold the group, whose threads then outlive its
# destruction, and sometimes abort a process that ends.
import torch.distributed.nn.functional  # noqa: F401
from torch import Tensor

from pyrobayes.errors import InputError
from pyrobayes.torchrun import check_variables, local_rank, rank, started

# Time that a process waits for another one, which may be downloading. If one ends, torchrun ends the others at once.
PATIENCE = timedelta(days=1)
_alone = False  # whether this process works as if there were no others


def processes() -> int:
    """How many processes share the work."""
    return dist.get_world_size() if dist.is_initialized() and not _alone else 1


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Within, this process works as if there were no others."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def copy_from_first(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors, in place, by those of the first process."""
    if processes() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


def join(device: torch.device) -> None:
    """Join the processes that `torchrun` started, if any, over NCCL on CUDA and gloo elsewhere, until this one ends."""
    if not started() or dist.is_initialized():
        return
    check_variables()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # Comparators of a verdict train on the CPU, across the processes too.
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    atexit.register(dist.destroy_process_group)


def must_agree(what: str, value: Callable[[], str]) -> None:
    """Refuse to go on unless `value()` is equal in all processes. A process that is alone doesn't call it."""
    if processes() > 1 and len(set(gather([value()]))) > 1:
        raise InputError(f"the processes don't agree on {what}: all must have the same, and see the same folder")


def wait_for_all() -> None:
    """Wait until all processes are here."""
    if processes() > 1:
        dist.barrier()


@contextlib.contextmanager
def first_alone() -> Iterator[None]:
    """Within, the first process of each machine works before the others do."""
    if local_rank():
        wait_for_all()
    yield
    if not local_rank():
        wait_for_all()


def mine() -> slice:
    """This process's share of a batch."""
    return slice(rank() % processes(), None, processes())


def share(items: Iterable) -> Iterator:
    """Every N-th item, from this process's own rank, of N processes."""
    return itertools.islice(items, mine().start, None, mine().step)


def gather(mine: list) -> list:
    """The results of all processes' shares, in the order of the items, with tensors on the CPU."""
    if processes() == 1:
        return mine
    parts: list[list] = [[] for _ in range(processes())]
    dist.all_gather_object(parts, mine)
    return [parts[number % len(parts)][number // len(parts)] for number in range(sum(map(len, parts)))]


def add_up(*tensors: Tensor) -> None:
    """Replace tensors, on one device, by their sums over all processes."""
    if processes() == 1:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    for tensor, total in zip(tensors, flat.split([tensor.numel() for tensor in tensors])):
        tensor.copy_(total.view_as(tensor))
