rule boxes:
    input:
        stale=trusted("boxes"),
    output:
        boxes=f"{RESULTS}/boxes/{{dataset}}.json",
    log:
        f"{RESULTS}/logs/boxes/{{dataset}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/boxes/{{dataset}}.tsv"
    conda:
        "../envs/torch.yaml"
    threads: CORES
    resources:
        gpu=1,
        mem_mb=lambda wildcards, attempt: 8000 * attempt,
        runtime=lambda wildcards, attempt: 120 * attempt,
    params:
        settings=lambda wildcards: plan.boxes(wildcards.dataset),
        code=code("boxes"),
        content=lambda wildcards: plan.content(plan.boxes(wildcards.dataset)),
    message:
        "Boxes in the photos of {wildcards.dataset}, found by a detector"
    shell:
        "python -m vlm_spatial.stages.boxes --settings {params.settings:q}"
        " --output boxes={output.boxes:q}"
        " 2>&1 | tee {log:q}"
