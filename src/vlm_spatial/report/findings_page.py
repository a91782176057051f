"""``docs/findings.md``, written from the table of claims: ``python -m vlm_spatial.report.findings_page > docs/findings.md``."""

from vlm_spatial.measures.claims import CLAIMS
from vlm_spatial.report.truth import EXPECTATIONS

HEAD = """# Findings and their rules

`results/findings.json` is a list of records, one a model, dataset and claim:

```json
{"model": "…", "dataset": "…", "claim": "dominance", "estimate": 0.78, "low": 0.65, "high": 0.89, "n": 92,
 "control": {"name": "neither decides", "estimate": 0.0, "low": 0.0, "high": 0.0, "n": 0}, "verdict": "supported"}
```

`low` and `high` bound the 95% interval. `verdict` follows from the rule below and from nothing else. A record is `inconclusive` with null
numbers and `n` = 0 where its table is missing or empty, and `inconclusive` where `n` is below 10 or its control is not known. Layers are
counted from 0. Estimates from pairs use only the pairs whose two scenes the untouched model answers right. “Refuted” says that the
interval excludes an effect large enough to matter, not merely that none was seen; between the two lies `inconclusive`.
"""


def document() -> str:
    """The page as markdown."""
    lines = [HEAD]
    for claim in CLAIMS:
        lines += [
            f"## `{claim.name}`",
            "",
            claim.statement,
            "",
            f"- **Estimate:** {claim.estimate}; `n` counts {claim.counted}",
            f"- **Control:** {claim.control}",
            f"- **Verdict:** {claim.rule}",
            f"- **From:** `{claim.needs}.parquet`",
            "",
        ]
    lines += [
        "## Planted truths",
        "",
        "For planted organisms the report also says whether what was planted was found:",
        "",
        "| planted | must hold |",
        "|---|---|",
        *(f"| {expected.mechanism} | {expected.what} {expected.compare} {expected.threshold:g} |" for expected in EXPECTATIONS),
        "",
        "`strip_flip`, `object_flip` and `dominance` are the estimates above; rim and background flips are counted as `object_flip` is.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(document(), end="")
