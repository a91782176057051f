"""Corrections carried from the dataset that they were fitted on to another: subspace, slot directions, site and alpha."""

from collections.abc import Sequence

import polars as pl

from vlm_spatial.amplification.scoring import SCHEMA as SWEPT
from vlm_spatial.amplification.settings import Fit, SlotsOf, random_subspaces
from vlm_spatial.amplification.sweep import Setting
from vlm_spatial.measures.amplification import METHODS, at, choose, random_draws

SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {"fitted_on": pl.String, "applied_to": pl.String, **SWEPT}


def carried(of_sites: Sequence[Fit], swept: pl.DataFrame, slots_of: SlotsOf, draws: int, seed: int) -> list[Setting]:
    """Both forms as they were fitted and chosen on one dataset, each with its random controls, for use on another one.

    Args:
        of_sites: what the probes of the dataset that they are fitted on say.
        swept: its ``amplification.parquet``, whose validation split chooses site and alpha: for each form, and for each random subspace.
        slots_of: of the dataset that they are used on.
        draws, seed: of its amplification, so that the random subspaces are those that chose.
    """
    by_site, subspaces = {fit.site: fit for fit in of_sites}, random_subspaces(of_sites, draws, seed)
    settings: list[Setting] = []
    for method in METHODS:
        choice = choose(swept, method)
        if choice is None:
            continue
        site, alpha = choice
        fit = by_site[site]
        if method == "projection":
            settings += fit.projections([alpha])
            for draw in range(draws):
                where, own = choose(swept.filter(draw=draw), "random") or choice
                settings.append(by_site[where].random_subspaces(subspaces[where], own)[draw])
        else:
            settings += [*fit.oracles([alpha], slots_of), *fit.random_directions(subspaces[site], alpha, slots_of)]
    return settings


def at_home(swept: pl.DataFrame) -> pl.DataFrame:
    """What :func:`carried` would give on the dataset itself: rows that ``amplification.parquet`` has already."""
    parts = []
    for method in METHODS:
        choice = choose(swept, method)
        if choice is not None:
            parts += [at(swept, "test", method, *choice), *random_draws(swept, method, *choice)]
    return pl.concat(parts) if parts else swept.clear()
