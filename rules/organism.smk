rule organism:
    input:
        stale=trusted("organism"),
    output:
        folder=directory(f"{RESULTS}/organisms/{{organism}}"),
    log:
        f"{RESULTS}/logs/organisms/{{organism}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/organisms/{{organism}}.tsv"
    conda:
        "../envs/torch.yaml"
    # One thread: the organisms are small, so two train side by side faster than one after the other. One machine makes the same
    # weights each time; another processor rounds differently, and training makes other weights of that (docs/method.md).
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 6000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        settings=lambda wildcards: plan.organism(wildcards.organism),
        code=code("organism"),
    message:
        "Training the model organism {wildcards.organism}"
    shell:
        "python -m vlm_spatial.stages.organism --settings {params.settings:q}"
        " --output folder={output.folder:q}"
        " 2>&1 | tee {log:q}"
