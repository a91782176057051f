"""Every measure of one model on one dataset, from the tables of the stages."""

from collections.abc import Mapping

import polars as pl

from vlm_spatial.measures import (
    behaviour,
    claims,
    consistency,
    corrections,
    crosswise,
    displaced,
    flips,
    heads,
    items,
    last_token,
    positions,
    prior,
    probe_scores,
    readout,
    recovery,
    routes,
    spatial_ids,
)


def measured(tables: Mapping[str, pl.DataFrame], dataset: str) -> pl.DataFrame:
    """``measures.parquet``: columns :data:`vlm_spatial.measures.table.SCHEMA`.

    Args:
        tables: by name, as the stages write them; one that was not made is absent, and so are the measures that need it. ``pairs``,
            ``questions`` and ``scenes`` are the dataset's. Of a model with several datasets also ``generalisation``,
            ``between_datasets`` and ``transfer``, whole.
        dataset: the dataset's name in those last three.
    """
    generalisation, between = tables.get("generalisation"), tables.get("between_datasets")
    geometry = tables.get("geometry")
    if generalisation is not None:
        generalisation = generalisation.filter(pl.col("scored_dataset") == dataset).drop("scored_dataset")
    if geometry is not None and between is not None:
        geometry = pl.concat([geometry, between.filter(pl.col("dataset") == dataset).drop("dataset")])
    amplified, transfer = tables.get("amplification"), tables.get("transfer")
    return pl.concat(
        [
            claims.judged(tables),
            behaviour.accuracies(tables),
            behaviour.merging(tables.get("behaviour")),
            consistency.consistency(tables),
            prior.beyond_prior(tables),
            prior.beyond_text(tables),
            probe_scores.probe_scores(tables.get("probes"), generalisation),
            probe_scores.strip_indices(geometry),
            probe_scores.overlaps(geometry),
            probe_scores.angles(geometry),
            flips.vision_flips(tables.get("interchange")),
            flips.language_outcomes(tables),
            crosswise.crosswise(tables),
            recovery.recoveries(tables),
            flips.last_token_outcomes(tables.get("interchange")),
            last_token.layers(tables.get("interchange")),
            displaced.displaced_outcomes(tables.get("interchange")),
            displaced.order_accuracy(tables),
            flips.dominances(tables.get("conflict")),
            readout.readout(tables.get("readout")),
            spatial_ids.spatial_ids(tables.get("spatial_ids")),
            routes.knockouts(tables.get("routes")),
            heads.heads(tables.get("heads")),
            positions.positions(tables.get("positions")),
            flips.ablated_accuracies(tables.get("ablation_accuracy"), tables.get("behaviour")),
            items.items(tables.get("amplification_items")),
            corrections.sweep(amplified),
            corrections.by_group(amplified),
            corrections.choices_carried(amplified, transfer),
            corrections.carried(transfer, dataset),
            corrections.accuracies(amplified, transfer, dataset),
        ]
    )
