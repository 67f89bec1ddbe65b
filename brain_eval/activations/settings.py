"""Sections of a study about models and their activations: keys, defaults and limits."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from brain_eval.activations.reductions import REDUCTIONS
from nmnc.sections import LIBRARIES, PathText, Section, Seed, UserPath


class ImagePreprocessing(Section):
    """How a reference model was trained to see images."""

    image_size: int = Field(ge=1, le=4096, description="pixels a side; images are resized, bilinear with antialiasing")
    channels: Literal[1, 3] = Field(3, description="1: grey, 3: red, green, blue")
    mean: list[float] = Field(description="per channel, subtracted after scaling to 0..1")
    std: list[float] = Field(description="per channel, divided by")

    @model_validator(mode="after")
    def _one_value_per_channel(self) -> "ImagePreprocessing":
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(f"mean and std need one value for each of the {self.channels} channels")
        if min(self.std) <= 0:
            raise ValueError("std must be above 0")
        return self


ChannelAxis = Literal["first", "last"]


#: Labels of reference models, by where their weights come from.
LABELS = ("pretrained", "initial", "as_built")


class ReferenceModel(Section):
    """A network that is scored but not trained here."""

    network: PathText = Field(description="MODULE:FUNCTION, torchvision:NAME, timm:NAME, or a network.pt")
    kind: str | None = Field(
        None, description="MODULE:FUNCTION that built a network.pt, which the file alone may not choose; empty: nmnc's"
    )
    arguments: dict[str, Any] = Field({}, description="arguments of FUNCTION")
    weights: UserPath | None = Field(
        None, description="state dict or safetensors file, absolute or below the data folder; empty: initial weights"
    )
    weights_key: str | None = Field(None, description="which state dict of weights, where the file has several")
    layers: list[str] = Field(
        [],
        description="names of its modules, or LAYER@STEP for one of several calls; empty: the direct children that run",
    )
    preprocessing: ImagePreprocessing | None = Field(None, description="required unless network is a network.pt")
    channel_axis: ChannelAxis | None = Field(None, description="as in activations, for this model")

    @model_validator(mode="after")
    def _seen_somehow(self) -> "ReferenceModel":
        if ":" in self.network and self.preprocessing is None:
            raise ValueError("preprocessing is missing; set image_size, mean and std")
        if self.kind is not None and (":" not in self.kind or ":" in self.network):
            raise ValueError(f"kind {self.kind!r} must be what built a network.pt (MODULE:FUNCTION); fix or remove it")
        if self.weights_key is not None and self.weights is None:
            raise ValueError(f"weights_key {self.weights_key!r} chooses from a file; add weights")
        if self.network == "pixels":
            raise ValueError("pixels are scored in every study; remove this model")
        return self


def label_of_weights(model: ReferenceModel) -> str:
    """Label a reference model by what was loaded.

    Returns:
        pretrained: a file of weights, or a network.pt. initial: torchvision's or timm's random ones. as_built: those
        that MODULE:FUNCTION gave it.
    """
    if model.weights is not None or ":" not in model.network:
        return "pretrained"
    return "initial" if model.network.partition(":")[0] in LIBRARIES else "as_built"


class Activations(Section):
    """What is recorded of a network's activity, and how it is computed."""

    memory_gb: float = Field(2.0, ge=0.01, le=10**5, description="for batches and buffers, which shrink to fit")
    reduction: Annotated[str, AfterValidator(REDUCTIONS.checked)] = Field(
        "none",
        description="of each layer: all of it, the mean over each channel's map, or fewer dimensions",
        json_schema_extra={"registry": "brain_eval.activations.reductions:REDUCTIONS"},
    )
    reduction_dimensions: int = Field(
        1000, ge=1, le=10**7, description="most values a layer after pca or random_projection"
    )
    reduction_seed: Seed = Field(0, description="seed of random_projection")
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="bfloat16: faster and rounded, by autocast; Spearman of its RDMs with those of float32 at least "
        ".9998 (ResNet-18 with initial weights, four layers, 96 noise images)",
    )
    channels_last: bool | None = Field(
        None,
        description="compute in the channels-last layout, up to 1.6 times as fast on a CPU; the same RDMs (Spearman "
        "1.000000, measured likewise); empty: on a CPU, where the network takes it",
        json_schema_extra={"option": "--channels-last/--contiguous"},
    )
    compression: bool = Field(False, description="compress the files, without loss")
    channel_axis: ChannelAxis | None = Field(
        None,
        description="where channels lie in layers whose output for images of another size does not show it, as in "
        "networks of one image size; spatial_mean needs it there",
    )
