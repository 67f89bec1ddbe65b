"""The section `evaluation` of a study: what is scored, on what, and how."""

from pydantic import Field

from brain_eval.activations.settings import Activations, ReferenceModel
from brain_eval.scoring.settings import Scoring
from nmnc.sections import Name, UserPath


class Evaluation(Scoring):
    """What is scored, on what, and how; nmnc never reads this section."""

    benchmarks: list[Name] = Field(
        ["simulated"], description="names of the registry or of benchmark_folders; none: nothing is scored"
    )
    rules: list[Name] | None = Field(None, description="labels of the rules to score; empty: all")
    benchmark_folders: dict[Name, UserPath] = Field({}, description="your own benchmarks: name -> folder")
    models: dict[Name, ReferenceModel] = Field({}, description="reference models to score beside the rules")
    activations: Activations = Activations()

    def scoring(self) -> Scoring:
        """Return the keys that say how layers are compared with recordings."""
        return Scoring(**{key: getattr(self, key) for key in Scoring.model_fields})

    def specs(self) -> list[str]:
        """Return the benchmarks as commands take them: NAME, or NAME=FOLDER for a folder of the user's."""
        folders = self.benchmark_folders
        return [f"{name}={folders[name]}" if name in folders else name for name in self.benchmarks]
