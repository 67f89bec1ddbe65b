"""Choose the layers to record: those named, as LAYER or LAYER@STEP, or the children that run."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from brain_eval.activations.hooks import Calls, calls_of, probe_images, running_children
from brain_eval.activations.preprocessing import Preprocessing
from nmnc.errors import UserError, did_you_mean

#: The end of LAYER@STEP.
STEP = re.compile("-?[0-9]{1,6}")


@dataclass(frozen=True)
class Chosen:
    """Layers to record.

    Attributes:
        layers: name -> the submodule whose output is recorded, in the order asked for.
        steps: name of a LAYER@STEP -> which of the module's calls in a pass is recorded, from 0, or negative from the
            end.
        note: one sentence on children that are not recorded because they do not run, or "".
    """

    layers: Mapping[str, nn.Module]
    steps: Mapping[str, int] = field(default_factory=dict)
    note: str = ""


def named_layers(module: nn.Module, names: str, source: str, stages: Mapping[str, nn.Module]) -> Chosen:
    """Return the layers of a comma-separated list.

    Args:
        module: the network.
        names: each LAYER or LAYER@STEP, a stage or a submodule as `named_modules` has it.
        source: what errors call the network.
        stages: further names.

    Raises:
        UserError: no such layer, or one inside TorchScript.
    """
    known = dict(module.named_modules(remove_duplicate=False)) | dict(stages)
    known.pop("", None)
    layers: dict[str, nn.Module] = {}
    steps: dict[str, int] = {}
    for name in (name.strip() for name in names.split(",")):
        base, at, step = name.rpartition("@")
        if name not in known and at:
            if not STEP.fullmatch(step):
                raise UserError(f"{source}: layer {name!r}: STEP must be a whole number, such as {base}@0 or {base}@-1")
            steps[name] = int(step)
        else:
            base = name
        if base not in known:
            default = did_you_mean(base, stages or dict(module.named_children())).removeprefix("; ")
            raise UserError(f"{source}: no layer {base!r}{did_you_mean(base, known, default)}")
        refuse_script(known[base], source)
        layers[name] = known[base]
    return Chosen(layers, steps)


def default_layers(module: nn.Module, source: str, preprocessing: Preprocessing) -> Chosen:
    """Return the direct children that run on an image; for a container that is never called, its children that run.

    Raises:
        UserError: there are none; one is TorchScript.
    """
    children = dict(module.named_children())
    if not children:
        raise UserError(f"{source}: has no submodules to record; set its layers as attributes of the module")
    for child in children.values():
        refuse_script(child, source)
    calls = _calls(module, preprocessing)
    if calls is None:
        return Chosen(children)  # the probe of the layers reports why the network fails
    layers = dict(running_children(module, calls))
    if not layers:
        raise UserError(
            f"{source}: a pass calls none of its submodules ({', '.join(children)}), and hooks do not see calls of "
            ".forward(); call each as self.NAME(x)"
        )
    idle = [name for name in children if not any(f"{layer}.".startswith(f"{name}.") for layer in layers)]
    note = f"{source}: not recorded, since no image runs through them: {', '.join(idle)}" if idle else ""
    return Chosen(layers, note=note)


def _calls(module: nn.Module, preprocessing: Preprocessing) -> Calls | None:
    """Return the calls in a forward pass of noise; None if the network fails."""
    try:
        with torch.random.fork_rng(devices=[]):
            return calls_of(module, probe_images(preprocessing, 2))
    except (Exception, SystemExit):  # the user's network may raise anything
        return None


def refuse_script(module: nn.Module, source: str) -> None:
    """Raise UserError for a TorchScript module."""
    if isinstance(module, torch.jit.ScriptModule):
        raise UserError(
            f"{source}: a TorchScript module has no hooks, so its layers cannot be recorded; load the Python network "
            "and its state dict"
        )
