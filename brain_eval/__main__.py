"""Command line: python -m brain_eval COMMAND. Each command is one stage of the workflow."""

from pathlib import Path
from typing import Annotated

import typer

from brain_eval.activations.reductions import REDUCTIONS
from brain_eval.metrics import METRICS, RDMS
from nmnc.command_line import finite, run_command
from nmnc.errors import UserError

app = typer.Typer(
    help=__doc__,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Benchmarks = Annotated[
    list[str], typer.Option("--benchmark", help="NAME, or NAME=FOLDER for a folder of your own; repeatable.")
]
Confidence = Annotated[float, typer.Option(min=0.5, max=0.999, callback=finite, help="Coverage of each interval.")]
Kind = Annotated[
    str,
    typer.Option(
        "--network", "--kind", help="MODULE:FUNCTION that built a network.pt; the file alone may not choose it."
    ),
]
Data = Annotated[Path, typer.Option(help="Folder that holds the data sets.", envvar="NMNC_DATA")]


def _moved(context: typer.Context) -> None:
    """Say where a command is now."""
    name = context.info_name
    raise UserError(f"{name} reads a whole study; run python -m workflow.analysis {name}, with the same options")


@app.command()
def benchmarks(
    data: Data = Path("data"),
    files: Annotated[
        bool, typer.Option("--files", help="List the files behind them: place, size, hash, address, here or not.")
    ] = False,
) -> None:
    """List every benchmark: species, region, stimuli, neurons, licence, citation, data here or not."""
    from brain_eval.benchmarks import listing, listing_of_files

    typer.echo(listing_of_files(data) if files else listing(data))


@app.command()
def check(
    benchmark: Annotated[list[str] | None, typer.Option(help="NAME, or NAME=FOLDER of your own; repeatable.")] = None,
    model_spec: Annotated[
        list[str] | None,
        typer.Option(
            help='JSON {"network": "MODULE:FUNCTION", "arguments": {}, "weights": "FILE", "weights_key": "KEY", '
            '"layers": ["..."], "preprocessing": {..}, "kind": .., "channel_axis": ..}; all but network may be left '
            "out; repeatable."
        ),
    ] = None,
    data: Data = Path("data"),
    metrics: Annotated[str, typer.Option(help="Comma-separated, as of score: what the folders must have data for.")] = (
        "spearman,rho-a"
    ),
    recorded_rdms: Annotated[str, typer.Option(help="Comma-separated, as of score.")] = "correlation",
    reduction: Annotated[str, typer.Option(help="As of extract: which channels must be known depends on it.")] = "none",
    channel_axis: Annotated[str | None, typer.Option(help="As of extract, for models without their own.")] = None,
) -> None:
    """Load folders of your own, and reference models, which see images, to refuse mistakes early."""
    from brain_eval.check import check_all

    check_all(
        model_spec or [], benchmark or [], data, metrics.split(","), recorded_rdms.split(","),
        reduction=reduction, channel_axis=channel_axis,
    )  # fmt: skip


@app.command()
def fetch(
    benchmark: Benchmarks,
    out: Annotated[Path, typer.Option(help="Folder; one NAME.json per benchmark is written there.")],
    data: Data = Path("data"),
) -> None:
    """Find or download each benchmark's files, check their hashes, write OUT/NAME.json for each."""
    from brain_eval.benchmarks import fetch_all

    fetch_all(benchmark, data, out)


@app.command()
def extract(  # noqa: PLR0913
    model: Annotated[str, typer.Option(help="network.pt, MODULE:FUNCTION, torchvision:NAME, timm:NAME, pixels.")],
    benchmark: Benchmarks,
    out: Annotated[Path, typer.Option(help="Folder; one NAME.nc per benchmark is written there.")],
    data: Data = Path("data"),
    layers: Annotated[
        str, typer.Option(help="Comma-separated LAYER or LAYER@STEP; empty: all stages, or the children that run.")
    ] = "",
    weights: Annotated[
        Path | None, typer.Option(help="State dict or safetensors file, for all but network.pt.")
    ] = None,
    weights_key: Annotated[str, typer.Option(help="Which state dict of --weights, where it has several.")] = "",
    arguments: Annotated[str, typer.Option(help="JSON object of arguments for MODULE:FUNCTION.")] = "{}",
    preprocessing: Annotated[
        str,
        typer.Option(
            help='JSON {"image_size": 32, "channels": 3, "mean": [..], "std": [..]}, or a .json file with it.'
        ),
    ] = "",
    batch_size: Annotated[int, typer.Option(min=1, max=10**6)] = 256,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int, typer.Option(min=1, max=1024, help="Torch's threads.")] = 1,
    memory_gb: Annotated[
        float, typer.Option(min=0.01, max=10**5, callback=finite, help="For batches and buffers, which shrink to fit.")
    ] = 2.0,
    reduction: Annotated[str, typer.Option(help=f"One of {', '.join(REDUCTIONS)}.")] = "none",
    reduction_dimensions: Annotated[
        int, typer.Option(min=1, max=10**7, help="Most values a layer after the last two.")
    ] = 1000,
    reduction_seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the random projection.")] = 0,
    dtype: Annotated[str, typer.Option(help="float32, or bfloat16 by autocast.")] = "float32",
    channels_last: Annotated[
        bool | None,
        typer.Option(
            "--channels-last/--contiguous",
            help="Memory layout of the computation; neither: channels last on a CPU, where the network takes it.",
        ),
    ] = None,
    compression: Annotated[bool, typer.Option("--compression", help="Compress the files, without loss.")] = False,
    channel_axis: Annotated[
        str | None, typer.Option(help="first or last: of layers whose channels no image of another size shows.")
    ] = None,
    network: Kind = "",
) -> None:
    """Write a model's activations to every stimulus of the benchmarks, as NetCDF."""
    from brain_eval.activations.extraction import Settings, extract_all
    from brain_eval.activations.models import load_model
    from brain_eval.activations.reductions.reduction import Reduction

    kept = Reduction(reduction, reduction_dimensions, reduction_seed)
    settings = Settings(memory_gb, kept, dtype, channels_last, compression, channel_axis)
    loaded = load_model(model, layers, weights, arguments, preprocessing, kind=network, weights_key=weights_key)
    extract_all(loaded, benchmark, data, out, batch_size=batch_size, device=device, threads=threads, settings=settings)


