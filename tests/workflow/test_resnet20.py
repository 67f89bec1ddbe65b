"""Bring your own network: config/resnet20.yaml by Snakemake reproduces what is known of a trained ResNet-20."""

import csv
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.places import ROOT

#: Spearman correlation with macaque IT at 32 x 32 pixels, from an independent implementation.
KNOWN = {"relu": 0.151, "layer1": 0.230, "layer2": 0.213, "layer3": 0.308, "linear": 0.304}


@pytest.mark.real_data
@pytest.mark.end_to_end
@pytest.mark.slow
def test_the_trained_resnet20_scores_what_it_is_known_to(data_folder: Callable[..., Path], tmp_path: Path) -> None:
    data = data_folder("kriegeskorte2008", "resnet_cifar10/resnet20-12fca82f.th")
    environment = os.environ | {"NMNC_DATA": str(data.resolve()), "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [
            str(Path(sys.executable).with_name("snakemake")), "--snakefile", str(ROOT / "Snakefile"), "--cores", "2",
            "--configfile", str(ROOT / "config/resnet20.yaml"),
            "--workflow-profile", str(ROOT / "profiles/default"), "results/resnet20/tables/scores.csv",
        ],
        cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout
    with (tmp_path / "results/resnet20/tables/scores.csv").open() as file:
        scores = {
            row["layer"]: float(row["raw"])
            for row in csv.DictReader(file)
            if (row["network"], row["species"], row["metric"]) == ("resnet20", "macaque", "spearman")
        }
    assert scores == pytest.approx(KNOWN, abs=0.01)
