"""The plain way to run a model: transformers' own forward pass, with hooks that read and edit sites.

Everything that reads or edits a model outside the engine goes through :class:`Hooks`, and the engine is held against it.
"""

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

if TYPE_CHECKING:
    from vlm_spatial.models.adapter import Adapter
    from vlm_spatial.models.values import Edit, Prepared, Site, SiteValues, TextEdit, TextValues

Reduced = Float[Tensor, "batch rows features"]
Reduce = Callable[["Site", "SiteValues"], Reduced]


class _LastSiteError(Exception):
    """Ends a forward pass after the last site that is asked for."""


@dataclass
class Found:
    """What one pass gave: visual tokens' values, whole prompts' values and what else vision blocks hold, by site; before any edit."""

    values: dict["Site", "SiteValues"] = field(default_factory=dict)
    text: dict["Site", "TextValues"] = field(default_factory=dict)
    rests: dict["Site", Tensor | None] = field(default_factory=dict)


@dataclass(frozen=True)
class _Pass:
    """What one thread's pass is about."""

    prepared: "Prepared"
    edits: Mapping["Site", "Edit"] = field(default_factory=dict)
    text_edits: Mapping["Site", "TextEdit"] = field(default_factory=dict)
    capture: Collection["Site"] = ()
    capture_text: Collection["Site"] = ()
    reduce: Reduce | None = None
    last: "Site | None" = None
    found: Found = field(default_factory=Found)


class _Current(threading.local):
    """The calling thread's pass; None between passes."""

    running: _Pass | None = None


class Hooks:
    """Hooks on ``sites``, always removed; a context manager. Passes may run in several threads at once.

    Args:
        adapter: the model.
        sites: every site that passes read or edit.

    Raises:
        UserError: if the model lacks a site.
    """

    def __init__(self, adapter: "Adapter", sites: Collection["Site"]) -> None:
        from vlm_spatial.models.values import EMBEDDING

        self._adapter = adapter
        self._current = _Current()
        self._handles: list[Any] = []
        self._embedding = EMBEDDING if EMBEDDING in sites else None
        # In the order of computation. Looked up before the first hook is set, so that an unknown site leaves none behind.
        self._modules = {site: adapter.module(site) for site in sorted(set(sites) - {EMBEDDING}, key=self._order)}

    def _order(self, site: "Site") -> int:
        sites = self._adapter.sites
        return sites.index(site) if site in sites else len(sites)

    def __enter__(self) -> Self:
        # Before transformers' own hooks, which some models collect their vision features with.
        self._handles = [module.register_forward_hook(self._hook(site), prepend=True) for site, module in self._modules.items()]
        if self._embedding:
            first = self._adapter.language_blocks[0]
            self._handles.append(first.register_forward_pre_hook(self._before_first_block, prepend=True))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for handle in self._handles:
            handle.remove()

    @torch.inference_mode()
    def run(
        self,
        prepared: "Prepared",
        edits: Mapping["Site", "Edit"] | None = None,
        text_edits: Mapping["Site", "TextEdit"] | None = None,
        capture: Collection["Site"] = (),
        capture_text: Collection["Site"] = (),
    ) -> tuple[Float[Tensor, "batch vocabulary"], Found]:
        """One whole pass: last-position logits, float32, and what was asked for."""
        about = _Pass(prepared, edits or {}, text_edits or {}, capture, capture_text)
        output = self._during(about, lambda: self._adapter.model(**prepared.inputs, use_cache=False, logits_to_keep=1))
        return output.logits[:, -1].float(), about.found

    @torch.inference_mode()
    def encode(self, prepared: "Prepared", edits: Mapping["Site", "Edit"] | None = None, capture: Collection["Site"] = ()) -> Found:
        """The vision encoder and the connector only."""
        about = _Pass(prepared, edits or {}, capture=capture)
        self._during(about, lambda: self._adapter.encode(prepared))
        return about.found

    @torch.inference_mode()
    def around(self, function: Callable[[], Tensor], prepared: "Prepared", edits: Mapping["Site", "Edit"]) -> Tensor:
        """What ``function``, which runs some of the model's blocks, gives under ``edits``."""
        return self._during(_Pass(prepared, edits), function)

    @torch.inference_mode()
    def reduced(self, prepared: "Prepared", reduce: Reduce) -> dict["Site", Reduced]:
        """Run the model no further than the last site and keep what ``reduce`` makes of each, on the CPU.

        Args:
            reduce: must return a tensor of its own, not a view.
        """
        about = _Pass(prepared, capture=self._modules, reduce=reduce, last=list(self._modules)[-1])
        try:
            inputs = self._adapter.with_masks(prepared.inputs)
            self._during(about, lambda: self._adapter.model(**inputs, use_cache=False, logits_to_keep=1))
        except _LastSiteError:
            pass
        if self._adapter.device.type == "cuda":
            torch.cuda.synchronize()
        return about.found.values

    def _during(self, about: _Pass, function: Callable[[], Any]) -> Any:
        self._current.running = about
        try:
            return function()
        finally:
            self._current.running = None

    def _hook(self, site: "Site") -> Callable[..., Any]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
            about = self._current.running
            return None if about is None else self._at(about, site, output)

        return hook

    def _at(self, about: _Pass, site: "Site", output: Any) -> Any:
        """The site's output after the pass's edits; None if there are none."""
        adapter, prepared, found = self._adapter, about.prepared, about.found
        if site in about.capture_text:
            found.text[site] = output.detach().clone()
        changed = None
        if site in about.capture or site in about.edits:
            values = adapter.read(site, output, prepared)
            if site in about.capture:
                # From a CUDA device this copy runs beside the next layers.
                reduce = about.reduce
                found.values[site] = reduce(site, values).to("cpu", non_blocking=True) if reduce else values.detach().clone()
                found.rests[site] = None if reduce else adapter.rest(site, output, prepared)
            if site in about.edits:
                changed = adapter.write(site, output, about.edits[site](values), prepared)
        if site in about.text_edits:
            changed = about.text_edits[site](output if changed is None else changed)
        if site == about.last:
            raise _LastSiteError
        return changed

    def _before_first_block(self, _module: nn.Module, inputs: tuple[Any, ...]) -> Any:
        about, site = self._current.running, self._embedding
        if about is None or site is None:
            return None
        if site in about.capture_text:
            about.found.text[site] = inputs[0].detach().clone()
        return (about.text_edits[site](inputs[0]), *inputs[1:]) if site in about.text_edits else None


def capture(adapter: "Adapter", prepared: "Prepared", sites: Sequence["Site"], reduce: Reduce) -> dict["Site", Reduced]:
    """One batch, as :meth:`Hooks.reduced` does it."""
    with Hooks(adapter, sites) as hooks:
        return hooks.reduced(prepared, reduce)
