use rule on_gpu as conflict with:
    input:
        **inputs("conflict"),
    output:
        **outputs("conflict"),
    log:
        log_of("conflict"),
    benchmark:
        benchmark_of("conflict")
    group:
        together("conflict")
    params:
        **params("conflict"),
    message:
        "Conflict of vision code and token place of {wildcards.model} on {wildcards.dataset}"
