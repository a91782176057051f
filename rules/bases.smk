# What the stages' rules inherit; no rule of its own makes anything. A stage says what is different, under `with`.


rule on_gpu:
    log:
        f"{RESULTS}/logs/on_gpu.log",
    conda:
        "../envs/torch.yaml"
    threads: model_threads
    resources:
        gpu=model_gpus,
        mem_mb=model_memory,
        runtime=model_runtime,
    # Settings in ASCII: a command line is written in the locale's encoding.
    shell:
        "python -m vlm_spatial.stages.{params.stage} --settings {params.settings!a:q}"
        " {params.given:q}"
        " 2>&1 | tee {log:q}"


use rule on_gpu as on_cpu with:
    log:
        f"{RESULTS}/logs/on_cpu.log",
    conda:
        "../envs/light.yaml"
    resources:
        mem_mb=plain_memory,
        runtime=model_runtime,
