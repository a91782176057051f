"""Corrections carried from the dataset that they were fitted on to another: subspace, slot directions, site and alpha."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from vlm_spatial.amplification.scoring import SCHEMA as SWEPT
from vlm_spatial.amplification.settings import Fit, SlotsOf
from vlm_spatial.amplification.sweep import Setting
from vlm_spatial.measures.amplification import METHODS, RANDOM, at, choose
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.probes.saved import Probes

SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {"fitted_on": pl.String, "applied_to": pl.String, **SWEPT}


def carried(adapter: Adapter, probes: Probes, swept: pl.DataFrame, slots_of: SlotsOf, draws: int, seed: Sequence[int]) -> list[Setting]:
    """Both forms as they were fitted and chosen on one dataset, each with its random controls, for use on another one.

    Args:
        probes: of the dataset that they are fitted on.
        swept: its ``amplification.parquet``, whose validation split chooses site and alpha.
        slots_of: of the dataset that they are used on.
        draws: random controls of each form.
    """
    generator = np.random.default_rng(seed)
    settings: list[Setting] = []
    for method in METHODS:
        choice = choose(swept, method)
        if choice is None:
            continue
        site, alpha = choice
        fit = Fit.of(probes, site, adapter)
        others = fit.random(draws, generator)
        if method == "projection":
            settings += [*fit.projections([alpha]), *fit.random_subspaces(others, alpha)]
        else:
            settings += [*fit.oracles([alpha], slots_of), *fit.random_directions(others, alpha, slots_of)]
    return settings


def at_home(swept: pl.DataFrame) -> pl.DataFrame:
    """What :func:`carried` would give on the dataset itself: rows that ``amplification.parquet`` has already."""
    parts = [
        at(swept, "test", name, *choice)
        for method in METHODS
        if (choice := choose(swept, method)) is not None
        for name in (method, RANDOM[method])
    ]
    return pl.concat(parts) if parts else swept.clear()
