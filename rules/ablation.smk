use rule on_gpu as ablation with:
    input:
        **inputs("ablation"),
    output:
        **outputs("ablation"),
    log:
        log_of("ablation"),
    benchmark:
        benchmark_of("ablation")
    group:
        together("ablation")
    params:
        **params("ablation"),
    message:
        "Ablation of the vision signal of {wildcards.model} on {wildcards.dataset}"
