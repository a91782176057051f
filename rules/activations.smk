use rule on_gpu as activations with:
    input:
        **inputs("activations"),
    output:
        **outputs("activations"),
    log:
        log_of("activations"),
    benchmark:
        benchmark_of("activations")
    group:
        together("activations")
    params:
        **params("activations"),
    message:
        "Activations of {wildcards.model} on {wildcards.dataset}"
