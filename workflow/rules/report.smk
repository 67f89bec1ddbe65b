# Tables, figures and the report.


rule runs:
    input:
        sources("workflow.study"),
    output:
        table=report(
            f"{RESULTS}/tables/runs.csv",
            caption="../report/runs.rst",
            category="Tables",
        ),
        sweeps=f"{RESULTS}/tables/sweeps.csv",
    log:
        f"{RESULTS}/logs/runs.log",
    benchmark:
        f"{RESULTS}/timing/runs.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=500,
    params:
        config=CONFIG.as_posix(),
        study=STUDY.model_dump_json(),
    message:
        "write the table of runs and their parameters"
    shell:
        "python -m nmnc runs --config {params.config:q} --out {output.table:q} --sweeps {output.sweeps:q} 2> {log:q}"


rule tables:
    input:
        runs=rules.runs.output.table,
        networks=[f"{RESULTS}/networks/{run.folder}/{name}" for run in TRAINED for name in RUN_FILES],
        scores=per_identity(f"{RESULTS}/scores/{{folder}}.csv"),
        draws=per_identity(f"{RESULTS}/scores/{{folder}}_draws.nc"),
        codebooks=per_identity(f"{RESULTS}/scores/{{folder}}_codebook.csv"),
        sources=sources("workflow.analysis.tables"),
    output:
        [
            report(
                f"{RESULTS}/tables/{name}.csv",
                caption=f"../report/{name}.rst",
                category="Tables",
            )
            for name in [
                "scores",
                "means",
                "accuracy",
                "epochs",
                "alignment",
                "comparisons",
                "layers",
                "timing",
                "codebook",
            ]
        ],
        directory(f"{RESULTS}/tables/wide"),
    log:
        f"{RESULTS}/logs/tables.log",
    benchmark:
        f"{RESULTS}/timing/tables.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        results=subpath(output[0], ancestor=2),
        confidence=EVALUATION.confidence,
    message:
        "write the tables of the study"
    shell:
        "python -m workflow.analysis tables --results {params.results:q} --confidence {params.confidence} 2> {log:q}"


rule report:
    input:
        rules.tables.output,
        rules.runs.output,
        rules.benchmarks.output,
        verdicts(),
        config=CONFIG.as_posix(),
        draws=per_identity(f"{RESULTS}/scores/{{folder}}_draws.nc"),
        rdms=per_identity(f"{RESULTS}/scores/{{folder}}_rdms.nc"),
        sources=sources("workflow.analysis.report", *benchmark_sources()),
    output:
        report(f"{RESULTS}/report.html", caption="../report/report.rst", category="Report"),
        # Not the folder, which also has the claims' figures. `update` keeps the file, which names the figures to replace.
        report(
            update(f"{RESULTS}/figures/captions.json"),
            caption="../report/figures.rst",
            category="Figures",
        ),
    log:
        f"{RESULTS}/logs/report.log",
    benchmark:
        f"{RESULTS}/timing/report.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=3000,
    params:
        results=subpath(output[0], parent=True),
    message:
        "draw figures and write the report"
    shell:
        "python -m workflow.analysis report --results {params.results:q} --config {input.config:q} 2> {log:q}"
