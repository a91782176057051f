"""``datasets``: the settings of each dataset, of one class for each kind in :mod:`vlm_spatial.scenes.sources.registry`."""

from typing import Annotated, Any, Literal

from pydantic import PlainValidator, SerializeAsAny, TypeAdapter, create_model

from vlm_spatial.config.settings import Settings
from vlm_spatial.scenes.sources.registry import KINDS, SOURCES, source_of
from vlm_spatial.scenes.sources.settings import DatasetSettings

# A ``Literal`` of a list that is known only at run time.
_Kind: Any = create_model("_Kind", __base__=Settings, kind=(Literal[KINDS], ...))  # type: ignore[arg-type]


def _of_its_kind(values: Any) -> DatasetSettings:
    """Validated as settings of the kind that ``values`` name, so that every fault is one of that kind's keys."""
    if isinstance(values, DatasetSettings):
        return values
    # What names no kind is refused here, a misspelt ``kind`` among it.
    _Kind.model_validate({"kind": values["kind"]} if isinstance(values, dict) and "kind" in values else values)
    settings: DatasetSettings = source_of(values["kind"]).settings.model_validate(values)
    return settings


AnyDataset = Annotated[SerializeAsAny[DatasetSettings], PlainValidator(_of_its_kind)]
"""Settings of any kind of dataset: a union that ``kind`` tells apart."""
_ADAPTER: TypeAdapter[DatasetSettings] = TypeAdapter(AnyDataset)


def dataset_settings(values: Any = None, **keys: Any) -> DatasetSettings:
    """The settings that a mapping (or keywords) says, of the class of its ``kind``.

    Raises:
        pydantic.ValidationError: if they are not valid.
    """
    return _ADAPTER.validate_python(values if values is not None else keys)


def allowed_keys(kind: Any) -> list[str]:
    """The keys of an entry of ``datasets`` of this kind; those of all kinds for what is no kind."""
    chosen = [source for source in SOURCES if source.kind == kind] or SOURCES
    return sorted({key for source in chosen for key in source.settings.model_fields})


def kinds_with(key: str) -> list[str]:
    """The kinds of datasets whose settings have this key."""
    return [source.kind for source in SOURCES if key in source.settings.model_fields]
