"""Commands take their settings from a study's file, and options of the same names overrule it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from brain_eval.activations.settings import Activations
from brain_eval.options import benchmarks_of, read_evaluation, section_options
from brain_eval.scoring.settings import Scoring
from brain_eval.settings import Evaluation
from nmnc.errors import UserError

CONTENT = {
    "study": "mine",
    "evaluation": {
        "benchmarks": ["simulated", "mine"],
        "benchmark_folders": {"mine": "folder"},
        "metrics": ["pearson"],
        "confidence": 0.9,
        "activations": {"reduction": "pca", "compression": True},
    },
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(CONTENT))
    return path


def run(*arguments: str | Path) -> dict[str, Any]:
    """What a command with both sections is called with."""
    given: dict[str, Any] = {}
    app = typer.Typer()

    @app.command()
    @section_options(scoring=Evaluation.scoring, kept=lambda evaluation: evaluation.activations)
    def command(scoring: Scoring, kept: Activations, evaluation: Evaluation | None) -> None:
        """A command."""
        given.update(scoring=scoring, kept=kept, evaluation=evaluation)

    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(done.exception, UserError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return given


def test_without_options_the_sections_have_their_defaults() -> None:
    assert run() == {"scoring": Scoring(), "kept": Activations(), "evaluation": None}


def test_options_overrule_the_study_which_overrules_the_defaults(config: Path) -> None:
    given = run("--config", config, "--reduction", "none", "--metrics", "spearman,ridge", "--draws", "200")
    assert given["scoring"] == Scoring(metrics=["spearman", "ridge"], confidence=0.9, bootstrap_draws=200)
    assert given["kept"] == Activations(compression=True)
    assert given["evaluation"].benchmarks == ["simulated", "mine"]
    assert run("--config", config, "--no-compression", "--contiguous")["kept"] == Activations(
        reduction="pca", channels_last=False
    )


@pytest.mark.parametrize("section", [Scoring, Activations])
def test_every_key_of_a_section_is_an_option_with_its_description(section: type[Scoring] | type[Activations]) -> None:
    app = typer.Typer()
    app.command()(section_options(given=lambda _: section())(lambda given: None))
    shown = {name for part in typer.main.get_command(app).params for name in (*part.opts, *part.secondary_opts)}
    for key, field in section.model_fields.items():
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        assert str(extra.get("option", f"--{key.replace('_', '-')}")).split("/")[0] in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--memory-gb", "-1"), r"--memory-gb: Input should be greater than or equal to 0\.01 \(got -1\.0\)"),
        (("--metrics", "spearmann"), "--metrics: unknown metric 'spearmann'; did you mean 'spearman'"),
        (("--recorded-rdms", "mahalanobi"), "--recorded-rdms: unknown RDM .* did you mean 'mahalanobis'"),
        (("--reduction", "pcs"), "--reduction: unknown reduction 'pcs'; did you mean 'pca'"),
        (("--channel-axis", "middle"), "--channel-axis: Input should be 'first' or 'last'"),
        (("--metrics", "pearson,pearson"), "--metrics: metrics are repeated; give each once"),
    ],
)
def test_a_wrong_option_is_named(arguments: Sequence[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        run(*arguments)
    assert "\n" not in str(caught.value)


def test_a_wrong_section_is_named_with_its_file(config: Path) -> None:
    config.write_text(yaml.safe_dump({"evaluation": {"metrcs": ["pearson"]}}))
    with pytest.raises(UserError, match=r"study\.yaml: evaluation\.metrcs: unknown key; did you mean 'metrics'"):
        run("--config", config)


def test_benchmarks_come_from_the_command_else_from_the_study(config: Path) -> None:
    evaluation = read_evaluation(config)
    assert benchmarks_of(["other"], evaluation) == ["other"]
    assert benchmarks_of(None, evaluation) == ["simulated", "mine=folder"]
    with pytest.raises(UserError, match="no benchmark to score on; give --benchmark NAME"):
        benchmarks_of(None, None)
