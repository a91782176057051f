"""Tables as the stages write them, drawn from a known truth."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from benchmarks.simulated.cases import Rng


def in_scenes(scenes: int, each: int, share: float, rho: float, generator: Rng) -> tuple[np.ndarray, list[str]]:
    """Hits of ``each`` questions a scene, whose correlation within a scene is ``rho``, and their scenes."""
    rates = generator.beta(share * (1 / rho - 1), (1 - share) * (1 / rho - 1), (scenes, 1)) if rho else np.full((scenes, 1), share)
    return (generator.random((scenes, each)) < rates).ravel(), [str(scene) for scene in range(scenes) for _ in range(each)]


def luck(units: int, each: int, generator: Rng) -> np.ndarray:
    """Uniform numbers ``[units, each]``; those of a unit, a pair or a scene, agree in 30%. Below a share they are hits."""
    return np.where(generator.random((units, each)) < 0.3, generator.random((units, 1)), generator.random((units, each)))


def pairs_table(experiment: str, outcomes: dict[tuple[str, str, str], np.ndarray]) -> pl.DataFrame:
    """A sweep's table: for each condition, site and token set the outcome of every pair."""
    parts = [
        pl.DataFrame({"pair_id": [f"{place:05d}" for place in range(len(of_pairs))], "outcome": of_pairs}).with_columns(
            experiment=pl.lit(experiment),
            axis=pl.lit("horizontal"),
            template=pl.lit("slot_to_object"),
            condition=pl.lit(condition),
            site=pl.lit(site),
            layer=pl.lit(int(site.split(".")[1]) if "." in site else None, pl.Int64),
            token_set=pl.lit(token_set),
            source=pl.lit("counterfactual"),
            included=pl.lit(True),
            object_tokens=pl.lit(0),
        )
        for (condition, site, token_set), of_pairs in outcomes.items()
    ]
    return pl.concat(parts)


def drawn(n: int, generator: Rng, **shares: float) -> np.ndarray:
    """An outcome a pair; those whose share is not given stay."""
    return generator.choice([*shares, "stay"], size=n, p=[*shares.values(), 1 - sum(shares.values())])


def ordering_table(n: int, rates: Sequence[float], generator: Rng, condition: str = "intact", entry: float = 0.0) -> pl.DataFrame:
    sites = {(condition, "connector", "object"): drawn(n, generator, ordering=entry, content=0.05)}
    sites |= {(condition, f"language.{layer}", "object"): drawn(n, generator, ordering=r, content=0.05) for layer, r in enumerate(rates)}
    return pairs_table("language", sites)


def questions(correct: np.ndarray, scenes: list[str]) -> pl.DataFrame:
    return pl.DataFrame({"scene_id": scenes, "correct": correct}).with_columns(
        pl.format("{}/{}", "scene_id", pl.int_range(pl.len())).alias("question_id"),
        axis=pl.lit("horizontal"),
        template=pl.lit("slot_to_object"),
        split=pl.lit("test"),
        variant=pl.lit("main"),
        candidates=pl.lit(["a", "b", "c"]),
    )
