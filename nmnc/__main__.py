"""Command line: python -m nmnc COMMAND. Each command is one stage of the workflow."""

import json
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated

import typer

from nmnc.command_line import finite, run_command
from nmnc.config import Study, load_study
from nmnc.errors import UserError
from nmnc.files.writing import write_csv, write_text
from nmnc.runs import data_folder, parameters, sweep_points
from nmnc.settings import ACTIVITY_IMAGES

app = typer.Typer(
    help=__doc__,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
Config = Annotated[Path, typer.Option(help="The study's YAML file.")]


def load_full_study(config: Path) -> Study:
    """Read a study with the sections of installed packages that score it (entry point nmnc.study)."""
    readers = [load_study, *(entry.load() for entry in entry_points(group="nmnc.study"))]
    study: Study = readers[-1](config)
    return study


@app.command()
def check(
    config: Config,
    settings: Annotated[
        bool, typer.Option("--settings", help="Check only the file itself, in half a second: no data, no networks.")
    ] = False,
) -> None:
    """Check a study's file, its data, its networks and its rules; silent when all is well."""
    study = load_full_study(config)
    if settings:
        return
    from nmnc.training.job import check as check_study

    try:
        for warning in check_study(study):
            typer.echo(f"nmnc: warning: {config}: {warning}", err=True)
    except UserError as error:
        raise UserError(f"{config}: {error}") from None


@app.command()
def fetch(config: Config, out: Annotated[Path, typer.Option(help="JSON file to write.")]) -> None:
    """Find or download the training data and write their description as JSON."""
    from nmnc.data.dataset import load_dataset

    study = load_study(config)
    if study.dataset is None:
        raise UserError(f"{config}: it has no dataset; add dataset.name")
    dataset = load_dataset(study.dataset, data_folder(study))
    facts = dataset.facts() | {"preprocessing": dataset.preprocessing(), "classes": dataset.classes}
    write_text(out, json.dumps(facts, indent=2) + "\n", digest=True)


@app.command()
def train(
    config: Config,
    rule: Annotated[str, typer.Option(help="A label of the section rules, or untrained.")],
    network: Annotated[
        str | None, typer.Option(help="A name of the section networks; may be left out where the rule trains one.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1)] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder to write to; default: below results/STUDY.")] = None,
    wait: Annotated[
        float,
        typer.Option(
            min=0, max=10**9, callback=finite, help="Seconds to wait for another process that trains this run."
        ),
    ] = 0.0,
) -> None:
    """Train one network by one rule from one seed; run the same command to resume a killed run."""
    from nmnc.training.job import train_job

    study = load_study(config)
    if network is None:
        names = study.networks_of(rule)
        if len(names) != 1:
            raise UserError(f"{config}: {len(names)} networks to train; give --network {' or '.join(names) or 'NAME'}")
        network = names[0]
    train_job(study, network, rule, seed, out, wait)


@app.command()
def runs(
    config: Config,
    out: Annotated[Path, typer.Option(help="CSV file to write.")],
    sweeps: Annotated[Path | None, typer.Option(help="CSV file to write the points of the sweeps to.")] = None,
) -> None:
    """Write the table of runs: labels, kinds, seeds and every parameter."""
    study = load_full_study(config)
    rows = list(parameters(study))
    columns = list(dict.fromkeys(key for row in rows for key in row))
    write_csv(out, columns, rows, digest=True)
    if sweeps is not None:
        write_csv(sweeps, ("sweep", "rule", "label", "value", "values"), list(sweep_points(study)), digest=True)


@app.command()
def search(
    config: Config,
    out: Annotated[Path, typer.Option(help="CSV file to write.")],
    unfinished: Annotated[
        bool, typer.Option(help="Allow trials without results, whose runs stopped; they are never chosen.")
    ] = False,
) -> None:
    """Write the table of a search: every trial's accuracy on held-out training images, the best marked."""
    from nmnc.runs import results_folder
    from nmnc.training.search import COLUMNS, rows

    study = load_study(config)
    write_csv(out, COLUMNS, list(rows(study, results_folder(study), unfinished)), digest=True)


@app.command()
def diagnose(
    config: Config,
    network: Annotated[Path, typer.Option(help="The network.pt of a run, trained or not.")],
    out: Annotated[Path, typer.Option(help="CSV file to write.")],
    images: Annotated[
        int, typer.Option(min=1, max=10**6, help="Number of test images whose activity is measured.")
    ] = ACTIVITY_IMAGES,
    seed: Annotated[
        int, typer.Option(min=0, max=2**63 - 1, help="Seed for choosing images and for the random subspaces.")
    ] = 0,
    kind: Annotated[str, typer.Option(help="MODULE:FUNCTION that built it, where the study names none for it.")] = "",
) -> None:
    """Measure a network's manifold: its dimension, and how much of the Jacobian lies along it."""
    from nmnc.training.measure_job import measure_job

    measure_job(load_study(config), network, out, images, seed, kind)


def main() -> None:
    """Run a command; `nmnc.command_line` turns errors into one line and an exit status."""
    run_command(app, "nmnc")


if __name__ == "__main__":
    main()
