"""What an existing result lacks of what the configuration and the code would make now, in words."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlm_spatial import __version__
from vlm_spatial.errors import UserError
from vlm_spatial.stages.registry import STAGES
from vlm_spatial.workflow.code_identity import CODE_CACHE, stage_identity
from vlm_spatial.workflow.planning import Plan
from vlm_spatial.workflow.provenance import damage, is_of_older_layout, read_record, why_no_record


class Existing:
    """The results on disk that a plan asks for."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._digests: dict[str, str | None] = {}

    def results(self) -> Iterator[tuple[Path, tuple[str, ...]]]:
        """Each result, with the names it belongs to."""
        for stage in STAGES:
            yield from ((path, names) for path, names in self._plan.results_of(stage) if path.exists())

    def reasons(self, result: Path, names: tuple[str, ...]) -> list[str]:
        """Why ``result`` has to be made anew, in words that name the setting, module, package or file; empty if it does not."""
        record = read_record(result)
        if record is None:
            return [why_no_record(result)]
        try:
            identity = stage_identity(record.stage, CODE_CACHE)
        except UserError:
            return [f"made by stage {record.stage!r}, which this version does not have"]
        settings = self._plan.settings(record.stage, names)
        place = result.relative_to(self._plan.results).parts
        reasons = [] if Path(record.result).parts[-len(place) :] == place else [f"made as {record.result}"]
        reasons += [f"setting {difference}" for difference in _differences(record.settings, settings)]
        reasons += [f"code {difference}" for difference in _changed(record.modules, identity.modules)]
        reasons += [f"package {difference}" for difference in _differences(record.packages, identity.packages)]
        reasons += [f"file {difference}" for difference in _changed(record.content, self._plan.content(settings))]
        reasons += [f"input {path} changed" for path, digest in record.inputs.items() if self._digest(path) != digest]
        damaged = damage(result)
        return reasons + ([damaged] if damaged else [])

    def upgrade_note(self, result: Path) -> str | None:
        """For a result that has to be made anew: if another release made it, what that means and how to keep it; else ``None``."""
        if is_of_older_layout(result):
            layouts = [is_of_older_layout(path) for path, _ in self.results()]
            return (
                f"{self._plan.results}: {sum(layouts)} results of an older layout are made again, the other {layouts.count(False)} are "
                "reused where nothing changed; nothing is deleted before it is made again (docs/upgrading.md)"
            )
        record = read_record(result)
        if record is None or record.version == __version__:
            return None
        return (
            f"results from another version (made by vlm_spatial {record.version or 'without a number'}, this is {__version__}): what this "
            "version makes differently is made again; to keep the old results, set another results: folder or check out that version "
            "(docs/caching.md)"
        )

    def _digest(self, path: str) -> str | None:
        if path not in self._digests:
            record = read_record(Path(path))
            self._digests[path] = None if record is None else record.digest
        return self._digests[path]


def _differences(old: Any, new: Any, key: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            yield from _differences(old.get(name), new.get(name), f"{key}.{name}" if key else name)
    elif old != new:
        yield f"{key}: {old!r} → {new!r}"


def _changed(old: dict[str, str], new: dict[str, str]) -> Iterator[str]:
    """Names whose hash differs; the hashes themselves tell a reader nothing."""
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            yield f"{name} " + ("is new" if name not in old else "is gone" if name not in new else "changed")
