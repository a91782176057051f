use rule on_gpu as probes with:
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
    resources:
        gpu=probes_gpus,
        mem_mb=plain_memory,
        runtime=model_runtime,
    params:
        **params("probes"),
    message:
        "Slot probes of {wildcards.model} on {wildcards.dataset}"
