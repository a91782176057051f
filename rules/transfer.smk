# One job a model, of models of several datasets; like generalisation, read by figures only.
rule transfer:
    input:
        scenes=of_its_datasets(f"{RESULTS}/scenes/{{dataset}}"),
        probes=of_its_datasets(f"{RESULTS}/{{model}}/{{dataset}}/probes.safetensors"),
        amplification=of_its_datasets(
            f"{RESULTS}/{{model}}/{{dataset}}/amplification.parquet"
        ),
        organism=organism_of,
        stale=trusted("transfer"),
    output:
        table=f"{RESULTS}/{{model}}/transfer.parquet",
    log:
        f"{RESULTS}/logs/{{model}}/transfer.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{model}}/transfer.tsv"
    group:
        together("amplification")
    conda:
        "../envs/torch.yaml"
    threads: CORES
    resources:
        gpu=1,
        mem_mb=model_memory,
        runtime=model_runtime,
    params:
        settings=model_settings("transfer"),
        code=code("transfer"),
        content=model_content("transfer"),
        given=named_by_dataset("scenes", "probes", "amplification"),
    message:
        "Corrections of {wildcards.model} carried across its datasets"
    shell:
        "python -m vlm_spatial.stages.transfer --settings {params.settings:q}"
        " {params.given:q}"
        " --output table={output.table:q}"
        " 2>&1 | tee {log:q}"
