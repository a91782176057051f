rule probes:
    input:
        scenes=f"{RESULTS}/scenes/{{dataset}}",
        store=f"{RESULTS}/{{model}}/{{dataset}}/activations.zarr",
        manifest=f"{RESULTS}/{{model}}/{{dataset}}/activations.json",
        stale=trusted("probes"),
    output:
        probes=f"{RESULTS}/{{model}}/{{dataset}}/probes.safetensors",
        decorrelated=f"{RESULTS}/{{model}}/{{dataset}}/probes_decorrelated.safetensors",
        table=f"{RESULTS}/{{model}}/{{dataset}}/probes.parquet",
        strip_map=f"{RESULTS}/{{model}}/{{dataset}}/strip_map.parquet",
        geometry=f"{RESULTS}/{{model}}/{{dataset}}/geometry.parquet",
    log:
        f"{RESULTS}/logs/{{model}}/{{dataset}}/probes.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{model}}/{{dataset}}/probes.tsv"
    group:
        together("probes")
    conda:
        "../envs/light.yaml"
    threads: CORES
    resources:
        mem_mb=lambda wildcards, attempt: 6000 * attempt,
        runtime=model_runtime,
    params:
        settings=model_settings("probes"),
        code=code("probes"),
    message:
        "Slot probes of {wildcards.model} on {wildcards.dataset}"
    shell:
        "python -m vlm_spatial.stages.probes --settings {params.settings:q}"
        " --input scenes={input.scenes:q}"
        " --input store={input.store:q}"
        " --input manifest={input.manifest:q}"
        " --output probes={output.probes:q}"
        " --output decorrelated={output.decorrelated:q}"
        " --output table={output.table:q}"
        " --output strip_map={output.strip_map:q}"
        " --output geometry={output.geometry:q}"
        " 2>&1 | tee {log:q}"
