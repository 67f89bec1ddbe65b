# Shared by all rules: the checked study, paths, the command of each stage and its sources.
import json
import shlex
import sys
from functools import cache
from pathlib import Path

sys.path.insert(0, workflow.basedir)

from brain_eval.activations.reductions import REDUCTIONS
from brain_eval.metrics import METRICS, RDMS
from nmnc import runs
from nmnc.rule_kinds import modules_of
from workflow import inputs, records, study
from workflow.owners import remember_owner
from workflow.start import begin, gpu_present, prepare_environment, shortest

# Snakemake merges --configfile into a `configfile:` key by key, so values of the default study would leak into
# every other study. The study is therefore read from one file.
CONFIG, STUDY = begin(workflow.overwrite_configfiles, workflow.config_settings.config)
RESULTS = runs.results_folder(STUDY).as_posix()
DATA = runs.data_folder(STUDY).as_posix()
TRAINED = runs.trained(STUDY)
SCORED = STUDY.scored()
EVALUATION = STUDY.evaluation
RUN_FILES = [
    "network.pt",
    "epochs.csv",
    "alignment.csv",
    "timing.csv",
    "provenance.json",
]
prepare_environment(DATA)
# Runs whose published rows were restored by python -m workflow.records; the claims do not train them again.
PUBLISHED = records.brought_back(STUDY)
GPUS = int(STUDY.device != "cpu" and gpu_present())


wildcard_constraints:
    network="[^/]+",
    label="[^/]+",
    seed=r"\d+",
    benchmark="[^/]+",


envvars:
    "NMNC_DATA",


onstart:
    remember_owner(runs.results_folder(STUDY))


# Cached: the rule train asks once per run, and the answer is the same for all runs of a kind.
@cache
def sources(*modules):
    """Return the source files of these modules and of all that they import from this project."""
    from nmnc.files.sources import closure

    root = Path(workflow.basedir)
    return [shortest(root / path).as_posix() for path in closure(root, modules)]


def benchmark_sources():
    """Return the modules of the study's benchmarks, which are imported by name and so escape `sources`."""
    folders = EVALUATION.benchmark_folders
    names = ["folder" if name in folders else name for name in EVALUATION.benchmarks]
    return [
        "brain_eval.benchmarks",
        *(f"brain_eval.benchmarks.{name}" for name in names),
    ]


def files(paths):
    """Return the user's files as inputs, relative to the working directory if they are below it."""
    return [shortest(path.absolute()).as_posix() for path in paths]


def training_parameters(wildcards):
    """Return the settings that determine the weights, data aside; a change reruns the training."""
    run = STUDY.run(wildcards.label).model_dump(mode="json")
    network = STUDY.networks[wildcards.network].model_dump(mode="json")
    shared = {"threads": STUDY.threads, "device": STUDY.device}
    return json.dumps({"run": run, "network": network} | shared, sort_keys=True)


def pixel_preprocessing():
    """Return the value of --preprocessing for pixels as the study's networks see them: a file or JSON text."""
    if STUDY.networks:
        return f"{RESULTS}/dataset.json"
    given = [model.preprocessing for model in EVALUATION.models.values() if model.preprocessing]
    default = {"image_size": 32, "channels": 3, "mean": [0.0] * 3, "std": [1.0] * 3}
    return given[0].model_dump_json() if given else json.dumps(default)


def model_inputs(wildcards):
    """Return the input files of a model: network.pt, a reference model's files, or the preprocessing of pixels."""
    if wildcards.network == "pixels" and STUDY.networks:
        return pixel_preprocessing()
    if wildcards.network in EVALUATION.models:
        return files(inputs.model_files(STUDY, wildcards.network))
    if wildcards.network not in STUDY.networks:
        return []
    return f"{RESULTS}/networks/{wildcards.network}/{wildcards.label}/seed{wildcards.seed}/network.pt"


def model_options(wildcards):
    """Return the options of `brain_eval extract` that name the model; the study's file defines reference models."""
    if wildcards.network in EVALUATION.models:
        return shlex.join(["--model", wildcards.network])
    if wildcards.network in STUDY.networks:
        kind = STUDY.networks[wildcards.network].kind
        built_by = ["--network", kind] if ":" in kind else []
        return shlex.join(["--model", model_inputs(wildcards), *built_by])
    # The spatial mean of an image is its mean colour, which is not a useful baseline.
    whole = ["--reduction", "none"] if EVALUATION.activations.reduction == "spatial_mean" else []
    return shlex.join(["--model", "pixels", "--preprocessing", pixel_preprocessing(), *whole])


def extraction_parameters(wildcards):
    """Return the settings that determine activations, network and stimuli aside; a change extracts again."""
    model = EVALUATION.models.get(wildcards.network)
    kept = EVALUATION.activations.model_dump(mode="json")
    return json.dumps(kept | {"model": model and model.model_dump(mode="json")}, sort_keys=True)


def kind_of(wildcards):
    """Return the kind of rule that a scored model was trained by."""
    key = (wildcards.network, wildcards.label, int(wildcards.seed))
    return next(one.kind for one in SCORED if (one.network, one.rule, one.seed) == key)


def per_identity(pattern):
    """Return `pattern` with {folder} filled in for every scored model."""
    return [pattern.format(folder=identity.folder) for identity in SCORED]


def measured_on(wildcards):
    """Return the settings that determine the table, network and images aside; a change measures again."""
    shared = {
        "dataset": STUDY.dataset.model_dump(mode="json") if STUDY.dataset else None,
        "held_out": STUDY.diagnostics.images,
        "threads": STUDY.threads,
        "device": STUDY.device,
    }
    return json.dumps(shared, sort_keys=True)


def verdicts():
    """Return the table of verdicts if it exists, so that the report shows it."""
    path = f"{RESULTS}/tables/claims.csv"
    return [path] if Path(path).exists() else []
