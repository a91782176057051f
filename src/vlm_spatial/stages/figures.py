"""The figures stage: every table of every model to figures, report.html and findings.json.

Settings (one dict of plain builtins)::

    {"figures": {...the config's figures section...},
     "models": {name: {"datasets": [...], "checkpoint": str, "mechanism": str | None}},
     "datasets": {name: {...}}, "seed": int, "config": {...the whole validated config, shown in the report; optional}}

Inputs, by name; a name's parts are joined by ``:``. Scenes are needed, everything else may be missing (a claim without its
table is ``inconclusive`` with n = 0, and the report says which file was not there)::

    scenes:{dataset}=folder
    behaviour:{model}:{dataset}=behaviour.parquet
    probes:{model}:{dataset}=probes.parquet
    strip_map:{model}:{dataset}=strip_map.parquet
    geometry:{model}:{dataset}=geometry.parquet
    interchange:{model}:{dataset}=interchange.parquet
    conflict:{model}:{dataset}=conflict.parquet
    ablation:{model}:{dataset}=ablation.parquet
    amplification:{model}:{dataset}=amplification.parquet
    manifest:{model}:{dataset}=activations.json
    training:{model}=training.parquet
    benchmark:{stage}:{anything}=a Snakemake benchmark file (tab separated)

Outputs::

    figures=folder     {model}/{figure}.svg, .pdf, .csv and .md (caption); _comparison/ holds the figures of all models together
    report=report.html one self-contained page
    findings=findings.json

This stage never imports torch.
"""
