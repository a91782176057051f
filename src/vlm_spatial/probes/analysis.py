"""The probing experiment: every site of a store in one pass, with all controls (experiment 2 of the design)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from vlm_spatial.config.probes import ProbesSettings
from vlm_spatial.probes.arrays import enough_memory, placed
from vlm_spatial.probes.baselines import (
    Images,
    PixelFeatures,
    cell_features,
    control_labels,
    control_labels_at_objects,
    control_task,
    shuffled_slots,
)
from vlm_spatial.probes.fitting import Rows, fit_probes, one_hot, why_inconclusive
from vlm_spatial.probes.geometry_table import GeometryTable
from vlm_spatial.probes.layout import TRAINED_ON, Activations, Features, Group, TokensOf, cell_counts, group, word_numbers
from vlm_spatial.probes.probe import Probe
from vlm_spatial.probes.published import fit_published
from vlm_spatial.probes.reading import BATCH, Whole, answers
from vlm_spatial.probes.scores import CELL_SITE, PIXEL_SITE, Table, score_groups
from vlm_spatial.probes.strips import STRIP_MAP, strip_map_rows
from vlm_spatial.progress import progress
from vlm_spatial.tokens import AXES, SLOTS, Axis, TokenGrid, TokenSet

SCORED_ON = ("main", "decorrelated", "mirror", "single")
_MAPPED = (("main", "logistic"), ("main", "published"))


class ProbedDataset(TokensOf, Images, Protocol):
    """What is asked of a dataset."""


@dataclass(frozen=True)
class Analysis:
    """Everything that the stage writes.

    Attributes:
        probes: logistic probes by what they are trained on (``main``, ``decorrelated``), then by ``(axis, site)``.
        inconclusive: why a probe is missing, by what it would be trained on, then by ``axis/site``.
    """

    probes: dict[str, dict[tuple[str, str], Probe]]
    inconclusive: dict[str, dict[str, str]]
    table: pl.DataFrame
    strip_map: pl.DataFrame
    geometry: pl.DataFrame


@dataclass(frozen=True)
class _Labelled:
    """One axis: its labelled scenes, blank canvases and random labels."""

    axis: Axis
    groups: dict[tuple[str, str], Group]
    blank: tuple[str, ...]
    token_sets: tuple[TokenSet, ...]
    slots: tuple[int, ...]
    control: Int[np.ndarray, " words"] | None
    shuffled: dict[str, Int[np.ndarray, "scenes tokens"]]

    def trained_on(self) -> Iterator[str]:
        return (variant for variant in TRAINED_ON if variant == "main" or self.groups[variant, "train"].size)

    def tested(self) -> Iterator[tuple[str, Group]]:
        return ((variant, self.groups[variant, "test"]) for variant in SCORED_ON if self.groups[variant, "test"].size)

    def at(self, features: Features, site: str) -> "_Labelled":
        """With what ``features`` holds at a site."""
        return replace(self, groups={key: scenes.at(features, site) for key, scenes in self.groups.items()})

    def sets(self, scored_on: str) -> tuple[TokenSet, ...]:
        return tuple(s for s in self.token_sets if s == "object") if scored_on == "single" else self.token_sets


@dataclass(frozen=True)
class _Trained:
    """Probes of one site, axis and training variant by kind, or why there are none."""

    trained_on: str
    probes: dict[str, Probe] = field(default_factory=dict)
    reason: str | None = None


def analyse(store: Activations, dataset: ProbedDataset, settings: ProbesSettings, seed: int, device: str = "cpu") -> Analysis:
    """Train and score probes for the slot at every site of ``store``, with their controls.

    Memory is bounded by one site's object tokens of the training scenes of one axis and variant, and two batches; a GPU's by those tokens
    and a matrix of features × features for each strength and four more.

    Args:
        store: activations of ``dataset``'s scenes; scenes that it does not hold are left out.
        seed: of the random labels.
        device: ``cpu`` or ``cuda``, where probes are fitted; they are read on the CPU.
    """
    stored = dataset.scenes.filter(pl.col("scene_id").is_in(store.scenes["scene_id"].implode()))
    axes = [_labelled(dataset, stored, store, axis, settings, seed) for axis in AXES if (stored["axis"] == axis).any()]
    run = _Run(store, store.grid, settings, Table(), GeometryTable(), seed, device)
    needed = [scene for labelled in axes for g in labelled.groups.values() for scene in g.scene_ids]
    pixels = PixelFeatures(dataset, store.grid, needed, store.own_grids)
    for labelled in axes:
        run.cells(labelled, CELL_SITE, cell_features(store.grid))
        run.pixels(labelled, pixels)
    for site in progress(store.sites, "probes", total=len(store.sites)):
        for labelled in axes:
            run.site(labelled, site)
    strip_map = pl.concat([pl.DataFrame(schema=STRIP_MAP), *run.maps])
    return Analysis(run.saved, run.inconclusive, run.table.frame(), strip_map, run.geometry.frame())


def _labelled(
    dataset: ProbedDataset, scenes: pl.DataFrame, store: Activations, axis: Axis, settings: ProbesSettings, seed: int
) -> _Labelled:
    words = word_numbers(scenes)
    on_axis = scenes.filter(pl.col("axis") == axis)

    def of(variant: str, split: str) -> Group:
        return group(
            dataset, on_axis.filter((pl.col("variant") == variant) & (pl.col("split") == split)), store.grid, words, SLOTS, store.own_grids
        )

    def generator(purpose: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence([seed, AXES.index(axis), purpose]))

    groups = {(variant, split): of(variant, split) for variant in TRAINED_ON for split in ("train", "validation", "test")}
    groups |= {(variant, "test"): of(variant, "test") for variant in SCORED_ON if variant not in TRAINED_ON}
    mains = on_axis.filter(pl.col("variant").is_in(TRAINED_ON))["slots"]
    slots = tuple(mains.explode().drop_nulls().unique().sort().to_list()) or tuple(range(SLOTS))
    return _Labelled(
        axis=axis,
        groups=groups,
        blank=tuple(on_axis.filter(pl.col("variant") == "blank")["scene_id"]),
        token_sets=settings.token_sets,
        slots=slots,
        control=control_task(len(words), slots, generator(0)) if len(words) >= len(slots) else None,
        shuffled={v: shuffled_slots(groups[v, "train"], SLOTS, generator(1 + i)) for i, v in enumerate(TRAINED_ON)},
    )


@dataclass
class _Run:
    """The pass over the sites: its inputs and what has been gathered so far."""

    store: Activations
    grid: TokenGrid
    settings: ProbesSettings
    table: Table
    geometry: GeometryTable
    seed: int
    device: str
    saved: dict[str, dict[tuple[str, str], Probe]] = field(default_factory=lambda: {variant: {} for variant in TRAINED_ON})
    inconclusive: dict[str, dict[str, str]] = field(default_factory=lambda: {variant: {} for variant in TRAINED_ON})
    maps: list[pl.DataFrame] = field(default_factory=list)

    def site(self, labelled: _Labelled, site: str) -> None:
        """Train, score and map one site along one axis, reading each scene once."""
        every, labelled = labelled, labelled.at(self.store, site)
        blank = self._blank(labelled, site)
        trained = [self._train(self.store, labelled, site, variant, controls=True) for variant in labelled.trained_on()]
        for t in trained:
            if "logistic" not in t.probes:
                assert t.reason is not None
                self.inconclusive[t.trained_on][f"{labelled.axis}/{site}"] = t.reason
            else:
                self.saved[t.trained_on][labelled.axis, site] = t.probes["logistic"].with_shuffled(t.probes["shuffled"])
        for scored_on, scenes in labelled.tested():
            predicted, probabilities = self._predict(self.store, site, scenes, trained)
            self._score(labelled, site, trained, predicted, scored_on, scenes)
            if scenes.weights is not None:
                # Maps are of whole scenes.
                scenes = every.groups[scored_on, "test"].among(set(self.store.whole_scenes))
                shown = [_Trained(t.trained_on, {k: p for k, p in t.probes.items() if (t.trained_on, k) in _MAPPED}) for t in trained]
                _, probabilities = self._predict(Whole(self.store), site, scenes, shown)
            for (_, kind), probability in probabilities.items() if scored_on != "single" and scenes.size else ():
                if kind == "logistic":
                    self.geometry.strip_index(labelled.axis, site, scored_on, probability, self.grid, scenes.inside)
                if scored_on == "main":
                    kept, own = self.settings.strip_map_scenes, self.store.own_grids
                    self.maps.append(strip_map_rows(scenes, kept, probability, self.grid, labelled.axis, site, kind, own))
        if blank is not None:
            self._score_blank(labelled, site, trained, blank)
            self.cells(labelled, site, blank)
        for t in trained:
            if "logistic" in t.probes:
                self.geometry.slot_subspace(labelled.axis, site, t.trained_on, t.probes["logistic"])

    def cells(self, labelled: _Labelled, site: str, features: Float[np.ndarray, "tokens features"]) -> None:
        """The position baseline: what is known of each cell whatever the scene, trained and scored as the probes are."""
        for trained_on in labelled.trained_on():
            splits = [labelled.groups[trained_on, split] for split in ("train", "validation")]
            train, validation = [Rows(features.astype(np.float32), cell_counts(g, SLOTS), g.size) for g in splits]
            reason = why_inconclusive(train, validation, labelled.slots)
            probe = None if reason else fit_probes(train, validation, self.settings.strengths, {})["logistic"]
            for scored_on, scenes in labelled.tested():
                predicted = None if probe is None else np.broadcast_to(probe.predict(features), scenes.strips.shape)
                names = self._names(labelled, site, "position", trained_on, scored_on, probe)
                self.table.add(score_groups(predicted, scenes, labelled.sets(scored_on), SLOTS, reason=reason, **names))

    def pixels(self, labelled: _Labelled, pixels: Features) -> None:
        """The pixel baseline: the cells' mean colours in place of activations."""
        for variant in labelled.trained_on():
            fitted = self._train(pixels, labelled, PIXEL_SITE, variant, controls=False)
            kept = _Trained(variant, {"pixels": fitted.probes["logistic"]} if fitted.probes else {}, fitted.reason)
            for scored_on, scenes in labelled.tested():
                predicted, _ = self._predict(pixels, PIXEL_SITE, scenes, [kept])
                self._score(labelled, PIXEL_SITE, [kept], predicted, scored_on, scenes, kinds=("pixels",))

    def _train(self, features: Features, labelled: _Labelled, site: str, trained_on: str, *, controls: bool) -> _Trained:
        scenes = labelled.groups[trained_on, "train"]
        train = self._rows(features, site, scenes)
        validation = self._rows(features, site, labelled.groups[trained_on, "validation"])
        with enough_memory(self.device):
            there = replace(train, x=placed(train.x, self.device))
            reason = why_inconclusive(there, validation, labelled.slots)
        beside = {}
        if (
            controls
            and trained_on == "main"
            and site in self.settings.published_sites
            and why_inconclusive(train, train, labelled.slots) is None
        ):
            # Nothing is chosen, so it needs no validation; before ours, which standardises the features in place.
            beside["published"] = fit_published(train.x, train.targets, np.random.default_rng([self.seed, AXES.index(labelled.axis)]))
        if reason:
            return _Trained(trained_on, beside, reason)
        extra = {}
        if controls:
            extra["shuffled"] = one_hot(scenes.at_objects(labelled.shuffled[trained_on]), SLOTS)
            if labelled.control is not None:
                extra["control_task"] = one_hot(scenes.at_objects(control_labels_at_objects(scenes, labelled.control)), SLOTS)
        if controls and trained_on == "main":
            self.geometry.content(labelled.axis, site, train.x, self._words(scenes), scenes.at_objects(scenes.objects))
        with enough_memory(self.device):
            return _Trained(trained_on, fit_probes(there, validation, self.settings.strengths, extra) | beside)

    def _words(self, scenes: Group) -> Int[np.ndarray, " rows"]:
        return scenes.at_objects(np.take_along_axis(scenes.words, np.maximum(scenes.objects, 0).astype(int), axis=1))

    def _rows(self, features: Features, site: str, scenes: Group) -> Rows:
        targets = one_hot(scenes.at_objects(scenes.objects), SLOTS)
        x, start, filled = np.zeros((0, 0), dtype=np.float32), 0, 0
        wanted, kept = scenes.mask("object"), features.kept(site, scenes.scene_ids)
        if kept is not None:
            wanted = np.take_along_axis(wanted, kept.tokens.astype(np.int64), axis=1)
        for ids, values in features.batches(site, scenes.scene_ids, BATCH):
            if not start:
                x = np.empty((len(targets), values.shape[-1]), dtype=np.float32)
            taken = values[wanted[start : start + len(ids)]]
            x[filled : filled + len(taken)] = taken
            start, filled = start + len(ids), filled + len(taken)
        return Rows(x, targets, scenes.size)

    def _predict(
        self, features: Features, site: str, scenes: Group, trained: Sequence[_Trained]
    ) -> tuple[dict[tuple[str, str], Int[np.ndarray, "scenes tokens"]], dict[tuple[str, str], Float[np.ndarray, "scenes tokens slots"]]]:
        """Predicted slots of all probes by ``(trained_on, kind)``, and the probabilities of those that are mapped."""
        probes = {(t.trained_on, kind): probe for t in trained for kind, probe in t.probes.items()}
        return answers(features, site, scenes, probes, mapped=_MAPPED if scenes.weights is None else ())

    def _score(
        self,
        labelled: _Labelled,
        site: str,
        trained: Sequence[_Trained],
        predicted: dict[tuple[str, str], Int[np.ndarray, "scenes tokens"]],
        scored_on: str,
        scenes: Group,
        kinds: Sequence[str] = ("logistic", "centroid", "difference", "shuffled", "control_task"),
    ) -> None:
        for t in trained:
            for kind in (*kinds, *(("published",) if "published" in t.probes else ())):
                names = self._names(labelled, site, kind, t.trained_on, scored_on, t.probes.get(kind))
                labels: Callable[[TokenSet], np.ndarray] | None = None
                reason = None if kind in t.probes else t.reason
                if kind == "control_task":
                    if labelled.control is None:
                        reason = reason or f"fewer than {len(labelled.slots)} answer words"
                    else:
                        labels = _control_labels(scenes, labelled.control)
                self.table.add(
                    score_groups(predicted.get((t.trained_on, kind)), scenes, labelled.sets(scored_on), SLOTS, labels, reason, **names)
                )

    def _score_blank(
        self, labelled: _Labelled, site: str, trained: Sequence[_Trained], blank: Float[np.ndarray, "tokens features"]
    ) -> None:
        """How often the probes name the strip that a cell has in the main test scenes when nothing is there."""
        scenes = labelled.groups["main", "test"]
        for t in trained:
            for kind in ("logistic", "centroid", "difference", "shuffled"):
                probe = t.probes.get(kind)
                predicted = None if probe is None else np.broadcast_to(probe.predict(blank), scenes.strips.shape)
                names = self._names(labelled, site, kind, t.trained_on, "blank", probe)
                self.table.add(score_groups(predicted, scenes, labelled.token_sets, SLOTS, reason=t.reason, **names))
        if "logistic" in trained[0].probes:
            self.geometry.strip_index(labelled.axis, site, "blank", trained[0].probes["logistic"].predict_proba(blank)[None], self.grid)

    def _blank(self, labelled: _Labelled, site: str) -> Float[np.ndarray, "tokens features"] | None:
        """Mean activation of the blank canvases at every cell."""
        if not labelled.blank:
            return None
        batches = Whole(self.store).batches(site, labelled.blank, BATCH)
        return np.sum([values.sum(axis=0) for _, values in batches], axis=0) / np.float32(len(labelled.blank))

    @staticmethod
    def _names(labelled: _Labelled, site: str, kind: str, trained_on: str, scored_on: str, probe: Probe | None) -> dict[str, Any]:
        strength = None if probe is None else probe.strength
        return {"site": site, "kind": kind, "axis": labelled.axis, "trained_on": trained_on, "scored_on": scored_on, "strength": strength}


def _control_labels(scenes: Group, control: Int[np.ndarray, " words"]) -> Callable[[TokenSet], Int[np.ndarray, "scenes tokens"]]:
    return lambda token_set: control_labels_at_objects(scenes, control) if token_set == "object" else control_labels(scenes, control)
