"""The patch sweep against hooks, one by one and batched by hand, for every family.

    python -m benchmarks.families
    python -m benchmarks.families llava paligemma

Models of one small size with random weights and 16 × 16 visual tokens, on the CPU. See :mod:`benchmarks.patch_sweep` for what is
swept and how. Processor time is compared, which other work on the machine disturbs least. ``times_more_operations`` is exact and the
same on every machine: the operations of one full pass a patch, over those that the engine makes. ``ideal`` is that number, if no
batch computed a position in vain. Families that are not named keep the rows that they have.
"""

import argparse
from typing import Any

import torch
from benchmarks.measure import RESULTS, environment, write
from benchmarks.midsize import QUICK, MidSize, midsize_adapter
from benchmarks.patch_sweep import BATCHED, OURS, REFERENCE, measure

from vlm_spatial.files import read_json
from vlm_spatial.models.families import NAMES

SIZE = MidSize(text_layers=8, text_width=256, text_heads=4, text_key_value_heads=2, vision_layers=4, vision_width=128, vision_heads=2)
NAME = "patch_sweep_families"


def row(family: str, size: MidSize, pairs: int, rounds: int, share: int) -> dict[str, Any]:
    """One family's line of the table."""
    adapter = midsize_adapter(family, size)
    found = measure(adapter, size, pairs, rounds, share, peers=False)
    ours, plain, batched = (found["methods"][name] for name in (OURS, REFERENCE, BATCHED))
    return {
        "reach": adapter.reach,
        "patches": found["patches"],
        "processor_seconds": ours["processor_seconds"],
        "processor_seconds_plain": plain["processor_seconds"],
        "processor_seconds_batched": batched["processor_seconds"],
        "times_slower": plain["times_slower"]["processor_seconds"],
        "times_slower_batched": batched["times_slower"]["processor_seconds"],
        "times_more_operations": plain["times_more_operations"],
        "ideal": found["times_more_operations_than_ideal"],
        "vision_share_of_one_run": found["vision_share_of_one_run"],
        "difference": ours["difference"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", choices=[[], *NAMES])
    parser.add_argument("--quick", action="store_true", help="a tiny size: does it run? Times mean nothing")
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer-share", type=int, default=4, help="hooks make one patch of so many in each round")
    parser.add_argument("--name", default=NAME, help="of the result file")
    given = parser.parse_args()
    size = QUICK if given.quick else SIZE
    path = RESULTS / f"{given.name}.json"
    known = read_json(path, "remove it")["families"] if path.is_file() and given.families else {}
    for family in given.families or NAMES:
        print(family, flush=True)
        known[family] = row(family, size, given.pairs, given.rounds, given.peer_share)
        # After each, so that none is lost when the next is cut off.
        found = {name: known[name] for name in NAMES if name in known}
        write(given.name, {"benchmark": NAME, "size": vars(size), "families": found, **environment(torch.device("cpu"))})


if __name__ == "__main__":
    main()
