# One job a model, of models of several datasets; like generalisation, read by figures only.
use rule on_gpu as transfer with:
    input:
        **inputs("transfer"),
    output:
        **outputs("transfer"),
    log:
        log_of("transfer"),
    benchmark:
        benchmark_of("transfer")
    group:
        together("amplification")
    params:
        **params("transfer"),
    message:
        "Corrections of {wildcards.model} carried across its datasets"
