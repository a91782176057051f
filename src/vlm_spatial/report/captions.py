"""Captions of Snakemake's own report: ``python -m vlm_spatial.report.captions > rules/captions/figure.rst``.

Snakemake renders one caption file for all files of a pattern, with the pattern's wildcards at hand and nothing of the file's content. So
the caption says what a figure of this name shows; the numbers of this run (n, intervals, what was set aside) are in the ``.md`` beside
the figure and in ``report.html``.
"""

import json

from vlm_spatial.figures import amplified_models, comparison, sizes, strip_maps
from vlm_spatial.figures.catalogue import FIGURES

HEAD = """{#- Written by `python -m vlm_spatial.report.captions`; a test holds it to the figures. -#}
"""
TAIL = """{%- set name = snakemake.wildcards.figure.split("-")[0] -%}
**{{ about[name][0] }}.** {{ about[name][1] }}

Bars and bands are 95% intervals where an estimate has one. The caption with this run's n is in ``{{ snakemake.wildcards.figure }}.md``,
the numbers in ``{{ snakemake.wildcards.figure }}.csv``, the page to explore them in ``report.html``.
"""


def about() -> dict[str, tuple[str, str]]:
    """Title and question of every figure, by the name of its file up to a hyphen."""
    drawn = {figure.name: (figure.title, figure.question) for figure in FIGURES}
    maps = {strip_maps.NAME: (strip_maps.TITLE, strip_maps.QUESTION)}
    together = {comparison.NAME: (comparison.TITLE, "How do the models differ, claim by claim?")}
    together |= {module.NAME: (module.TITLE, module.QUESTION) for module in (sizes, amplified_models)}
    return drawn | maps | together


def document() -> str:
    """The caption file: a Jinja template of reStructuredText."""
    entries = "".join(f"  {json.dumps(name)}: {json.dumps(list(texts), ensure_ascii=False)},\n" for name, texts in sorted(about().items()))
    return f"{HEAD}{{%- set about = {{\n{entries}}} -%}}\n{TAIL}"


if __name__ == "__main__":
    print(document(), end="")
