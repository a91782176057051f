# Only models of several datasets have these jobs. Nothing but figures reads them, so that a new dataset reruns no other stage.
rule generalisation:
    input:
        scenes=f"{RESULTS}/scenes/{{dataset}}",
        store=f"{RESULTS}/{{model}}/{{dataset}}/activations.zarr",
        manifest=f"{RESULTS}/{{model}}/{{dataset}}/activations.json",
        probes=f"{RESULTS}/{{model}}/{{dataset}}/probes.safetensors",
        main=other_datasets(PROBES_OF["main"]),
        decorrelated=other_datasets(PROBES_OF["decorrelated"]),
        stale=trusted("generalisation"),
    output:
        table=f"{RESULTS}/{{model}}/{{dataset}}/generalisation.parquet",
        geometry=f"{RESULTS}/{{model}}/{{dataset}}/between_datasets.parquet",
    log:
        f"{RESULTS}/logs/{{model}}/{{dataset}}/generalisation.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{model}}/{{dataset}}/generalisation.tsv"
    group:
        together("generalisation")
    conda:
        "../envs/light.yaml"
    threads: CORES
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=model_runtime,
    params:
        settings=model_settings("generalisation"),
        code=code("generalisation"),
        others=lambda wildcards: [
            f"--input={item}"
            for name, path in PROBES_OF.items()
            for item in other_datasets(f"{name}:{{dataset}}={path}")(wildcards)
        ],
    message:
        "Probes of {wildcards.model}'s other datasets on {wildcards.dataset}"
    shell:
        "python -m vlm_spatial.stages.generalisation --settings {params.settings:q}"
        " --input scenes={input.scenes:q}"
        " --input store={input.store:q}"
        " --input manifest={input.manifest:q}"
        " --input probes={input.probes:q}"
        " {params.others:q}"
        " --output table={output.table:q}"
        " --output geometry={output.geometry:q}"
        " 2>&1 | tee {log:q}"
