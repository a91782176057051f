rule scenes:
    input:
        boxes=detected_boxes,
        stale=trusted("scenes"),
    output:
        folder=report(
            directory(f"{RESULTS}/scenes/{{dataset}}"),
            patterns=["contact_sheet.{kind}"],
            caption="captions/scenes.rst",
            category="Scenes",
            labels={"dataset": "{dataset}"},
        ),
    log:
        f"{RESULTS}/logs/scenes/{{dataset}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/scenes/{{dataset}}.tsv"
    conda:
        "../envs/light.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=30,
    params:
        settings=lambda wildcards: plan.scenes(wildcards.dataset),
        code=code("scenes"),
        boxes=lambda wildcards: [
            f"--input=boxes={path}" for path in detected_boxes(wildcards)
        ],
        content=lambda wildcards: plan.content(plan.scenes(wildcards.dataset)),
    message:
        "Scenes, questions and pairs of {wildcards.dataset}"
    shell:
        "python -m vlm_spatial.stages.scenes --settings {params.settings:q} {params.boxes:q}"
        " --output folder={output.folder:q}"
        " 2>&1 | tee {log:q}"
