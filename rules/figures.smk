use rule on_cpu as figures with:
    input:
        **inputs("figures"),
    output:
        figures=report(
            outputs("figures")["figures"],
            patterns=["{model}/{figure}.svg"],
            caption="captions/figure.rst",
            category="Figures",
            subcategory="{model}",
            labels={"model": "{model}", "figure": "{figure}"},
        ),
        report=report(
            outputs("figures")["report"],
            caption="captions/report.rst",
            category="Report",
        ),
        findings=report(
            outputs("figures")["findings"],
            caption="captions/findings.rst",
            category="Report",
        ),
    log:
        log_of("figures"),
    benchmark:
        benchmark_of("figures")
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=30,
    params:
        **params("figures", also=plan.times_and_training()),
    message:
        "Figures, report and findings"
