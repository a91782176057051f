# One job a model, of models of several datasets. Nothing but figures reads it, so that a new dataset reruns no other dataset's stages.
rule generalisation:
    input:
        scenes=of_its_datasets(f"{RESULTS}/scenes/{{dataset}}"),
        store=of_its_datasets(f"{RESULTS}/{{model}}/{{dataset}}/activations.zarr"),
        manifest=of_its_datasets(f"{RESULTS}/{{model}}/{{dataset}}/activations.json"),
        main=of_its_datasets(f"{RESULTS}/{{model}}/{{dataset}}/probes.safetensors"),
        decorrelated=of_its_datasets(
            f"{RESULTS}/{{model}}/{{dataset}}/probes_decorrelated.safetensors"
        ),
        stale=trusted("generalisation"),
    output:
        table=f"{RESULTS}/{{model}}/generalisation.parquet",
        geometry=f"{RESULTS}/{{model}}/between_datasets.parquet",
    log:
        f"{RESULTS}/logs/{{model}}/generalisation.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{model}}/generalisation.tsv"
    group:
        together("probes")
    conda:
        "../envs/light.yaml"
    threads: CORES
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=model_runtime,
    params:
        settings=model_settings("generalisation"),
        code=code("generalisation"),
        given=named_by_dataset("scenes", "store", "manifest", "main", "decorrelated"),
    message:
        "Probes of {wildcards.model} across its datasets"
    shell:
        "python -m vlm_spatial.stages.generalisation --settings {params.settings:q}"
        " {params.given:q}"
        " --output table={output.table:q}"
        " --output geometry={output.geometry:q}"
        " 2>&1 | tee {log:q}"
