"""What names hold is strengthened: which of two is asked about, or where the one that is asked about stands.

- ``role``: for questions on two named objects. The direction is the residual at the name of the object that is asked about (the target),
  minus that at the other one's (the reference). It is a mean over training pictures. In each, both objects are the target in turn, and two
  wordings name the target first and second. So neither object, place nor order is in it. Half of it is added at the target's name and
  taken away at the reference's: α = 1 doubles the mean difference. No label is needed.
- ``spatial_id``: a question on where one named object stands has no reference. The spatial ID of the object's slot is added at its name
  (:mod:`vlm_spatial.interventions.spatial_ids`), learned from the other half of the objects. It is told the slot, as ``oracle`` is.

Other questions name nothing, or what is not asked about; they have no rows.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from vlm_spatial.amplification.edited import EditedRun, Parts
from vlm_spatial.interventions.edited_runs import language_sites
from vlm_spatial.interventions.patch import CLEAN, Patch, Run
from vlm_spatial.interventions.pictures import pictures
from vlm_spatial.interventions.spatial_ids import TEMPLATE, Added, Fitted, every_word, fit_ids, half_of, held_at
from vlm_spatial.interventions.token_groups import name_position, names_once
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.values import Site
from vlm_spatial.progress import progress
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.scenes.natural_questions import relation_wordings

ROLE, SPATIAL_ID = "role", "spatial_id"
RELATION = "relation_to_object"


@dataclass(frozen=True)
class Names:
    """The objects of every scene, by slot."""

    adapter: Adapter
    of_scene: Mapping[str, Mapping[int, str]]
    words: Sequence[str]

    @classmethod
    def of(cls, adapter: Adapter, dataset: Dataset) -> "Names":
        """Those of a dataset."""
        rows = dataset.scenes.select("scene_id", "slots", "objects").iter_rows()
        return cls(adapter, {scene: dict(zip(slots, objects, strict=True)) for scene, slots, objects in rows}, every_word(dataset))

    def asked(self, question: Mapping[str, Any]) -> tuple[str, str | None] | None:
        """Target and reference of a question; the target alone of one on a slot; None for questions that name otherwise."""
        of_slots, slot = self.of_scene[question["scene_id"]], question["slot"]
        if question["template"] == TEMPLATE:
            return of_slots[slot], None
        if question["template"] == RELATION and len(of_slots) == 2:
            return of_slots[slot], next(name for other, name in of_slots.items() if other != slot)
        return None


def role_directions(
    adapter: Adapter, dataset: Dataset, sites: Sequence[Site], limit: int, seed: int
) -> dict[str, Float[np.ndarray, "sites features"]]:
    """By axis the mean residual at the target's name minus that at the reference's, of ``limit`` random training pictures of two objects.

    An axis without such pictures has none.
    """
    names = Names.of(adapter, dataset)
    questions = dataset.questions.filter(template=RELATION, variant="main", split="train").sort("scene_id", "slot")
    found = {}
    for axis in sorted(questions["axis"].unique()):
        scenes = [scene for scene in questions.filter(axis=axis)["scene_id"].unique(maintain_order=True) if len(names.of_scene[scene]) == 2]
        chosen = [scenes[number] for number in np.random.default_rng(seed).permutation(len(scenes))[:limit]]
        steps = []
        for scene in progress(chosen, f"role direction, {axis}", len(chosen)):
            image = pictures(adapter, dataset, [scene])[scene]
            pair = tuple(names.of_scene[scene].values())
            for target, reference in (pair, pair[::-1]):
                for prompt in relation_wordings(axis, target, reference):
                    if names_once(prompt, target) and names_once(prompt, reference):
                        places = [name_position(adapter, image, prompt, name, names.words) for name in (target, reference)]
                        at_target, at_reference = held_at(adapter, sites, image, prompt, places)
                        steps.append(at_target - at_reference)
        if steps:
            found[axis] = np.mean(steps, axis=0)
    return found


@dataclass(frozen=True)
class Strengthened:
    """Makes the edits of questions.

    Attributes:
        roles: by axis the direction at each site.
        ids: the spatial IDs, by axis and the half of the objects that they are used on.
    """

    names: Names
    sites: Sequence[Site]
    alphas: Sequence[float]
    roles: Mapping[str, Float[np.ndarray, "sites features"]]
    ids: Mapping[tuple[str, int], Fitted]

    @classmethod
    def of(
        cls, adapter: Adapter, dataset: Dataset, patterns: Sequence[str], alphas: Sequence[float], limit: int, seed: int
    ) -> "Strengthened":
        """Directions and IDs from ``limit`` training questions of an axis; nothing is run without ``alphas``.

        Raises:
            UserError: for sites that are none of the language model's layers.
        """
        sites = language_sites(adapter, patterns, "amplification.role_sites") if alphas else ()
        roles = role_directions(adapter, dataset, sites, limit, seed) if alphas else {}
        ids = fit_ids(adapter, dataset, sites, limit, seed) if alphas else {}
        return cls(Names.of(adapter, dataset), sites, alphas, roles, ids)

    def edits(self, question: Mapping[str, Any]) -> list[EditedRun]:
        """What is done to a question, at every site and α.

        Nothing, where it names its objects in another way or nothing was learned for it.
        """
        asked = self.names.asked(question) if self.alphas else None
        if asked is None or not all(name is None or names_once(question["prompt"], name) for name in asked):
            return []
        (target, reference), axis = asked, question["axis"]
        if reference is not None:
            method, steps = ROLE, self.roles.get(axis)
            shares = [(target, 0.5), (reference, -0.5)]
        else:
            fitted = self.ids.get((axis, half_of(target, self.names.words)))
            method, steps = SPATIAL_ID, None if fitted is None else fitted.slots[:, question["slot"]]
            shares = [(target, 1.0)]
        if steps is None or np.isnan(steps).any():
            return []
        return [
            EditedRun(site, method, alpha, _adding(self.names, site, [(name, share * alpha * step) for name, share in shares]))
            for site, step in zip(self.sites, steps, strict=True)
            for alpha in self.alphas
        ]


def _adding(names: Names, site: Site, steps: Sequence[tuple[str, Float[np.ndarray, " features"]]]) -> Callable[[int, Run], Parts]:
    """Adds a vector at each of several names, if it is not zero."""

    def parts(pair: int, run: Run) -> Parts:
        return tuple(
            Patch(
                pair,
                site,
                source=CLEAN,
                to_positions=np.array([name_position(names.adapter, run.image, run.prompt, name, names.words)]),
                transform=Added(step),
            )
            for name, step in steps
            if step.any()
        )

    return parts
