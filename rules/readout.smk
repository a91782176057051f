use rule on_gpu as readout with:
    input:
        **inputs("readout"),
    output:
        **outputs("readout"),
    log:
        log_of("readout"),
    benchmark:
        benchmark_of("readout")
    group:
        together("readout")
    params:
        **params("readout"),
    message:
        "Residuals that the answer of {wildcards.model} on {wildcards.dataset} follows"
