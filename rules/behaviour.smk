use rule on_gpu as behaviour with:
    input:
        **inputs("behaviour"),
    output:
        **outputs("behaviour"),
    log:
        log_of("behaviour"),
    benchmark:
        benchmark_of("behaviour")
    group:
        together("behaviour")
    params:
        **params("behaviour"),
    message:
        "Behaviour of {wildcards.model} on {wildcards.dataset}"
