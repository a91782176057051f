use rule on_cpu as measures with:
    input:
        **inputs("measures"),
    output:
        **outputs("measures"),
    log:
        log_of("measures"),
    benchmark:
        benchmark_of("measures")
    group:
        together("measures")
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 3000 * attempt,
        runtime=30,
    params:
        **params("measures"),
    message:
        "Measures of {wildcards.model} on {wildcards.dataset}"
