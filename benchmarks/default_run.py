"""What the default run found, short enough to read: `python -m benchmarks.default_run > docs/default_run.json`, after `make run`.

README shows some of it; `tests/test_default_run.py` compares both, and runs a part of it again.
"""

import json
import sys
from pathlib import Path

KEPT = ("model", "dataset", "claim", "estimate", "low", "high", "n", "verdict")


def short(findings: list[dict]) -> list[dict]:
    """The records of ``findings.json`` without controls and strata, numbers to four digits."""
    return [{key: round(value, 4) if isinstance(value := record.get(key), float) else value for key in KEPT} for record in findings]


def main() -> None:
    """Read results/findings.json, write to standard output, one record a line."""
    records = short(json.loads(Path("results/findings.json").read_text(encoding="utf-8")))
    sys.stdout.write("[\n" + ",\n".join(json.dumps(record, ensure_ascii=False) for record in records) + "\n]\n")


if __name__ == "__main__":
    main()
