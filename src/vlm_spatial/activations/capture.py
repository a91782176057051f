"""Reading all sites of a forward pass at once, from several threads if need be."""

import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vlm_spatial.models.adapter import Adapter, Prepared, Site, SiteValues

Reduced = Float[Tensor, "batch rows features"]
Reduce = Callable[[Site, SiteValues], Reduced]


class _LastSiteError(Exception):
    """Ends a forward pass after the last site that is asked for."""


class _Running(threading.local):
    """What the calling thread's forward pass is about; None between passes."""

    prepared: Prepared | None = None
    reduce: Reduce
    captured: dict[Site, Reduced]


class Capture:
    """Hooks on ``sites`` (in the order of computation); a context manager. Call it once a batch, from any thread."""

    def __init__(self, adapter: Adapter, sites: Sequence[Site]) -> None:
        self._adapter = adapter
        self._sites = tuple(sites)
        self._running = _Running()
        self._handles: list[Any] = []

    def __enter__(self) -> Self:
        self._handles = [self._adapter.module(site).register_forward_hook(self._hook(site)) for site in self._sites]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for handle in self._handles:
            handle.remove()

    @torch.inference_mode()
    def __call__(self, prepared: Prepared, reduce: Reduce) -> dict[Site, Reduced]:
        """Run the model no further than the last site and keep what ``reduce`` makes of each, on the CPU.

        Args:
            reduce: must return a tensor of its own, not a view.
        """
        running = self._running
        running.prepared, running.reduce, running.captured = prepared, reduce, {}
        try:
            self._adapter.model(**self._adapter.with_masks(prepared.inputs), use_cache=False, logits_to_keep=1)
        except _LastSiteError:
            pass
        finally:
            running.prepared = None
        if self._adapter.device.type == "cuda":
            torch.cuda.synchronize()
        return running.captured

    def _hook(self, site: Site) -> Callable[..., None]:
        last = site == self._sites[-1]

        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            running = self._running
            if running.prepared is None:
                return
            # From a CUDA device this copy runs beside the next layers.
            values = running.reduce(site, self._adapter.read(site, output, running.prepared))
            running.captured[site] = values.to("cpu", non_blocking=True)
            if last:
                raise _LastSiteError

        return hook


def capture(adapter: Adapter, prepared: Prepared, sites: Sequence[Site], reduce: Reduce) -> dict[Site, Reduced]:
    """One batch, as :class:`Capture` does it."""
    with Capture(adapter, sites) as captured:
        return captured(prepared, reduce)
