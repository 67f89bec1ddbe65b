"""The model of a whole study: what nmnc trains and what brain_eval scores."""

from collections.abc import Iterator
from pathlib import Path

from pydantic import model_validator

from brain_eval.activations.settings import LABELS, label_of_weights
from brain_eval.settings import Evaluation
from nmnc import config
from nmnc.runs import Identity, trained

#: Kinds in runs.csv that are scored but not trained here.
REFERENCES = (*LABELS, "pixels")


class Study(config.Study):
    """One study: networks x rules x seeds, scored on benchmarks."""

    evaluation: Evaluation = Evaluation()

    @model_validator(mode="after")
    def _something_to_score(self) -> "Study":
        if not self.networks and not self.evaluation.models:
            raise ValueError("nothing to do; add a network to networks or a model to evaluation.models")
        for label in self.evaluation.rules or []:
            self.refuse_unknown_rule("evaluation.rules", label)
        models = set(self.evaluation.models)
        taken = {"pixels"} & (set(self.networks) | models) | set(self.networks) & models
        if taken:
            raise ValueError(f"the name {min(taken)!r} is used twice or reserved; rename that network or model")
        return self

    def names_together(self) -> Iterator[tuple[str, str, str]]:
        """Extend nmnc's pairs by each benchmark with each network and model."""
        yield from super().names_together()
        for name in self.evaluation.benchmarks:
            for model in (*self.networks, *self.evaluation.models):
                yield "evaluation.benchmarks {} and {}", name, model

    def files(self) -> Iterator[tuple[str, str]]:
        """Extend nmnc's files by those of reference models and the variables of benchmarks."""
        yield from super().files()
        for name in self.evaluation.models:
            yield from ((f"{name}-{label}", f"evaluation.models.{name}") for label in LABELS)
            yield f"figure {name.replace('_', '-')}", f"the name {name!r}"
        for name in self.evaluation.benchmarks:
            for variable in (name, f"layer_{name}", f"row_{name}", f"column_{name}", f"stimulus_id_{name}"):
                yield f"variable {variable.replace('_', '-')}", f"the benchmark {name!r}"

    def scored(self) -> list[Identity]:
        """Return the trained networks, reference models and pixels that are scored on the benchmarks."""
        if not self.evaluation.benchmarks:
            return []
        labels = self.evaluation.rules
        chosen = [run for run in trained(self) if labels is None or run.rule in labels]
        return [*chosen, *references(self)]


def load_study(path: Path) -> Study:
    """Read and check all sections of a study's YAML file; UserError as `nmnc.config.load_study`."""
    return config.study_from(config.read_study(path), str(path), Study)


def diagnosed(study: Study) -> list[Identity]:
    """Return the trained networks whose manifold is measured."""
    return [run for run in trained(study) if study.diagnosed is None or run.rule in study.diagnosed]


def references(study: Study) -> list[Identity]:
    """Return the reference models and the pixels, which are scored but not trained."""
    labels = {name: label_of_weights(model) for name, model in study.evaluation.models.items()}
    models = [Identity(name, label, label, 0) for name, label in labels.items()]
    return [*models, Identity("pixels", "pixels", "pixels", 0)]
