use rule on_cpu as organism with:
    input:
        **inputs("organism"),
    output:
        **outputs("organism"),
    log:
        log_of("organism"),
    benchmark:
        benchmark_of("organism")
    conda:
        "../envs/torch.yaml"
    # One thread: the organisms are small, so two train side by side faster than one after the other. One machine makes the same
    # weights each time; another processor rounds differently, and training makes other weights of that (docs/method.md).
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 6000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        **params("organism"),
    message:
        "Training the model organism {wildcards.organism}"
