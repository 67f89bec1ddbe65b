"""Command line: python -m brain_eval COMMAND. Each command is a stage of the workflow."""

from pathlib import Path
from typing import Annotated

import typer

from brain_eval.activations.settings import Activations
from brain_eval.options import Config, benchmarks_of, read_evaluation, section_options
from brain_eval.scoring.settings import Scoring
from brain_eval.settings import Evaluation
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
    list[str] | None,
    typer.Option(
        "--benchmark", help="NAME, or NAME=FOLDER for a folder of your own; repeatable; left out: those of --config."
    ),
]
Kind = Annotated[
    str,
    typer.Option(
        "--network", "--kind", help="MODULE:FUNCTION that built a network.pt; the file alone may not choose it."
    ),
]
Data = Annotated[Path, typer.Option(help="Folder that holds the data sets.", envvar="NMNC_DATA")]


def activations_of(evaluation: Evaluation) -> Activations:
    """Return the section that defines what is recorded of a network's activity."""
    return evaluation.activations


def _moved(context: typer.Context) -> None:
    """Raise UserError with the command that replaces this one."""
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
@section_options(scoring=Evaluation.scoring, kept=activations_of)
def check(
    scoring: Scoring,
    kept: Activations,
    evaluation: Evaluation | None,
    benchmark: Benchmarks = None,
    model_spec: Annotated[
        list[str] | None,
        typer.Option(
            help='JSON of a model: {"network": "MODULE:FUNCTION", ..}, keys as in evaluation.models; repeatable.'
        ),
    ] = None,
    data: Data = Path("data"),
) -> None:
    """Check benchmark folders and reference models before a study runs: load each, and show images to each model."""
    from brain_eval.check import check_all, read_model

    models = dict(map(read_model, model_spec or [])) | (evaluation.models if evaluation else {})
    specs = benchmarks_of(benchmark, evaluation) if benchmark or evaluation else []
    check_all(models, specs, data, scoring, kept)


@app.command()
def fetch(
    out: Annotated[Path, typer.Option(help="Folder; one NAME.json per benchmark is written there.")],
    benchmark: Benchmarks = None,
    data: Data = Path("data"),
    config: Config = None,
) -> None:
    """Find or download each benchmark's files, check their hashes, write OUT/NAME.json for each."""
    from brain_eval.benchmarks import fetch_all

    fetch_all(benchmarks_of(benchmark, read_evaluation(config) if config else None), data, out)


@app.command()
@section_options(kept=activations_of)
def extract(  # noqa: PLR0913 (options of a command)
    kept: Activations,
    evaluation: Evaluation | None,
    out: Annotated[Path, typer.Option(help="Folder; one NAME.nc per benchmark is written there.")],
    model: Annotated[
        str, typer.Option(help="network.pt, MODULE:FUNCTION, torchvision:NAME, timm:NAME, pixels, or NAME of --config.")
    ],
    benchmark: Benchmarks = None,
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
    network: Kind = "",
    batch_size: Annotated[int, typer.Option(min=1, max=10**6)] = 256,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int, typer.Option(min=1, max=1024, help="Torch's threads.")] = 1,
) -> None:
    """Write a model's activations to every stimulus of the benchmarks, as NetCDF."""
    from brain_eval.activations.extraction import extract_all
    from brain_eval.activations.models import load_model, load_reference

    if evaluation and model in evaluation.models:
        given = evaluation.models[model]
        loaded = load_reference(given, data)
        kept = kept.model_copy(update={"channel_axis": given.channel_axis or kept.channel_axis})
    else:
        loaded = load_model(model, layers, weights, arguments, preprocessing, kind=network, weights_key=weights_key)
    specs = benchmarks_of(benchmark, evaluation)
    extract_all(loaded, specs, data, out, batch_size=batch_size, device=device, threads=threads, settings=kept)


@app.command()
@section_options(settings=Evaluation.scoring)
def score(  # noqa: PLR0913 (options of a command)
    settings: Scoring,
    evaluation: Evaluation | None,
    activations: Annotated[Path, typer.Option(help="Folder with one NAME.nc per benchmark.")],
    out: Annotated[Path, typer.Option(help="CSV of scores to write.")],
    rdms: Annotated[Path, typer.Option(help="NetCDF of the model's RDMs to write (small benchmarks only).")],
    benchmark: Benchmarks = None,
    data: Data = Path("data"),
    identity: Annotated[str, typer.Option(help="network,rule,kind,seed: who is scored.")] = "network,rule,kind,0",
    draws_file: Annotated[Path | None, typer.Option(help="NetCDF of the draws to write, to compare models.")] = None,
    ceilings: Annotated[Path | None, typer.Option(help="Folder that keeps noise ceilings between calls.")] = None,
) -> None:
    """Compare one model with each benchmark's recordings, layer by layer."""
    from brain_eval.scoring.scores import Outputs, score_model

    outputs, specs = Outputs(out, rdms, draws_file), benchmarks_of(benchmark, evaluation)
    score_model(activations, specs, data, outputs, identity=identity, settings=settings, ceilings=ceilings)


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
