"""Macaque V4 (88 sites) and IT (168 sites): 3,200 images of objects on natural backgrounds.

Majaj et al. 2015, the public part as Brain-Score serves it: multi-unit responses between 70 and 170 ms
of two animals, many repetitions of each image.
"""

from functools import partial

from brain_eval.benchmarks.base import Description
from brain_eval.benchmarks.public import assembly as brainscore
from brain_eval.benchmarks.public.assembly import Pin, PublicAssembly

SOURCE = PublicAssembly(
    identifier="dicarlo.MajajHong2015.public",
    stimulus_set="hvm-public",
    assembly=Pin("13d28ca0ce88ee550b54db3004374ae19096e9b9"),
    table=Pin("5ca7a3da00d8e9c694a9cd725df5ba0ad6d735af"),
    images=Pin("8aa44e038d7b551efa8077467622f9d48d72e473"),
    species="macaque",
    degrees=8,
    category="object_name",
    pls={"V4": "MajajHong2015public.V4-pls", "IT": "MajajHong2015public.IT-pls"},
)

DESCRIPTION = Description(
    name="majajhong2015public",
    version=1,
    species=("macaque",),
    regions=("V4", "IT"),
    citation=(
        "Majaj et al. (2015) Simple learned weighted sums of inferior temporal neuronal firing rates accurately "
        "predict human core object recognition performance. J Neurosci 35:13402-13418. "
        "doi:10.1523/JNEUROSCI.5181-14.2015; through Brain-Score: Schrimpf et al. (2018) bioRxiv. doi:10.1101/407007"
    ),
    licence="none stated (public on Brain-Score)",
    files=SOURCE.files,
    n_stimuli=3200,
    n_neuroids="88 V4 sites, 168 IT sites",
    stratified=True,
)
#: Load one recording per region; UserError for a file that cannot be downloaded or is not the registered one.
load = partial(brainscore.load, DESCRIPTION, SOURCE)
