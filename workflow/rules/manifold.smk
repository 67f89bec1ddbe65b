# The manifold of every trained network: its dimension, and the share of the Jacobian within it.


rule diagnose:
    input:
        f"{RESULTS}/dataset.json",
        sources("nmnc.training.measure_job"),
        lambda wildcards: files(inputs.network_files(STUDY, wildcards.network)),
        network=f"{RESULTS}/networks/{{network}}/{{label}}/seed{{seed}}/network.pt",
    output:
        f"{RESULTS}/manifold/{{network}}/{{label}}/seed{{seed}}.csv",
    log:
        f"{RESULTS}/logs/diagnose/{{network}}-{{label}}-seed{{seed}}.log",
    benchmark:
        f"{RESULTS}/timing/diagnose/{{network}}-{{label}}-seed{{seed}}.tsv"
    conda:
        "../../environment.yml"
    threads: STUDY.threads
    resources:
        mem_mb=4000,
        gpu=GPUS,
    params:
        config=CONFIG.as_posix(),
        parameters=measured_on,
    message:
        "measure the manifold of {wildcards.network}, {wildcards.label}, seed {wildcards.seed}"
    shell:
        "python -m nmnc diagnose --config {params.config:q} --network {input.network:q} --out {output:q} 2> {log:q}"
