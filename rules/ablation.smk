rule ablation:
    input:
        scenes=f"{RESULTS}/scenes/{{dataset}}",
        probes=f"{RESULTS}/{{model}}/{{dataset}}/probes.safetensors",
        store=f"{RESULTS}/{{model}}/{{dataset}}/activations.zarr",
        manifest=f"{RESULTS}/{{model}}/{{dataset}}/activations.json",
        interchange=f"{RESULTS}/{{model}}/{{dataset}}/interchange.parquet",
        organism=organism_of,
        stale=trusted("ablation"),
    output:
        sweep=f"{RESULTS}/{{model}}/{{dataset}}/ablation_sweep.parquet",
        accuracy=f"{RESULTS}/{{model}}/{{dataset}}/ablation_accuracy.parquet",
        check=f"{RESULTS}/{{model}}/{{dataset}}/ablation_check.parquet",
    log:
        f"{RESULTS}/logs/{{model}}/{{dataset}}/ablation.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{model}}/{{dataset}}/ablation.tsv"
    group:
        together("ablation")
    conda:
        "../envs/torch.yaml"
    threads: CORES
    resources:
        gpu=1,
        mem_mb=model_memory,
        runtime=model_runtime,
    params:
        settings=model_settings("ablation"),
        code=code("ablation"),
        content=model_content("ablation"),
    message:
        "Ablation of the vision signal of {wildcards.model} on {wildcards.dataset}"
    shell:
        "python -m vlm_spatial.stages.ablation --settings {params.settings:q}"
        " --input scenes={input.scenes:q}"
        " --input probes={input.probes:q}"
        " --input store={input.store:q}"
        " --input manifest={input.manifest:q}"
        " --input interchange={input.interchange:q}"
        " --output sweep={output.sweep:q}"
        " --output accuracy={output.accuracy:q}"
        " --output check={output.check:q}"
        " 2>&1 | tee {log:q}"
