# Training: one job per network, rule and seed. A killed job resumes from its checkpoint.


rule train:
    input:
        f"{RESULTS}/dataset.json",
        lambda wildcards: sources("nmnc.training.job", *modules_of(STUDY.run(wildcards.label).kind)),
        lambda wildcards: files(inputs.network_files(STUDY, wildcards.network)),
    output:
        [f"{RESULTS}/networks/{{network}}/{{label}}/seed{{seed}}/{name}" for name in RUN_FILES],
    log:
        f"{RESULTS}/logs/train/{{network}}-{{label}}-seed{{seed}}.log",
    benchmark:
        f"{RESULTS}/timing/train/{{network}}-{{label}}-seed{{seed}}.tsv"
    conda:
        "../../environment.yml"
    threads: STUDY.threads
    resources:
        mem_mb=4000,
        gpu=GPUS,
    params:
        config=CONFIG.as_posix(),
        parameters=training_parameters,
        out=subpath(output[0], parent=True),
    message:
        "train {wildcards.network} by {wildcards.label}, seed {wildcards.seed}"
    shell:
        "python -m nmnc train --config {params.config:q} --network {wildcards.network:q}"
        " --rule {wildcards.label:q} --seed {wildcards.seed} --out {params.out:q} --wait 604800 2> {log:q}"
