rule measures:
    input:
        tables=lambda wildcards: [
            path
            for of_input in plan.inputs("measures", **wildcards).values()
            for path in of_input.values()
        ],
        stale=trusted("measures"),
    output:
        table=f"{RESULTS}/{{model}}/{{dataset}}/measures.parquet",
    log:
        f"{RESULTS}/logs/{{model}}/{{dataset}}/measures.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{model}}/{{dataset}}/measures.tsv"
    group:
        together("measures")
    conda:
        "../envs/light.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: 3000 * attempt,
        runtime=30,
    params:
        settings=model_settings("measures"),
        code=code("measures"),
        given=lambda wildcards: [
            f"--input={name}={path}"
            for of_input in plan.inputs("measures", **wildcards).values()
            for name, path in of_input.items()
        ],
    message:
        "Measures of {wildcards.model} on {wildcards.dataset}"
    shell:
        "python -m vlm_spatial.stages.measures --settings {params.settings:q}"
        " {params.given:q}"
        " --output table={output.table:q}"
        " 2>&1 | tee {log:q}"
