rule figures:
    input:
        scenes=[f"{RESULTS}/scenes/{dataset}" for dataset in plan.config.datasets],
        tables=[
            of_every_model(f"{RESULTS}/{{model}}/{{dataset}}/{table}")
            for table in TABLES.values()
        ],
        stale=trusted("figures"),
    output:
        figures=directory(f"{RESULTS}/figures"),
        report=f"{RESULTS}/report.html",
        findings=f"{RESULTS}/findings.json",
    log:
        f"{RESULTS}/logs/figures.log",
    benchmark:
        f"{RESULTS}/benchmarks/figures.tsv"
    conda:
        "../envs/light.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=30,
    params:
        settings=plan.figures(),
        code=code("figures"),
        given=lambda wildcards: figure_inputs(),
    message:
        "Figures, report and findings"
    shell:
        "python -m vlm_spatial.stages.figures --settings {params.settings:q}"
        " {params.given:q}"
        " --output figures={output.figures:q}"
        " --output report={output.report:q}"
        " --output findings={output.findings:q}"
        " 2>&1 | tee {log:q}"
