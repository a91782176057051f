use rule on_gpu as boxes with:
    input:
        **inputs("boxes"),
    output:
        **outputs("boxes"),
    log:
        log_of("boxes"),
    benchmark:
        benchmark_of("boxes")
    threads: CORES
    resources:
        gpu=1,
        mem_mb=lambda wildcards, attempt: 8000 * attempt,
        runtime=lambda wildcards, attempt: 120 * attempt,
    params:
        **params("boxes"),
    message:
        "Boxes in the photos of {wildcards.dataset}, found by a detector"
