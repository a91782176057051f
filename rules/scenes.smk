use rule on_cpu as scenes with:
    input:
        **inputs("scenes"),
    output:
        folder=report(
            outputs("scenes")["folder"],
            patterns=["contact_sheet.{kind}"],
            caption="captions/scenes.rst",
            category="Scenes",
            labels={"dataset": "{dataset}"},
        ),
    log:
        log_of("scenes"),
    benchmark:
        benchmark_of("scenes")
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=30,
    params:
        **params("scenes"),
    message:
        "Scenes, questions and pairs of {wildcards.dataset}"
