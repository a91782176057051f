use rule on_gpu as interchange with:
    input:
        **inputs("interchange"),
    output:
        **outputs("interchange"),
    log:
        log_of("interchange"),
    benchmark:
        benchmark_of("interchange")
    group:
        together("interchange")
    params:
        **params("interchange"),
    message:
        "Interchange of {wildcards.model} on {wildcards.dataset}"
