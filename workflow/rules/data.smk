# Data: found in the data folder or downloaded to it, and described beside the results.


rule dataset:
    input:
        sources("nmnc.data.dataset"),
        files(inputs.dataset_files(STUDY)),
    output:
        f"{RESULTS}/dataset.json",
    log:
        f"{RESULTS}/logs/dataset.log",
    benchmark:
        f"{RESULTS}/timing/dataset.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=3000,
    params:
        config=CONFIG.as_posix(),
        dataset=STUDY.dataset.model_dump_json() if STUDY.dataset else "",
    message:
        "find or download training images"
    shell:
        "python -m nmnc fetch --config {params.config:q} --out {output:q} 2> {log:q}"


rule benchmarks:
    input:
        sources(*benchmark_sources()),
        files(inputs.benchmark_files(STUDY)),
    output:
        [f"{RESULTS}/benchmarks/{name}.json" for name in EVALUATION.benchmarks],
    log:
        f"{RESULTS}/logs/benchmarks.log",
    benchmark:
        f"{RESULTS}/timing/benchmarks.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        config=CONFIG.as_posix(),
        benchmarks=EVALUATION.specs(),
        out=subpath(output[0], parent=True),
    message:
        "find or download benchmarks and check their hashes"
    shell:
        "python -m brain_eval fetch --config {params.config:q} --out {params.out:q} 2> {log:q}"
