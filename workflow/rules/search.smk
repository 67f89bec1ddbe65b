# The search for step sizes: a study whose sweeps are trials, compared on held-out training images.


rule trained:
    input:
        [f"{RESULTS}/networks/{run.folder}/{name}" for run in TRAINED for name in RUN_FILES],
    message:
        "all networks of the study are trained"


rule search:
    input:
        rules.trained.input,
        sources("nmnc.training.search"),
    output:
        f"{RESULTS}/tables/search.csv",
    log:
        f"{RESULTS}/logs/search.log",
    benchmark:
        f"{RESULTS}/timing/search.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=500,
    params:
        config=CONFIG.as_posix(),
    message:
        "write the table of the search"
    shell:
        "python -m nmnc search --config {params.config:q} --out {output:q} 2> {log:q}"
