"""What Snakemake alone does not do: code identity, provenance, planning, locks, checks before a run."""
