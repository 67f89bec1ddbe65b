# Activations: one job per network, rule and seed, for all layers and benchmarks.


rule extract:
    input:
        model=model_inputs,
        benchmarks=rules.benchmarks.output,
        sources=sources(
            "brain_eval.activations.extraction",
            "brain_eval.activations.models",
            *benchmark_sources(),
            REDUCTIONS.module(EVALUATION.activations.reduction),
        ),
    output:
        [f"{RESULTS}/activations/{{network}}/{{label}}/seed{{seed}}/{name}.nc" for name in EVALUATION.benchmarks],
    log:
        f"{RESULTS}/logs/extract/{{network}}-{{label}}-seed{{seed}}.log",
    benchmark:
        f"{RESULTS}/timing/extract/{{network}}-{{label}}-seed{{seed}}.tsv"
    conda:
        "../../environment.yml"
    threads: STUDY.threads
    resources:
        # The budget, plus 2 GB for the process with torch and the weights.
        mem_mb=int(1000 * EVALUATION.activations.memory_gb) + 2000,
        gpu=GPUS,
    params:
        model=model_options,
        config=CONFIG.as_posix(),
        device=STUDY.device,
        parameters=extraction_parameters,
        out=subpath(output[0], parent=True),
    message:
        "extract activations of {wildcards.network}, {wildcards.label}, seed {wildcards.seed}"
    shell:
        "python -m brain_eval extract --config {params.config:q} {params.model} --device {params.device}"
        " --threads {threads} --out {params.out:q} 2> {log:q}"