@app.command()
def score(  # noqa: PLR0913
    activations: Annotated[Path, typer.Option(help="Folder with one NAME.nc per benchmark.")],
    benchmark: Benchmarks,
    out: Annotated[Path, typer.Option(help="CSV of scores to write.")],
    rdms: Annotated[Path, typer.Option(help="NetCDF of the model's RDMs to write (small benchmarks only).")],
    data: Data = Path("data"),
    identity: Annotated[str, typer.Option(help="network,rule,kind,seed: who is scored.")] = "network,rule,kind,0",
    metrics: Annotated[
        str,
        typer.Option(
            help=f"Comma-separated: {', '.join(METRICS)}. CKA, ridge and pls score recordings that have responses."
        ),
    ] = "spearman,rho-a",
    draws: Annotated[int, typer.Option(min=1, max=10**6, help="Bootstrap draws.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
    confidence: Confidence = 0.95,
    draws_file: Annotated[Path | None, typer.Option(help="NetCDF of the draws to write, to compare models.")] = None,
    ceilings: Annotated[Path | None, typer.Option(help="Folder that keeps noise ceilings between calls.")] = None,
    recorded_rdms: Annotated[
        str,
        typer.Option(
            help=f"Comma-separated kinds of the recordings' RDMs: {', '.join(RDMS)}. The last two need repetitions."
        ),
    ] = "correlation",
) -> None:
    """Compare one model with each benchmark's recordings, layer by layer."""
    from brain_eval.scoring.scores import score_model

    score_model(
        activations, benchmark, data, out, rdms,
        identity=identity, metrics=metrics.split(","), draws=draws, seed=seed, confidence=confidence,
        draws_out=draws_file, ceilings=ceilings, recorded_rdms=recorded_rdms.split(","),
    )  # fmt: skip


for _name in ("tables", "claims", "report"):
    app.command(_name, hidden=True, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(_moved)


@app.command("brainscore-model")
def brainscore_model(
    checkpoint: Annotated[Path, typer.Argument(help="A trained network.pt.")],
    out: Annotated[Path, typer.Option(help="Folder; the plug-in's folder is written there.")] = Path("plugins"),
    region: Annotated[
        list[str] | None,
        typer.Option(help="REGION=LAYER, e.g. V4=conv3; repeatable. Left out: by the order of the layers."),
    ] = None,
    layers: Annotated[str, typer.Option(help="Comma-separated layers to commit; empty: all stages.")] = "",
    visual_degrees: Annotated[
        float,
        typer.Option(min=0.01, max=360, callback=finite, help="Width of the images the network sees, in degrees."),
    ] = 8.0,
    pls: Annotated[
        list[str] | None,
        typer.Option(help="majajhong2015public or freemanziemba2013public: score every layer by Brain-Score; slow."),
    ] = None,
    data: Data = Path("data"),
    network: Kind = "",
) -> None:
    """Make a trained network a Brain-Score model: a plug-in folder for brainscore_vision.score."""
    from brain_eval.brainscore.model import parse_regions
    from brain_eval.brainscore.plugin import how_to_use, write_plugin

    identifier, folder = write_plugin(
        checkpoint, out, layers=layers, region_layer_map=parse_regions(region or []), visual_degrees=visual_degrees,
        kind=network,
    )  # fmt: skip
    typer.echo(how_to_use(identifier, folder))
    if pls:
        from brain_eval.activations.models import load_model
        from brain_eval.brainscore.pls import write_pls

        write_pls(load_model(str(checkpoint), layers, kind=network), pls, data, out / f"{identifier}-pls.csv")


def main() -> None:
    """Run a command; `nmnc.command_line` says how it ends."""
    run_command(app, "brain_eval")


if __name__ == "__main__":
    main()
