"""What a claim is, and the words that several share for how their intervals are made."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from vlm_spatial.measures.claim_measures import Tables
from vlm_spatial.measures.verdicts import MINIMUM, Measured, Rule, Verdict

PAIRED = "exact interval (Clopper and Pearson)"
STUDENT = "Student with two added pairs (Bonett and Price)"
CROSSED = "n lowered because the layer was chosen, limits as far as those of any layer that may be the best"


@dataclass(frozen=True)
class Claim:
    """One claim: what it says, how it is measured, and the rule of its verdict.

    Attributes:
        needs: the table without which it is inconclusive.
        statement: true if the verdict is ``supported``; it says what was measured and no more.
        refutation: what would have refuted it.
        unit: how numbers are shown.
        counted: what ``n`` counts.
        optional: whether it is left out where its table was not made, instead of being inconclusive.
    """

    name: str
    title: str
    needs: str
    statement: str
    refutation: str
    estimate: str
    control: str
    rule: Rule | str
    measure: Callable[[Tables], Measured]
    unit: Literal["share", "change", "index", "layer"] = "share"
    counted: str = "pairs"
    optional: bool = False

    def judge(self, found: Measured) -> Verdict:
        """The verdict before adjustment and before strata are looked at."""
        return self.rule.judge(found) if isinstance(self.rule, Rule) else _inside(found)


def _inside(found: Measured) -> Verdict:
    """Supported if every layer that may be the best lies strictly inside the control's ends, refuted if all lie on one of them."""
    low, high, first, last = found.estimate.low, found.estimate.high, found.control.low, found.control.high
    if found.estimate.n < MINIMUM or not all(math.isfinite(x) for x in (low, high, first, last)):
        return "inconclusive"
    if first < low and high < last:
        return "supported"
    return "refuted" if high <= first or low >= last else "inconclusive"
