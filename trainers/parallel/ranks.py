"""Several processes that train one model: who does what, and the few collectives that the loops need.

Every rank computes the same global batch and the same losses; only the encoding of texts is shared out. A loss is
therefore computed whole on each rank from all embeddings, of which a rank's own carry gradients; the sum of the ranks'
parameter gradients is then the gradient of the global loss, and one reduction a step suffices.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mixture.errors import MixtureError, UsageError
from mixture.remote import write_whole
from trainers.deferred import Deferred

if TYPE_CHECKING:
    import torch
    from accelerate import PartialState
    from torch import Tensor
else:
    torch = Deferred("torch")

T = TypeVar("T")
SENT_AT_ONCE = 2**26  # bytes of a file


def alone() -> bool:
    """Whether this process is the only one; tells without loading torch."""
    return int(os.environ.get("WORLD_SIZE", "1")) <= 1


def state() -> PartialState:
    """This process among those that `torchrun` or `accelerate launch` started; on CPU they talk over gloo."""
    from accelerate import PartialState

    return PartialState(cpu=not alone() and not torch.cuda.is_available())


def is_main() -> bool:
    """Whether this process writes to the store, to checkpoints and to the terminal."""
    return alone() or state().is_main_process


def on_main(work: Callable[[], T]) -> T:
    """What `work` returns on the main process, on all of them; what it raises is raised on all."""
    if alone() or state().num_processes == 1:
        return work()
    from accelerate.utils import broadcast_object_list

    outcome: list[Any] = [None, None]
    if is_main():
        try:
            outcome[0] = work()
        except Exception as error:  # the others would wait for ever
            outcome[1] = error
    broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    result: T = outcome[0]
    return result


def on_nodes(work: Callable[[], object]) -> None:
    """Do `work` on the first rank of each machine, for what lies in a machine's own folders; what it raises is raised
    on all. Machines that share the folder do it at once."""
    if alone() or state().num_processes == 1:
        work()
        return
    raised: Exception | None = None
    if state().is_local_main_process:
        try:
            work()
        except Exception as error:  # the others would wait for ever
            raised = error
    _raise_any(raised)


def of_all(own: T) -> list[T]:
    """The value of each rank."""
    if alone() or state().num_processes == 1:
        return [own]
    found: list[Any] = [None] * state().num_processes
    torch.distributed.all_gather_object(found, own)
    return found


def agreed(own: T, what: str) -> T:
    """The value, which is the same on all ranks; a `UsageError` where it is not, as of machines with other files."""
    found = of_all(own)
    if other := next((rank for rank, value in enumerate(found) if value != found[0]), None):
        raise UsageError(f"rank {other} has another {what} than the first; give all machines the same options, data, "
                         "model and suites")  # fmt: skip
    return own


def keeps_own_files() -> bool:
    """Whether this is the first rank of another machine than the first."""
    return not alone() and state().is_local_main_process and not is_main()


def send(folder: Path) -> None:
    """Have the files of a folder of the first rank on every machine, by the same name; those that are there stay.

    folder: each machine's own name of it
    """
    if alone() or state().num_processes == 1:
        return
    files = on_main(lambda: {str(file.relative_to(folder)): file.stat().st_size
                             for file in sorted(folder.rglob("*")) if file.is_file()})  # fmt: skip
    lacking = [name for name, size in files.items() if keeps_own_files() and _size(folder / name) != size]
    raised: Exception | None = None
    for name in sorted({name for names in of_all(lacking) for name in names}):
        parts = _of_main(folder / name, files[name])
        try:
            if name in lacking and raised is None:
                write_whole(folder / name, parts)
        except OSError as error:  # the others send on
            raised = error
        for _ in parts:
            pass
    _raise_any(raised)


def _size(file: Path) -> int | None:
    return file.stat().st_size if file.is_file() else None


def _of_main(file: Path, size: int) -> Iterator[bytes]:
    """The first rank's file in parts, on all ranks: a collective for each."""
    from accelerate.utils import broadcast_object_list

    for start in range(0, max(size, 1), SENT_AT_ONCE):
        part: list[Any] = [None]
        if is_main():
            try:
                with file.open("rb") as stream:
                    stream.seek(start)
                    part = [stream.read(SENT_AT_ONCE)]
            except OSError as error:
                part = [error]
        broadcast_object_list(part)
        if isinstance(part[0], OSError):
            raise MixtureError(f"the first machine cannot read {file}: {part[0]}") from part[0]
        yield part[0]


