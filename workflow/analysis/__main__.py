"""Command line: python -m workflow.analysis COMMAND. Each command reads a whole study, results/STUDY."""

from pathlib import Path
from typing import Annotated

import typer

from nmnc.command_line import run_command

app = typer.Typer(
    help=__doc__,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Config = Annotated[Path, typer.Option(help="The study's YAML file.")]
Results = Annotated[Path, typer.Option(help="The study's folder, results/STUDY.")]
Confidence = Annotated[float, typer.Option(min=0.5, max=0.999, help="Coverage of each interval.")]


@app.command()
def tables(results: Results, confidence: Confidence = 0.95) -> None:
    """Collect the study's CSVs into results/STUDY/tables."""
    from workflow.analysis.tables import write_tables

    write_tables(results, confidence)


@app.command()
def claims(
    results: Results,
    predictions: Annotated[Path, typer.Option(help="YAML file of predictions.")],
    tier: Annotated[str, typer.Option(help="CPU or GPU: where the runs were made.")] = "CPU",
    confidence: Confidence = 0.95,
) -> None:
    """Compute the verdicts on the claims from the runs finished so far: tables/claims.csv and tables/claims/."""
    from workflow.claims.tables import write_claims

    write_claims(results, predictions, tier, confidence)


@app.command()
def report(
    results: Results,
    config: Config,
    data: Annotated[Path, typer.Option(help="Folder that holds the data sets.", envvar="NMNC_DATA")] = Path("data"),
) -> None:
    """Draw results/STUDY/figures and write results/STUDY/report.html, one file that opens offline."""
    from workflow.analysis.report import write_report

    write_report(results, config, data)


def main() -> None:
    """Run a command; `nmnc.command_line` says how it ends."""
    run_command(app, "workflow.analysis")


if __name__ == "__main__":
    main()
