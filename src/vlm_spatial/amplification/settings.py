"""The settings of a sweep: both forms of amplification at a site, and the controls of each."""

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from vlm_spatial.amplification.corrections import (
    Basis,
    NormMatched,
    Oracle,
    Projection,
    probe_basis,
    probe_centre,
    slot_directions,
    turned,
)
from vlm_spatial.amplification.sweep import Setting
from vlm_spatial.errors import UserError
from vlm_spatial.interventions.subspaces import random_basis
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.values import Site
from vlm_spatial.probes.saved import Probes
from vlm_spatial.scenes.dataset import Dataset

SlotsOf = Callable[[str], tuple[str, Int[np.ndarray, " cells"]]]
"""Scene id → its axis, and the slot whose strip each cell lies in (-1: padding)."""


@dataclass(frozen=True)
class Fit:
    """What the probes of one dataset say of one site.

    Attributes:
        basis: ``[rank, features]``, the slot subspace of all axes.
        directions: by axis, ``[slots, features]``: one natural unit of each slot's signal, inside ``basis``.
        shuffled: the subspace of the probes for shuffled labels.
        centre: ``[features]``, the mean object token.
    """

    site: Site
    basis: Basis
    directions: Mapping[str, Float[np.ndarray, "slots features"]]
    shuffled: Basis
    centre: Float[np.ndarray, " features"]

    @classmethod
    def of(cls, probes: Probes, site: Site, adapter: Adapter) -> "Fit":
        """The probes' fit at ``site``; a UserError if they are not of this model, or none is there."""
        weights, features = adapter.identity.weights, adapter.site_shape(site)[1]
        basis = probe_basis(probes, site, weights, features)
        directions = {axis: slot_directions(probe.class_mean, basis) for (axis, where), probe in probes.items() if where == site}
        return cls(site, basis, directions, probe_basis(probes, site, weights, features, shuffled=True), probe_centre(probes, site))

    def random(self, draws: int, generator: np.random.Generator) -> list[Basis]:
        """Random subspaces of the same rank."""
        rank, features = self.basis.shape
        return [random_basis(rank, features, generator) for _ in range(draws)]

    def projections(self, alphas: Sequence[float]) -> list[Setting]:
        """The label-free form."""
        return [Setting(self.site, "projection", 0, alpha, _always(Projection(self.basis, alpha, self.centre))) for alpha in alphas]

    def oracles(self, alphas: Sequence[float], slots_of: SlotsOf) -> list[Setting]:
        """The oracle form, on the axes that have a probe."""
        return [self._oracle("oracle", 0, self.directions, alpha, slots_of) for alpha in alphas]

    def random_subspaces(self, others: Sequence[Basis], alpha: float) -> list[Setting]:
        """Controls of the label-free form: as far, inside random subspaces."""
        return [self._matched("random", draw, other, alpha) for draw, other in enumerate(others)]

    def other_subspaces(self, alpha: float) -> list[Setting]:
        """What the label-free form is compared with: as far, inside the complement; as far, inside the subspace of probes for shuffled
        labels; and without a centre.
        """
        uncentred = Setting(self.site, "uncentred", 0, alpha, _always(Projection(self.basis, alpha)))
        return [self._matched("complement", 0, self.basis, alpha), self._matched("shuffled", 0, self.shuffled, alpha), uncentred]

    def random_directions(self, others: Sequence[Basis], alpha: float, slots_of: SlotsOf) -> list[Setting]:
        """Controls of the oracle form: the slots' directions turned into random subspaces, lengths and angles between them kept."""
        every = [{axis: turned(found, self.basis, other) for axis, found in self.directions.items()} for other in others]
        return [self._oracle("oracle_random", draw, directions, alpha, slots_of) for draw, directions in enumerate(every)]

    def _matched(self, method: str, draw: int, other: Basis, alpha: float) -> Setting:
        correction = NormMatched(self.basis, other, alpha, complement=method == "complement", centre=self.centre)
        return Setting(self.site, method, draw, alpha, _always(correction))

    def _oracle(
        self, method: str, draw: int, directions: Mapping[str, Float[np.ndarray, "slots features"]], alpha: float, slots_of: SlotsOf
    ) -> Setting:
        def make(scene_id: str) -> Oracle:
            axis, slots = slots_of(scene_id)
            return Oracle(directions[axis], slots, alpha)

        return Setting(self.site, method, draw, alpha, make, axes=frozenset(directions))


def fits(probes: Probes, patterns: Sequence[str], adapter: Adapter) -> list[Fit]:
    """The fit at every site that ``patterns`` name and that has a probe."""
    return [Fit.of(probes, site, adapter) for site in with_probes(visual_sites(adapter, patterns), probes)]


def random_subspaces(of_sites: Sequence[Fit], draws: int, seed: int) -> dict[Site, list[Basis]]:
    """The random controls of every site: the same ones for the same sites, draws and seed."""
    generator = np.random.default_rng(seed)
    return {fit.site: fit.random(draws, generator) for fit in of_sites}


def slots_of_scenes(dataset: Dataset, adapter: Adapter) -> SlotsOf:
    """The strips of a dataset's scenes on the model's token grid; what the oracle form is told."""
    axis_of = dict(dataset.scenes.select("scene_id", "axis").iter_rows())

    # Asked anew for every setting of a scene.
    @functools.lru_cache(maxsize=1)
    def slots_of(scene_id: str) -> tuple[str, Int[np.ndarray, " cells"]]:
        tokens = dataset.tokens(scene_id, adapter.grid(*dataset.size(scene_id)))
        return axis_of[scene_id], tokens.strip_of_cell

    return slots_of


def with_probes(sites: Sequence[Site], probes: Probes) -> tuple[Site, ...]:
    """The sites that have a probe on some axis; those whose data could not bear one (few photos) are left out with a word on stderr.

    A site that was never probed stays, and is an error where it is used.
    """
    kept = []
    for site in sites:
        reasons = [reason for key, reason in probes.metadata.get("inconclusive", {}).items() if key.partition("/")[2] == site]
        if reasons and not any(where == site for _, where in probes):
            print(f"amplification: nothing to amplify at {site}: {reasons[0]}", file=sys.stderr, flush=True)
        else:
            kept.append(site)
    return tuple(kept)


def visual_sites(adapter: Adapter, patterns: Sequence[str]) -> tuple[Site, ...]:
    """The sites to correct.

    Raises:
        UserError: if one of them is in the language model.
    """
    sites = adapter.matching_sites(patterns)
    for site in sites:
        if site.startswith("language."):
            raise UserError(
                f"amplification.sites: {site} is in the language model; the vision signal is corrected at vision.<layer> or connector"
            )
    return sites


def _always(correction: Projection | NormMatched) -> Callable[[str], Projection | NormMatched]:
    return lambda _scene: correction
