use rule on_cpu as probes with:
    input:
        **inputs("probes"),
    output:
        **outputs("probes"),
    log:
        log_of("probes"),
    benchmark:
        benchmark_of("probes")
    group:
        together("probes")
    params:
        **params("probes"),
    message:
        "Slot probes of {wildcards.model} on {wildcards.dataset}"
