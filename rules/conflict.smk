rule conflict:
    input:
        scenes=f"{RESULTS}/scenes/{{dataset}}",
        organism=organism_of,
        stale=trusted("conflict"),
    output:
        table=f"{RESULTS}/{{model}}/{{dataset}}/conflict.parquet",
    log:
        f"{RESULTS}/logs/{{model}}/{{dataset}}/conflict.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{model}}/{{dataset}}/conflict.tsv"
    group:
        together("conflict")
    conda:
        "../envs/torch.yaml"
    threads: CORES
    resources:
        gpu=1,
        mem_mb=model_memory,
        runtime=model_runtime,
    params:
        settings=model_settings("conflict"),
        code=code("conflict"),
        content=model_content("conflict"),
    message:
        "Conflict of vision code and token place of {wildcards.model} on {wildcards.dataset}"
    shell:
        "python -m vlm_spatial.stages.conflict --settings {params.settings:q}"
        " --input scenes={input.scenes:q}"
        " --output table={output.table:q}"
        " 2>&1 | tee {log:q}"
