rule activations:
    input:
        scenes=f"{RESULTS}/scenes/{{dataset}}",
        organism=organism_of,
        stale=trusted("activations"),
    output:
        store=directory(f"{RESULTS}/{{model}}/{{dataset}}/activations.zarr"),
        manifest=f"{RESULTS}/{{model}}/{{dataset}}/activations.json",
    log:
        f"{RESULTS}/logs/{{model}}/{{dataset}}/activations.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{model}}/{{dataset}}/activations.tsv"
    group:
        together("activations")
    conda:
        "../envs/torch.yaml"
    threads: CORES
    resources:
        gpu=1,
        mem_mb=model_memory,
        runtime=model_runtime,
    params:
        settings=model_settings("activations"),
        code=code("activations"),
        content=model_content("activations"),
    message:
        "Activations of {wildcards.model} on {wildcards.dataset}"
    shell:
        "python -m vlm_spatial.stages.activations --settings {params.settings:q}"
        " --input scenes={input.scenes:q}"
        " --output store={output.store:q}"
        " --output manifest={output.manifest:q}"
        " 2>&1 | tee {log:q}"
