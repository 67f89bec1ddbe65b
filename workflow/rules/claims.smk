# The paper's claims: verdicts, tables and figures from a study's runs (docs/claims.md).


rule claims:
    input:
        runs=rules.runs.output,
        dataset=f"{RESULTS}/dataset.json",
        predictions="docs/predictions.yaml",
        networks=[
            f"{RESULTS}/networks/{run.folder}/{name}"
            for run in TRAINED
            if run not in PUBLISHED["epochs"]
            for name in RUN_FILES
        ],
        manifold=[
            f"{RESULTS}/manifold/{run.folder}.csv"
            for run in study.diagnosed(STUDY)
            if run not in PUBLISHED["manifold"]
        ],
        scores=[f"{RESULTS}/scores/{one.folder}.csv" for one in SCORED if one not in PUBLISHED["scores"]],
        sources=sources("workflow.claims.tables", "workflow.claims.figures"),
    output:
        report(
            f"{RESULTS}/tables/claims.csv",
            caption="../report/claims.rst",
            category="Claims",
        ),
        directory(f"{RESULTS}/tables/claims"),
        directory(f"{RESULTS}/figures/claims"),
    log:
        f"{RESULTS}/logs/claims.log",
    benchmark:
        f"{RESULTS}/timing/claims.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        results=subpath(output[0], ancestor=2),
        tier="GPU" if STUDY.device == "cuda" else "CPU",
        confidence=EVALUATION.confidence,
    message:
        "compute the verdicts on the claims"
    shell:
        "python -m workflow.analysis claims --results {params.results:q} --predictions {input.predictions:q}"
        " --tier {params.tier} --confidence {params.confidence} 2> {log:q}"
