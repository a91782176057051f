rule figures:
    input:
        scenes=[f"{RESULTS}/scenes/{dataset}" for dataset in plan.config.datasets],
        tables=[
            of_every_model(f"{RESULTS}/{{model}}/{{dataset}}/{table}")
            for table in TABLES.values()
        ],
        across=[
            across_datasets(f"{RESULTS}/{{model}}/{table}")
            for table in TABLES_ACROSS.values()
        ],
        stale=trusted("figures"),
    output:
        figures=report(
            directory(f"{RESULTS}/figures"),
            patterns=["{model}/{figure}.svg"],
            caption="captions/figure.rst",
            category="Figures",
            subcategory="{model}",
            labels={"model": "{model}", "figure": "{figure}"},
        ),
        report=report(
            f"{RESULTS}/report.html",
            caption="captions/report.rst",
            category="Report",
        ),
        findings=report(
            f"{RESULTS}/findings.json",
            caption="captions/findings.rst",
            category="Report",
        ),
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
        settings=plan.of_all("figures"),
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
