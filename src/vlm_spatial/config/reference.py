"""The page of every configuration key, made from the typed model: ``python -m vlm_spatial.config.reference > docs/config.md``."""

from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from vlm_spatial.config.workflow import Config
from vlm_spatial.scenes.sources.registry import SOURCES
from vlm_spatial.scenes.sources.settings import DatasetSettings

_HEAD = """# Every configuration key

Made from the typed model in `src/vlm_spatial/config/` and `src/vlm_spatial/scenes/sources/` by `python -m vlm_spatial.config.reference`;
a test fails when this page is not current.
A key that is not listed here is refused before any job starts. Durations, sizes and shares are plain numbers; shares lie in [0, 1].
"""


def sections(model: type[BaseModel], key: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """``model`` and every section below it, with the key it is found at (``<name>`` where the user chooses the name)."""
    yield key, model
    # Sections that several kinds of datasets share are listed once.
    listed = set()
    for name, field in model.model_fields.items():
        below = f"{key}.{name}" if key else name
        for kind in (field.annotation, *get_args(field.annotation)):
            plain_kind = get_args(kind)[0] if get_origin(kind) is Annotated else kind
            if plain_kind is DatasetSettings:
                for source in SOURCES:
                    (_, settings), *shared = sections(source.settings, f"{below}.<name>")
                    yield f"{below}.<name>, kind {source.kind}", settings
                    yield from (section for section in shared if section not in listed)
                    listed.update(shared)
            elif isinstance(plain_kind, type) and issubclass(plain_kind, BaseModel):
                yield from sections(plain_kind, f"{below}.<name>" if get_origin(field.annotation) is dict else below)


def reference() -> str:
    """The page, as Markdown."""
    parts = [_HEAD]
    for key, model in sections(Config):
        parts.append(f"\n## {f'`{key}`' if key else 'Top level'}\n\n{(model.__doc__ or '').splitlines()[0]}\n")
        parts.append("| key | type | default | meaning |\n|---|---|---|---|")
        parts += [
            f"| `{name}` | {_kind(field.annotation, field.metadata)} | {_default(field)} | {field.description or ''} |"
            for name, field in model.model_fields.items()
        ]
    return "\n".join(parts) + "\n"


def _kind(annotation: Any, metadata: list[Any]) -> str:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    if get_origin(annotation) is dict:
        return "section for each name"
    text = str(annotation) if get_origin(annotation) else getattr(annotation, "__name__", str(annotation))
    for noise in ("typing.", "vlm_spatial.config."):
        text = text.replace(noise, "")
    text = _readable(annotation) if get_origin(annotation) else text
    limits = [f"{sign} {getattr(m, name)}" for m in metadata for name, sign in _LIMITS.items() if getattr(m, name, None) is not None]
    return ", ".join([text, *limits]).replace("|", "or")


_LIMITS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def _readable(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is None:
        return "null" if annotation is type(None) else getattr(annotation, "__name__", str(annotation))
    if str(origin) == "typing.Literal":
        return " or ".join(f"`{a}`" for a in arguments)
    if origin is tuple:
        return "list of " + _readable(arguments[0]) if arguments[-1] is Ellipsis else "[" + ", ".join(map(_readable, arguments)) + "]"
    if origin is Annotated:
        return _readable(arguments[0])
    return " or ".join(_readable(a) for a in arguments)


def _default(field: Any) -> str:
    if field.default is PydanticUndefined:
        return "(required)"
    if isinstance(field.default, BaseModel):
        values = field.default.model_dump(exclude_defaults=True)
        return f"`{values}`" if values else "below"
    value = list(field.default) if isinstance(field.default, tuple) else field.default
    return f"`{value}`"


if __name__ == "__main__":
    print(reference(), end="")
