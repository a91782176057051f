rule interchange:
    input:
        scenes=f"{RESULTS}/scenes/{{dataset}}",
        organism=organism_of,
        stale=trusted("interchange"),
    output:
        table=f"{RESULTS}/{{model}}/{{dataset}}/interchange.parquet",
    log:
        f"{RESULTS}/logs/{{model}}/{{dataset}}/interchange.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{model}}/{{dataset}}/interchange.tsv"
    group:
        together("interchange")
    conda:
        "../envs/torch.yaml"
    threads: CORES
    resources:
        gpu=1,
        mem_mb=model_memory,
        runtime=model_runtime,
    params:
        settings=model_settings("interchange"),
        code=code("interchange"),
        content=model_content("interchange"),
    message:
        "Interchange of {wildcards.model} on {wildcards.dataset}"
    shell:
        "python -m vlm_spatial.stages.interchange --settings {params.settings:q}"
        " --input scenes={input.scenes:q}"
        " --output table={output.table:q}"
        " 2>&1 | tee {log:q}"
