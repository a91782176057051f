"""``docs/findings.md``, written from the table of claims: ``python -m vlm_spatial.report.findings_page > docs/findings.md``."""

from vlm_spatial.measures.claims import CLAIMS
from vlm_spatial.report.truth import EXPECTATIONS

HEAD = """# Findings and their rules

`results/findings.json` is a list of records, one a model, dataset and claim:

```json
{"model": "…", "dataset": "…", "claim": "dominance", "estimate": 0.78, "low": 0.64, "high": 0.88, "n": 92,
 "control": {"name": "neither decides", "estimate": 0.0, "low": 0.0, "high": 0.0, "n": 0},
 "difference": {"estimate": 0.78, "low": 0.64, "high": 0.88}, "smallest": 0.0,
 "recovery": {"estimate": 0.81, "low": 0.74, "high": 0.88},
 "strata": {"p": 0.41, "number": 6, "lowest": 0.6, "highest": 0.9},
 "p": 3e-15, "p_holm": 3e-14, "verdict": "supported", "verdict_unadjusted": "supported"}
```

| field | meaning |
|---|---|
| `estimate`, `low`, `high`, `n` | the estimate, its 95% interval, and how many units it rests on |
| `control` | what it is held against |
| `difference` | estimate minus control, on the same pairs or questions where both have them |
| `smallest` | the smallest effect of interest |
| `recovery` | of claims on patches: how far answers move in log-odds, from the clean run (0) to the source's (1); null elsewhere |
| `strata` | strata (axis, template, slots exchanged): how many, lowest and highest mean, p of a permutation test that they are alike |
| `p`, `p_holm` | p of the test that the verdict rests on, and the same adjusted (Holm) over all claims of the report |
| `verdict_unadjusted` | the verdict before adjustment |

Verdicts:

- `supported`: the difference lies above 0, and what else the rule asks for holds.
- `refuted`: the interval excludes the smallest effect of interest. It says more than that no effect was seen.
- `mixed`: the strata differ (p < 0.01), and some show an effect of 0.1 or more and others do not. The mean over them would mislead.
- `inconclusive`: everything else; also where the adjusted p is not below 0.05, where `n` is below 10, and where the
  control is not known. Where the table is missing or empty, numbers are null and `n` is 0.

Layers are counted from 0. Estimates from pairs use only the pairs whose two scenes the untouched model answers right.
How well intervals and verdicts do what they promise is measured by [simulation](coverage.md).
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
            "| | |",
            "|---|---|",
            f"| what would have refuted it | {claim.refutation} |",
            f"| estimate | {claim.estimate}; `n` counts {claim.counted} |",
            f"| control | {claim.control} |",
            f"| verdict | {claim.rule} |",
            f"| from | `{claim.needs}.parquet` |",
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
