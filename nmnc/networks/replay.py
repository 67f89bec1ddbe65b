"""Record a clean pass's batch-norm statistics and dropout masks, and replay them for perturbed copies.

Without this, noise in one image would leak into the statistics of all others, running statistics would drift with
every perturbation, and a new dropout mask would change the output more than the noise does.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import cycle

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from nmnc.errors import UserError

#: How each dropout draws its mask: single units, or whole channels.
DROPOUTS: dict[type[_DropoutNd], Callable[[Tensor, float, bool], Tensor]] = {
    nn.Dropout: F.dropout,
    nn.Dropout1d: F.dropout1d,
    nn.Dropout2d: F.dropout2d,
    nn.Dropout3d: F.dropout3d,
}
#: module -> what each of its calls drew, in order; a stage may call a module more than once.
Record = dict[nn.Module, list[tuple[Tensor, ...]]]


def _record_batch_norm(module: _BatchNorm, record: Record, update: bool, x: Tensor) -> Tensor:
    axes = [axis for axis in range(x.ndim) if axis != 1]
    with torch.no_grad():
        variance, mean = torch.var_mean(x.to(torch.promote_types(x.dtype, torch.float32)), axes, correction=0)
    record.setdefault(module, []).append((mean, variance))
    running = (module.running_mean, module.running_var) if update else (None, None)
    if update and module.num_batches_tracked is not None:
        module.num_batches_tracked.add_(1)
    return F.batch_norm(x, *running, module.weight, module.bias, True, module.momentum or 0.0, module.eps)


def _replay_batch_norm(module: _BatchNorm, calls: Iterator[tuple[Tensor, ...]], x: Tensor) -> Tensor:
    mean, variance = next(calls)
    return F.batch_norm(x, mean, variance, module.weight, module.bias, False, 0.0, module.eps)


def _record_dropout(module: _DropoutNd, record: Record, x: Tensor) -> Tensor:
    mask = DROPOUTS[type(module)](torch.ones_like(x), module.p, True)
    record.setdefault(module, []).append((mask,))
    return x * mask


def _replay_dropout(module: _DropoutNd, calls: Iterator[tuple[Tensor, ...]], rows: int, x: Tensor) -> Tensor:
    (mask,) = next(calls)
    return x * mask[:rows].repeat(len(x) // rows, *[1] * (x.ndim - 1))


@contextmanager
def _forwards(replaced: dict[nn.Module, partial[Tensor]]) -> Iterator[None]:
    """Context manager: replace the forward methods of modules."""
    for module, forward in replaced.items():
        module.forward = forward
    try:
        yield
    finally:
        for module in replaced:
            del module.forward


def _random_modules(network: nn.Module) -> tuple[list[_BatchNorm], list[_DropoutNd]]:
    """Return the modules in training mode whose output depends on the other images or on random numbers.

    Raises:
        UserError: a module of a kind whose statistics or masks cannot be replayed.
    """
    modules = [module for module in network.modules() if module.training]
    norms = [module for module in modules if isinstance(module, _BatchNorm)]
    dropouts = [module for module in modules if isinstance(module, _DropoutNd)]
    for module in dropouts:
        if type(module) not in DROPOUTS:
            raise UserError(f"{type(module).__name__} cannot be replayed for perturbed copies; use nn.Dropout")
    if any(module.momentum is None for module in norms):
        raise UserError("batch norm with momentum None cannot be replayed; set a momentum, e.g. 0.1")
    return norms, dropouts


@contextmanager
def recording(network: nn.Module, update_statistics: bool = True) -> Iterator[Record]:
    """Context manager: forward passes store batch-norm statistics and dropout masks in the yielded record.

    Args:
        network: in training mode; in evaluation mode nothing is recorded or needed.
        update_statistics: False leaves batch norm's running statistics as they are.
    """
    record: Record = {}
    norms, dropouts = _random_modules(network)
    replaced: dict[nn.Module, partial[Tensor]] = {
        module: partial(_record_batch_norm, module, record, update_statistics) for module in norms
    }
    replaced.update({module: partial(_record_dropout, module, record) for module in dropouts})
    with _forwards(replaced):
        yield record


@contextmanager
def replaying(network: nn.Module, record: Record, rows: int) -> Iterator[None]:
    """Context manager: forward passes use the statistics and masks of a record.

    Args:
        network: the recorded network, in the same mode.
        record: what `recording` yielded.
        rows: the batch consists of whole copies of the first `rows` images of the recorded batch.

    The recorded calls of a module are replayed in a cycle, so that whole stages may be passed any number of times.
    `nmnc.networks.stage_check` refuses modules that two stages share.
    """
    norms, dropouts = _random_modules(network)
    calls = {module: cycle(record.get(module, [])) for module in (*norms, *dropouts)}
    replaced: dict[nn.Module, partial[Tensor]] = {
        module: partial(_replay_batch_norm, module, calls[module]) for module in norms
    }
    replaced.update({module: partial(_replay_dropout, module, calls[module], rows) for module in dropouts})
    with _forwards(replaced):
        yield