def _raise_any(raised: Exception | None) -> None:
    """What any rank's work raised, on all."""
    for one in of_all(raised):
        if one is not None:
            raise one


def share(count: int) -> Sequence[int]:
    """Which of `count` things this rank takes: every R-th of R ranks. At least one, so that all ranks work alike."""
    mine = range(state().process_index, count, state().num_processes)
    return mine if len(mine) or not count else range(1)


def rank_of_each(count: int) -> Tensor:
    """Which rank each of a batch's `count` examples belongs to, where ranks are told apart: equal runs, (count,)."""
    return torch.arange(count) * state().num_processes // count


def gather(own: Tensor, count: int) -> Tensor:
    """The embeddings of all ranks in the order that `share` dealt them: (count, D), gradients on this rank's own.

    own: (len(share(count)), D)
    """
    ranks = state().num_processes
    if ranks == 1:
        return own
    most = -(-count // ranks)
    padded = torch.cat([own, own.new_zeros(most - len(own), own.shape[1])])
    parts = [torch.empty_like(padded) for _ in range(ranks)]
    torch.distributed.all_gather(parts, padded.detach().contiguous())
    parts[state().process_index] = padded
    return torch.stack(parts, dim=1).reshape(most * ranks, -1)[:count]


def reduce_gradients(parameters: Sequence[torch.nn.Parameter]) -> None:
    """Sum the gradients over all ranks, in place, in one reduction for each data type.

    A parameter that no rank has a gradient of keeps none, as on one rank: weight decay leaves it alone. Those of a
    sharded model's parameters are sums already and stay as they are.
    """
    if state().num_processes == 1:
        return
    from torch.distributed.tensor import DTensor

    parameters = [p for p in parameters if not isinstance(p, DTensor)]
    if not parameters:
        return
    used = torch.tensor([p.grad is not None for p in parameters], dtype=torch.uint8, device=parameters[0].device)
    torch.distributed.all_reduce(used, op=torch.distributed.ReduceOp.MAX)
    parameters = [p for p, any_rank in zip(parameters, used.tolist(), strict=True) if any_rank]
    for parameter in parameters:
        if parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = _summed_rows(parameter.grad)
    parameters = [p for p in parameters if p.grad is None or not p.grad.is_sparse]
    for parameter in parameters:  # a rank without texts of some kind has none
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    for dtype in sorted({p.dtype for p in parameters}, key=str):
        alike = [p.grad for p in parameters if p.dtype == dtype and p.grad is not None]
        flat = torch.cat([g.reshape(-1) for g in alike])
        torch.distributed.all_reduce(flat)
        for gradient, total in zip(alike, flat.split([g.numel() for g in alike]), strict=True):
            gradient.copy_(total.view_as(gradient))


def _summed_rows(gradient: Tensor) -> Tensor:
    """The sum over all ranks of a sparse gradient, with the rows that any of them has."""
    gradient = gradient.coalesce()
    whole = gradient.to_dense()
    ranks_with = whole.new_zeros(len(whole))
    ranks_with[gradient.indices()[0]] = 1
    torch.distributed.all_reduce(whole)
    torch.distributed.all_reduce(ranks_with)
    rows = ranks_with.nonzero().squeeze(1)
    return torch.sparse_coo_tensor(rows[None], whole[rows], whole.shape, is_coalesced=True)


def summed(values: Tensor) -> Tensor:
    """The sum of a tensor over all ranks, in place."""
    if state().num_processes > 1:
        torch.distributed.all_reduce(values)
    return values
