"""Numbers that are none: what overflows is never scored as an answer nor stored, and the user is told where it began."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vlm_spatial.errors import UserError
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.inputs import Prompt
from vlm_spatial.models.values import Edit, Site

Shown = tuple[Image.Image, Prompt, Mapping[Site, Edit]]
"""A run: image, prompt and edits."""


def require_finite(adapter: Adapter, numbers: Tensor, run: Callable[[int], Shown], what: str) -> None:
    """Refuse rows of logits, or of what was made of them, that hold NaN or infinite numbers.

    Args:
        numbers: ``[runs, …]``.
        run: the plain run that row ``i`` belongs to, for finding the site at which it overflows.
        what: names the runs in the message.

    Raises:
        UserError: naming the first site whose output overflows, and what to do.
    """
    # A sum is NaN or infinite if a term is, and much faster than looking at each.
    sums = numbers.flatten(1).sum(dim=1)
    if bool(torch.isfinite(sums).all()):
        return
    row = int((~torch.isfinite(sums)).nonzero()[0])
    if bool(torch.isfinite(numbers[row]).all()):
        return
    raise overflow(adapter, first_overflow(adapter, *run(row)), what)


def overflow(adapter: Adapter, site: Site | None, what: str) -> UserError:
    """What to say of runs that overflow, at ``site`` or (None) not without the intervention."""
    where = f"the first at {site}" if site else "which the model without this intervention does not"
    dtype = adapter.identity.dtype
    cure = "set models.*.dtype to bfloat16 or float32" if dtype == "float16" else "use smaller alphas, or look at the checkpoint's weights"
    if site and dtype != "float16":
        cure = "set models.*.dtype to float32" if dtype == "bfloat16" else "the checkpoint's weights are damaged or were never trained"
    return UserError(f"{adapter.identity.checkpoint}: {what}: computes NaN or infinite values in {dtype}, {where}; {cure}")


def first_overflow(adapter: Adapter, image: Image.Image, prompt: Prompt, edits: Mapping[Site, Edit]) -> Site | None:
    """The first site, in the order of computation, whose output is not finite in a plain run; None if there is none."""
    prepared = adapter.prepare([image], [prompt])
    logits, values = adapter.run(prepared, edits=dict(edits), capture=adapter.sites)
    bad = (site for site in adapter.sites if site in values and not bool(torch.isfinite(values[site]).all()))
    return next(bad, None if bool(torch.isfinite(logits).all()) else f"language.{len(adapter.language_blocks) - 1} or the head")


def finite_values(adapter: Adapter, site: Site, values: Any) -> Any:
    """``values`` of a site, if all of them are finite.

    Raises:
        UserError: otherwise, naming the site.
    """
    if not bool(torch.isfinite(values.sum(dtype=torch.float32))) and not bool(torch.isfinite(values).all()):
        raise overflow(adapter, site, "activations")
    return values
