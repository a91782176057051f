use rule on_gpu as routes with:
    input:
        **inputs("routes"),
    output:
        **outputs("routes"),
    log:
        log_of("routes"),
    benchmark:
        benchmark_of("routes")
    group:
        together("routes")
    params:
        **params("routes"),
    message:
        "Routes to the answer of {wildcards.model} on {wildcards.dataset}"
