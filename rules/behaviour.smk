rule behaviour:
    input:
        scenes=f"{RESULTS}/scenes/{{dataset}}",
        organism=organism_of,
        stale=trusted("behaviour"),
    output:
        behaviour=f"{RESULTS}/{{model}}/{{dataset}}/behaviour.parquet",
    log:
        f"{RESULTS}/logs/{{model}}/{{dataset}}/behaviour.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{model}}/{{dataset}}/behaviour.tsv"
    group:
        together("behaviour")
    conda:
        "../envs/torch.yaml"
    threads: CORES
    resources:
        gpu=1,
        mem_mb=model_memory,
        runtime=model_runtime,
    params:
        settings=model_settings("behaviour"),
        code=code("behaviour"),
        content=model_content("behaviour"),
    message:
        "Behaviour of {wildcards.model} on {wildcards.dataset}"
    shell:
        "python -m vlm_spatial.stages.behaviour --settings {params.settings:q}"
        " --input scenes={input.scenes:q}"
        " --output behaviour={output.behaviour:q}"
        " 2>&1 | tee {log:q}"
