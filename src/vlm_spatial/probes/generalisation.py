"""Do probes of one dataset read another? The model's probes from elsewhere, scored on this dataset's test scenes."""

from collections.abc import Mapping

import polars as pl

from vlm_spatial.config.probes import ProbesSettings
from vlm_spatial.probes.geometry_table import GeometryTable
from vlm_spatial.probes.layout import TRAINED_ON, Activations, Group, TokensOf, group, word_numbers
from vlm_spatial.probes.probe import Probe
from vlm_spatial.probes.reading import answers
from vlm_spatial.probes.saved import Probes
from vlm_spatial.probes.scores import SCHEMA, Table, score_groups
from vlm_spatial.progress import progress
from vlm_spatial.tokens import AXES, SLOTS, Axis

Trained = tuple[str, str]
"""``(dataset, variant)`` that probes were trained on."""

# No dataset's name has it.
_BETWEEN = "/"


def generalise(
    store: Activations, dataset: TokensOf, own: Probes, others: Mapping[Trained, Probes], settings: ProbesSettings
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Score the probes of a model's other datasets, and compare their subspaces with those of this dataset's own probes.

    Each scene of ``store`` is read once a site, however many datasets there are.

    Args:
        own: this dataset's probes, trained on its main scenes.
        others: probes of further datasets, for the same sites.

    Returns:
        The columns of probes.parquet and ``trained_dataset``, and those of geometry.parquet.
    """
    table, geometry = Table(), GeometryTable()
    groups = _test_groups(store, dataset)
    for site in progress(store.sites, "generalisation", total=len(store.sites)):
        for (axis, scored_on), scenes in groups.items():
            _score(table, store, site, axis, scored_on, scenes.at(store, site), others, settings)
        for (name, variant), probes in others.items():
            for axis in AXES:
                if variant == "main" and (axis, site) in own and (axis, site) in probes:
                    geometry.other_dataset(axis, site, name, own[axis, site], probes[axis, site])
    parts = pl.col("trained_on").str.split_exact(_BETWEEN, 1).struct
    rows = table.frame().with_columns(trained_dataset=parts.field("field_0"), trained_on=parts.field("field_1"))
    return rows.select("trained_dataset", *SCHEMA), geometry.frame()


def _test_groups(store: Activations, dataset: TokensOf) -> dict[tuple[Axis, str], Group]:
    stored = dataset.scenes.filter(pl.col("scene_id").is_in(store.scenes["scene_id"].implode()), pl.col("split") == "test")
    words = word_numbers(stored)
    chosen = {(axis, variant): stored.filter(axis=axis, variant=variant) for axis in AXES for variant in TRAINED_ON}
    return {
        key: group(dataset, scenes, store.grid, words, SLOTS, store.own_grids) for key, scenes in chosen.items() if not scenes.is_empty()
    }


def _score(
    table: Table,
    store: Activations,
    site: str,
    axis: Axis,
    scored_on: str,
    scenes: Group,
    others: Mapping[Trained, Probes],
    settings: ProbesSettings,
) -> None:
    """All probes of one site and axis on one group of scenes, with their shuffled-label controls."""
    reasons = {trained: probes.metadata["inconclusive"].get(f"{axis}/{site}") for trained, probes in others.items()}
    fitted = {trained: probes[axis, site] for trained, probes in others.items() if (axis, site) in probes}
    readers: dict[tuple[Trained, str], Probe] = {}
    for trained, probe in fitted.items():
        readers[trained, "logistic"] = probe
        control = probe.shuffled()
        if control is not None:
            readers[trained, "shuffled"] = control
    predicted, _ = answers(store, site, scenes, readers)
    for trained in others:
        if trained not in fitted and reasons[trained] is None:
            # The other dataset has no scenes of this axis or variant.
            continue
        for kind in ("logistic", "shuffled"):
            probe_used = readers.get((trained, kind))
            table.add(
                score_groups(
                    predicted.get((trained, kind)),
                    scenes,
                    settings.token_sets,
                    SLOTS,
                    reason=reasons[trained],
                    site=site,
                    kind=kind,
                    axis=axis,
                    trained_on=_BETWEEN.join(trained),
                    scored_on=scored_on,
                    strength=None if probe_used is None else probe_used.strength,
                )
            )
