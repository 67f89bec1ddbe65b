"""Macaque V1 (102 neurons) and V2 (103 neurons): 135 images of textures and of noise matched to them.

Freeman, Ziemba et al. 2013, the public part as Brain-Score serves it: spikes in bins of 1 ms, here as in
Brain-Score averaged between 50 and 200 ms; repetitions of each image, seen through an aperture.
"""

from functools import partial

from brain_eval.benchmarks.base import Description
from brain_eval.benchmarks.public import assembly as brainscore
from brain_eval.benchmarks.public.assembly import Pin, PublicAssembly

SOURCE = PublicAssembly(
    identifier="movshon.FreemanZiemba2013.public",
    stimulus_set="FreemanZiemba2013.aperture-public",
    assembly=Pin("761c08f796db4e342555cdb60eef23a4f19ead43", "W2vx7jdh9utZdVumHHarXa4L1zOrA8Fd"),
    table=Pin("194c9b301a4e3e9cff02481d4c19b39331d52660"),
    images=Pin("3a6fec1fc28c212882d6833e267ea8654d289611"),
    species="macaque",
    degrees=4,
    category="texture_type",
    window=(50, 200),
    pls={"V1": "FreemanZiemba2013public.V1-pls", "V2": "FreemanZiemba2013public.V2-pls"},
)

DESCRIPTION = Description(
    name="freemanziemba2013public",
    version=1,
    species=("macaque",),
    regions=("V1", "V2"),
    citation=(
        "Freeman et al. (2013) A functional and perceptual signature of the second visual area in primates. "
        "Nat Neurosci 16:974-981. doi:10.1038/nn.3402; through Brain-Score: Schrimpf et al. (2018) bioRxiv. "
        "doi:10.1101/407007"
    ),
    licence="none stated (public on Brain-Score)",
    files=SOURCE.files,
    n_stimuli=135,
    n_neuroids="102 V1 neurons, 103 V2 neurons",
    stratified=True,
)
#: Load one recording per region; UserError for a file that cannot be downloaded or is not the registered one.
load = partial(brainscore.load, DESCRIPTION, SOURCE)
