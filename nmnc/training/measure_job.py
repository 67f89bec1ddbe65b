"""The manifold of a trained network: its dimension, and how much of the network's Jacobian lies along it.

One table per network, tidy: a row per layer, quantity and setting. In evaluation mode. Formulas: docs/method.md.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from nmnc.config import Study
from nmnc.data.dataset import Dataset, load_dataset
from nmnc.device import prepare_torch
from nmnc.errors import UserError
from nmnc.files.writing import write_csv
from nmnc.measure.dimension import FEWEST, estimate
from nmnc.measure.principal_angles import principal_angles
from nmnc.measure.row_space import RowSpace, median_share, over_draws, row_space, total_share
from nmnc.measure.signal_losses import mean_jacobian, signal_losses
from nmnc.networks import Network
from nmnc.noise.manifold import layer_basis, random_basis
from nmnc.runs import data_folder
from nmnc.training.checkpoint import load_network

#: quantity: two_nn, participation_ratio, components_90/95/99 (dimension of the activity; `fraction` of the images),
#: alpha_gradient, alpha_jacobian (`subspace` of `d` dimensions; `chance` is d/n), principal_angle (degrees, number
#: `axis` of those between the subspace and the Jacobian's leading right singular vectors), cosine_activity and
#: cosine_weight (of a `signal` that is exact but for an average or a projection, with backprop's gradient).
#: subspace: principal (components of the activity) or random (mean over draws; low and high hold 95 % of draws).
COLUMNS = (
    "layer", "quantity", "signal", "subspace", "d", "axis", "fraction", "value", "low", "high", "chance", "n_images",
    "n_units",
)  # fmt: skip
#: Dimensions of the subspaces; those below the layer's number of units are taken.
DIMENSIONS = (8, 16, 32, 64, 128)
#: Dimension of the subspaces that signals are projected on, where the layer has more units.
SIGNAL_DIMENSIONS = 64
#: Random subspaces per layer.
DRAWS = 10
#: Images of one forward pass.
BATCH = 250


class Images(NamedTuple):
    """What a network is measured on: normalised images (images, channels, height, width), none in both parts."""

    activity: Tensor
    held_out: Tensor
    labels: Tensor


def measure_job(study: Study, network: Path, out: Path, images: int, seed: int, kind: str = "") -> None:
    """Measure a network.pt on its study's test images and write the table of `measure`.

    Args:
        study: whose data set the network was trained on.
        network: a network.pt, trained or not; a MODULE:FUNCTION may build it that the study or `kind` names.
        out: CSV file to write.
        images: test images for the activity, fewer where the test set has no more.
        seed: of their choice and of the random subspaces.
        kind: MODULE:FUNCTION, where the study has none or another.

    Raises:
        UserError: unusable data or network, or a network that saw its images otherwise.
    """
    if study.dataset is None:
        raise UserError(f"{study.study}: it has no dataset to measure {network} on; add dataset.name")
    device = prepare_torch(study.device, study.threads)
    model, config = load_network(network, {kind, *(entry.kind for entry in study.networks.values())})
    dataset = load_dataset(study.dataset, data_folder(study)).to(device)
    recipe = config["network"]
    if config["preprocessing"] != dataset.preprocessing() or recipe["classes"] != dataset.classes:
        raise UserError(f"{network}: trained on other images than the study's; give the --config it was trained with")
    generator = torch.Generator().manual_seed(seed)
    parts = choose_images(dataset, images, study.diagnostics.images, generator)
    write_csv(out, COLUMNS, list(measure(model.to(device), parts, generator)), digest=True)


def choose_images(dataset: Dataset, activity: int, held_out: int, generator: torch.Generator) -> Images:
    """The first test images for gradients, as in alignment.csv, and a random choice of the others for the activity.

    Args:
        dataset: its test images are taken.
        activity: images asked for; fewer where there are no more.
        held_out: images asked for; never more than a quarter of the test set.
        generator: of the choice, on the CPU.

    Raises:
        UserError: the test set is too small.
    """
    total = len(dataset.test_images)
    held_out = min(held_out, total // 4)
    if held_out < FEWEST:
        raise UserError(f"dataset {dataset.name}: {total} test images are too few; {4 * FEWEST} are needed")
    chosen = held_out + torch.randperm(total - held_out, generator=generator)[:activity]
    if len(chosen) < FEWEST:
        raise UserError(f"--images {activity}: too few for a manifold; give {FEWEST} or more")
    return Images(
        dataset.normalise(dataset.test_images[chosen.to(dataset.test_images.device)]),
        dataset.normalise(dataset.test_images[:held_out]),
        dataset.test_labels[:held_out],
    )


def measure(network: Network, images: Images, generator: torch.Generator) -> Iterator[dict[str, Any]]:
    """Rows (keys: COLUMNS, absent ones empty) of every hidden stage.

    Args:
        network: on the device of the images; left in evaluation mode.
        images: for the activity, its dimension and its principal components; held-out ones for the gradients.
        generator: of random parts of the images and random subspaces, on the CPU.

    Raises:
        UserError: a layer's activity or gradient is NaN or infinite.
    """
    network.eval()
    for stage, layer in enumerate(tqdm(network.stage_names[:-1], unit="layer", disable=None)):
        with torch.no_grad():
            activity = torch.cat([network.prefix(part, stage).flatten(1) for part in images.activity.split(BATCH)])
        units = activity.shape[1]
        sizes = [d for d in DIMENSIONS if d < units]
        principal = layer_basis(layer, activity, max(sizes, default=1))
        for row in _dimensions(activity, generator):
            yield {"layer": layer, "n_units": units} | row
        if not sizes:
            continue
        # The first d columns of a random basis span a uniformly random subspace, whatever d.
        cpu = torch.device("cpu")
        draws = [random_basis(units, sizes[-1], generator, cpu).to(activity.device) for _ in range(DRAWS)]
        try:
            found = row_space(network, stage, images.held_out, images.labels, [principal, *draws])
        except FloatingPointError:
            raise UserError(f"layer {layer}: its gradients are NaN or infinite; train the network again") from None
        shared = {"layer": layer, "n_units": units, "n_images": len(images.labels)}
        for row in _along_subspaces(sizes, found, principal, draws):
            yield shared | row
        d = min(sizes[-1], SIGNAL_DIMENSIONS)
        subspaces = {"principal": principal, "random": draws[0]}
        subspaces = {name: basis[:, :d] for name, basis in subspaces.items() if basis.shape[1] >= d}
        mean = mean_jacobian(network, stage, images.activity)
        for row in signal_losses(network, stage, images.held_out, images.labels, mean, subspaces):
            yield shared | row


def _dimensions(activity: Tensor, generator: torch.Generator) -> Iterator[dict[str, Any]]:
    """A row per estimator and density; what constant activity does not have (NaN) is an empty cell."""
    for one in estimate(activity, generator=generator):
        numbers = {"value": one.value, "low": one.low, "high": one.high}
        known = {name: None if math.isnan(number) else number for name, number in numbers.items()}
        yield {"quantity": one.quantity, "fraction": one.fraction, "n_images": one.images} | known


def _along_subspaces(
    sizes: list[int], found: RowSpace, principal: Tensor, draws: list[Tensor]
) -> Iterator[dict[str, Any]]:
    """Both alphas and the principal angles of principal and random subspaces of every size that fits."""
    for d in sizes:
        shared = {"d": d, "chance": d / len(principal)}
        fits = d <= principal.shape[1]
        for quantity, share, projections in (
            ("alpha_gradient", median_share, found.gradient),
            ("alpha_jacobian", total_share, found.jacobian),
        ):
            row = shared | {"quantity": quantity}
            if fits:
                yield row | {"subspace": "principal"} | share(projections[0], d)._asdict()
            values = torch.tensor([share(one, d).value for one in projections[1:]])
            yield row | {"subspace": "random"} | over_draws(values)._asdict()
        row = {"d": d, "quantity": "principal_angle"}
        if fits:
            for axis, angle in enumerate(principal_angles(principal[:, :d], found.right).tolist(), 1):
                yield row | {"subspace": "principal", "axis": axis, "value": angle}
        angles = torch.stack([principal_angles(basis[:, :d], found.right) for basis in draws])
        for axis, values in enumerate(angles.T, 1):
            yield row | {"subspace": "random", "axis": axis} | over_draws(values)._asdict()
