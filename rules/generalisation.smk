# One job a model, of models of several datasets. Nothing but figures reads it, so that a new dataset reruns no other dataset's stages.
use rule on_cpu as generalisation with:
    input:
        **inputs("generalisation"),
    output:
        **outputs("generalisation"),
    log:
        log_of("generalisation"),
    benchmark:
        benchmark_of("generalisation")
    group:
        together("probes")
    params:
        **params("generalisation"),
    message:
        "Probes of {wildcards.model} across its datasets"
