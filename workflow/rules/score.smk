# Scores: one job per network, rule and seed, for all layers, benchmarks and metrics.


rule score:
    input:
        activations=rules.extract.output,
        sources=sources(
            "brain_eval.scoring.scores",
            *benchmark_sources(),
            *map(METRICS.module, EVALUATION.metrics),
            *map(RDMS.module, EVALUATION.recorded_rdms),
        ),
    output:
        scores=f"{RESULTS}/scores/{{network}}/{{label}}/seed{{seed}}.csv",
        rdms=f"{RESULTS}/scores/{{network}}/{{label}}/seed{{seed}}_rdms.nc",
        draws=f"{RESULTS}/scores/{{network}}/{{label}}/seed{{seed}}_draws.nc",
        codebook=f"{RESULTS}/scores/{{network}}/{{label}}/seed{{seed}}_codebook.csv",
    log:
        f"{RESULTS}/logs/score/{{network}}-{{label}}-seed{{seed}}.log",
    benchmark:
        f"{RESULTS}/timing/score/{{network}}-{{label}}-seed{{seed}}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=4000,
    params:
        activations=lambda wildcards, input: Path(input.activations[0]).parent,
        config=CONFIG.as_posix(),
        # Not an output: its files are content-addressed and shared by all networks.
        ceilings=f"{RESULTS}/benchmarks/ceilings",
        identity=lambda wildcards: ",".join([wildcards.network, wildcards.label, kind_of(wildcards), wildcards.seed]),
        # The command reads these from the study's file; as params, a change of them reruns the rule.
        settings=EVALUATION.scoring().model_dump_json(),
    message:
        "score {wildcards.network}, {wildcards.label}, seed {wildcards.seed}, against the recordings"
    shell:
        "python -m brain_eval score --activations {params.activations:q} --config {params.config:q}"
        " --out {output.scores:q} --rdms {output.rdms:q} --draws-file {output.draws:q} --ceilings {params.ceilings:q}"
        " --identity {params.identity:q} 2> {log:q}"
