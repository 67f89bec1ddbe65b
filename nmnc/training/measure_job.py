"""Measure the manifold of a trained network: its dimension, and how much of the network's Jacobian lies along it.

One tidy table per network: a row per layer, quantity and setting. Formulas: docs/method.md.
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
#: subspace: principal (components of the activity) or random (mean over draws; low and high enclose 95 % of draws).
COLUMNS = (
    "layer", "quantity", "signal", "subspace", "d", "axis", "fraction", "value", "low", "high", "chance", "n_images",
    "n_units",
)  # fmt: skip
#: Dimensions of the subspaces; those of at least the layer's number of units are skipped.
DIMENSIONS = (8, 16, 32, 64, 128)
#: Dimension of the subspaces that signals are projected on, where the layer has more units.
SIGNAL_DIMENSIONS = 64
#: Random subspaces per layer.
DRAWS = 10
#: Images of one forward pass.
BATCH = 250


class Images(NamedTuple):
    """Disjoint parts of the normalised test images, float32 (images, channels, height, width), and labels, int64."""

    activity: Tensor
    held_out: Tensor
    labels: Tensor


def measure_job(study: Study, network: Path, out: Path, images: int, seed: int, kind: str = "") -> None:
    """Measure a network.pt on its study's test images and write the table of `measure`.

    Args:
        study: the study whose data set the network was trained on.
        network: a network.pt, trained or not; a MODULE:FUNCTION that builds it must be named by the study or `kind`.
        out: CSV file to write.
        images: number of test images for the activity; fewer if the test set is smaller.
        seed: seed for choosing the images and drawing the random subspaces.
        kind: MODULE:FUNCTION that built the network, if the study does not name it.

    Raises:
        UserError: unusable data or network, or a network trained with other preprocessing or classes.
    """
    if study.dataset is None:
        raise UserError(f"{study.study}: it has no dataset to measure {network} on; add dataset.name")
    device = prepare_torch(study.device, study.threads)
    model, config = load_network(network, {kind, *(entry.kind for entry in study.networks.values())})
    dataset = load_dataset(study.dataset, data_folder(study)).to(device)
    recipe = config["network"]
    if config["preprocessing"] != dataset.preprocessing() or recipe["classes"] != dataset.classes:
        raise UserError(
            f"{network}: trained on other images than the study's; set --config to the study it was trained with"
        )
    generator = torch.Generator().manual_seed(seed)
    parts = choose_images(dataset, images, study.diagnostics.images, generator)
    write_csv(out, COLUMNS, list(measure(model.to(device), parts, generator)), digest=True)


def choose_images(dataset: Dataset, activity: int, held_out: int, generator: torch.Generator) -> Images:
    """Take the first test images for gradients, as in alignment.csv, and a random choice of the rest for the activity.

    Args:
        dataset: the data set whose test images are used.
        activity: number of images for the activity; fewer if the test set is smaller.
        held_out: number of images for gradients; at most a quarter of the test set.
        generator: random generator on the CPU.

    Raises:
        UserError: the test set is too small.
    """
    total = len(dataset.test_images)
    held_out = min(held_out, total // 4)
    if held_out < FEWEST:
        raise UserError(f"dataset {dataset.name}: {total} test images are too few; {4 * FEWEST} are needed")
    chosen = held_out + torch.randperm(total - held_out, generator=generator)[:activity]
    if len(chosen) < FEWEST:
        raise UserError(f"--images {activity}: too few to measure a manifold; set it to {FEWEST} or more")
    return Images(
        dataset.normalise(dataset.test_images[chosen.to(dataset.test_images.device)]),
        dataset.normalise(dataset.test_images[:held_out]),
        dataset.test_labels[:held_out],
    )


def measure(network: Network, images: Images, generator: torch.Generator) -> Iterator[dict[str, Any]]:
    """Yield the rows (keys: COLUMNS, absent ones empty) of every hidden stage.

    Args:
        network: on the device of the images; left in evaluation mode.
        images: for the activity, its dimension and its principal components; held-out ones for the gradients.
        generator: for random parts of the images and random subspaces; on the CPU.

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
        # The first d columns of a random basis span a uniformly random subspace for every d.
        cpu = torch.device("cpu")
        draws = [random_basis(units, sizes[-1], generator, cpu).to(activity.device) for _ in range(DRAWS)]
        try:
            space = row_space(network, stage, images.held_out, images.labels, [principal, *draws])
        except FloatingPointError:
            raise UserError(f"layer {layer}: its gradients are NaN or infinite; train the network again") from None
        shared = {"layer": layer, "n_units": units, "n_images": len(images.labels)}
        for row in _along_subspaces(sizes, space, principal, draws):
            yield shared | row
        d = min(sizes[-1], SIGNAL_DIMENSIONS)
        subspaces = {"principal": principal, "random": draws[0]}
        subspaces = {name: basis[:, :d] for name, basis in subspaces.items() if basis.shape[1] >= d}
        mean = mean_jacobian(network, stage, images.activity)
        for row in signal_losses(network, stage, images.held_out, images.labels, mean, subspaces):
            yield shared | row


def _dimensions(activity: Tensor, generator: torch.Generator) -> Iterator[dict[str, Any]]:
    """Yield a row per estimator and density; NaN, as for constant activity, becomes an empty cell."""
    for result in estimate(activity, generator=generator):
        numbers = {"value": result.value, "low": result.low, "high": result.high}
        known = {name: None if math.isnan(number) else number for name, number in numbers.items()}
        yield {"quantity": result.quantity, "fraction": result.fraction, "n_images": result.images} | known


def _along_subspaces(
    sizes: list[int], space: RowSpace, principal: Tensor, draws: list[Tensor]
) -> Iterator[dict[str, Any]]:
    """Yield both alphas and the principal angles of principal and random subspaces for every size that fits."""
    for d in sizes:
        shared = {"d": d, "chance": d / len(principal)}
        fits = d <= principal.shape[1]
        for quantity, share, projections in (
            ("alpha_gradient", median_share, space.gradient),
            ("alpha_jacobian", total_share, space.jacobian),
        ):
            row = shared | {"quantity": quantity}
            if fits:
                yield row | {"subspace": "principal"} | share(projections[0], d)._asdict()
            values = torch.tensor([share(projection, d).value for projection in projections[1:]])
            yield row | {"subspace": "random"} | over_draws(values)._asdict()
        row = {"d": d, "quantity": "principal_angle"}
        if fits:
            for axis, angle in enumerate(principal_angles(principal[:, :d], space.right).tolist(), 1):
                yield row | {"subspace": "principal", "axis": axis, "value": angle}
        angles = torch.stack([principal_angles(basis[:, :d], space.right) for basis in draws])
        for axis, values in enumerate(angles.T, 1):
            yield row | {"subspace": "random", "axis": axis} | over_draws(values)._asdict()
