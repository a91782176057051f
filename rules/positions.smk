use rule on_gpu as positions with:
    input:
        **inputs("positions"),
    output:
        **outputs("positions"),
    log:
        log_of("positions"),
    benchmark:
        benchmark_of("positions")
    group:
        together("positions")
    params:
        **params("positions"),
    message:
        "Values and position ids exchanged apart: {wildcards.model} on {wildcards.dataset}"
