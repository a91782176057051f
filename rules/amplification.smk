use rule on_gpu as amplification with:
    input:
        **inputs("amplification"),
    output:
        **outputs("amplification"),
    log:
        log_of("amplification"),
    benchmark:
        benchmark_of("amplification")
    group:
        together("amplification")
    params:
        **params("amplification"),
    message:
        "Amplification of the vision signal of {wildcards.model} on {wildcards.dataset}"
