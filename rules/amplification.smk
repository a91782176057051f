rule amplification:
    input:
        scenes=f"{RESULTS}/scenes/{{dataset}}",
        probes=f"{RESULTS}/{{model}}/{{dataset}}/probes.safetensors",
        behaviour=f"{RESULTS}/{{model}}/{{dataset}}/behaviour.parquet",
        organism=organism_of,
        stale=trusted("amplification"),
    output:
        table=f"{RESULTS}/{{model}}/{{dataset}}/amplification.parquet",
    log:
        f"{RESULTS}/logs/{{model}}/{{dataset}}/amplification.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{model}}/{{dataset}}/amplification.tsv"
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
        settings=model_settings("amplification"),
        code=code("amplification"),
        content=model_content("amplification"),
    message:
        "Amplification of the vision signal of {wildcards.model} on {wildcards.dataset}"
    shell:
        "python -m vlm_spatial.stages.amplification --settings {params.settings:q}"
        " --input scenes={input.scenes:q}"
        " --input probes={input.probes:q}"
        " --input behaviour={input.behaviour:q}"
        " --output table={output.table:q}"
        " 2>&1 | tee {log:q}"
