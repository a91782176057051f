"""The figures stage over synthetic results: all files, all numbers, nothing unescaped, and no torch."""

import csv
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import polars as pl
import pytest

import synthetic_results as synthetic
from vlm_spatial.config.figures import PublishedModel
from vlm_spatial.config.organisms import Mechanism
from vlm_spatial.errors import UserError
from vlm_spatial.figures import (
    amplification_detail,
    comparison,
    correction_transfer,
    geometry,
    merge_effect,
    paper,
    sizes,
    strip_maps,
    training,
)
from vlm_spatial.figures.catalogue import FIGURES
from vlm_spatial.figures.figure import BOTH
from vlm_spatial.figures.sites import site_order
from vlm_spatial.files import read_json
from vlm_spatial.measures import probe_scores
from vlm_spatial.measures.claims import CLAIMS
from vlm_spatial.measures.findings import findings
from vlm_spatial.measures.rates import with_shares
from vlm_spatial.report import explorer, packing, provenance
from vlm_spatial.report.field_terms import CLAIM_TERMS, GROUPS, TERMS
from vlm_spatial.report.published import names, published
from vlm_spatial.report.results import open_results
from vlm_spatial.report.truth import EXPECTATIONS, on_amplification, truth_table
from vlm_spatial.stages.figures import figures
from vlm_spatial.stages.stage import Job
from vlm_spatial.workflow.provenance import MadeBy, write_record

pytestmark = [pytest.mark.unit, pytest.mark.slow]

HOSTILE = "</script><script>document.title='broken'</script><img src=x onerror=alert(1)>&\"'"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A finished run: one model, one dataset, a hostile title."""
    job = synthetic.write_results(tmp_path_factory.mktemp("results"), {"strip-organism": synthetic.STRIP}, ("squares",), title=HOSTILE)
    figures(job)
    return job


def test_every_figure_in_every_form(finished: Job) -> None:
    folder = finished.outputs["figures"] / "strip-organism"
    # Drawn of photos only, and of several datasets only; their own tests draw them.
    elsewhere = (merge_effect.FIGURE, amplification_detail.TRANSFER, correction_transfer.FIGURE)
    for name in [*(figure.name for figure in FIGURES if figure not in elsewhere), f"{strip_maps.NAME}-squares"]:
        root = ElementTree.parse(folder / f"{name}.svg").getroot()
        assert root.tag.endswith("svg")
        assert len(list(root.iter("{http://www.w3.org/2000/svg}path"))) > 5, name
        assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        caption = (folder / f"{name}.md").read_text(encoding="utf-8")
        assert "n = " in caption, name
        assert "95%" in caption or "no interval" in caption, name
        assert len(list(csv.DictReader((folder / f"{name}.csv").open(encoding="utf-8")))) > 3, name
    assert (finished.outputs["figures"] / "_comparison" / "comparison.svg").exists()
    # One model has nothing to be compared with.
    assert not (finished.outputs["figures"] / "_comparison" / "sizes.svg").exists()
    assert 'id="figure-sizes"' not in finished.outputs["report"].read_text(encoding="utf-8")


def test_findings_stand_against_sizes_of_models_that_are_known(finished: Job) -> None:
    findings = comparison.rows(read_json(finished.outputs["findings"]), {claim.name: claim.title for claim in CLAIMS})
    twice = pl.concat([findings, findings.with_columns(model=pl.lit("large")), findings.with_columns(model=pl.lit("unknown"))])
    manifests = {
        ("strip-organism", "squares"): {"model": {"family": "gemma3", "parameters": 10**6}},
        ("large", "squares"): {"model": {"family": "llava", "parameters": 7 * 10**9}},
        # Of an older version.
        ("unknown", "squares"): {"model": {"checkpoint": "x"}},
    }
    rows = sizes.rows(twice, manifests)
    known = [name for name in sizes.CLAIMS if findings.filter(claim=name)["estimate"].is_not_null().any()]
    assert len(known) >= 3
    assert rows.select("claim", "model", "family", "parameters").rows() == [
        row for claim in known for row in ((claim, "strip-organism", "gemma3", 10**6), (claim, "large", "llava", 7 * 10**9))
    ]
    assert sizes.printed(rows, "okabe-ito") is not None
    assert "2 models of 2 families" in sizes.caption(rows)
    assert sizes.printed(sizes.rows(findings, {}), "okabe-ito") is None
    manifests["large", "squares"]["model"]["parameters"] = 10**6 + 1
    assert sizes.rows(twice, manifests).is_empty()


def test_every_figure_says_its_field_term_and_how_to_read_it(finished: Job) -> None:
    page = finished.outputs["report"].read_text(encoding="utf-8")
    assert page.count("How to read this") == len(FIGURES) + 1
    assert TERMS.keys() == {*(figure.name for figure in FIGURES), strip_maps.NAME}
    assert "Interchange intervention (activation patching) on visual tokens" in page
    assert "make run" in page
    assert "--configfile" not in page


def test_figures_are_grouped_by_question_and_claims_lead_to_them(finished: Job) -> None:
    grouped = [name for names in GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(TERMS)
    page = finished.outputs["report"].read_text(encoding="utf-8")
    assert [name for name in re.findall(r'<figure id="figure-(\w+)" data-figure', page)] == grouped
    assert CLAIM_TERMS.keys() <= {claim.name for claim in CLAIMS}
    for claim, terms in CLAIM_TERMS.items():
        assert f'<a href="#figure-{terms.figure}">figure</a>, <a href="#rule-{claim}">rule</a>' in page
        assert page.count(f'id="rule-{claim}"') == page.count(f'id="figure-{terms.figure}"') == 1


def test_the_first_screen_has_answer_and_how_sure_it_is(finished: Job) -> None:
    page = finished.outputs["report"].read_text(encoding="utf-8")
    first = page[page.index('id="found"') : page.index('id="claims"')]
    [record] = [record for record in read_json(finished.outputs["findings"]) if record["claim"] == "dominance"]
    assert "Position is read from the vision code: dominance" in first
    assert f"How sure: {record['n']} pairs; p = {record['p_holm']:.2g} after Holm over all claims" in first
    assert 'id="figure-comparison"' in first


def test_paper_size(finished: Job) -> None:
    """Two panels fit a text width of 7 inches, at 96 pixels an inch."""
    for path in (finished.outputs["figures"] / "strip-organism").glob("*.svg"):
        assert float(ElementTree.parse(path).getroot().attrib["width"]) <= 7 * 96, path.name


def test_figure_data_hold_the_planted_numbers(finished: Job) -> None:
    folder = finished.outputs["figures"] / "strip-organism"
    flips = pl.read_csv(folder / "vision_flips.csv").filter(
        (pl.col("site") == "connector") & (pl.col("axis") == BOTH) & (pl.col("source") == "counterfactual")
    )
    recovered, flips = (flips.filter(measure=name) for name in ("recovery", "answers flipped"))
    # Planted answers that flip go the whole way in log-odds, the others none of it.
    assert recovered.select("series", "estimate").sort("series").rows() == flips.select("series", "estimate").sort("series").rows()
    assert dict(flips.select("series", "n").iter_rows()) == dict.fromkeys(synthetic.STRIP.flips, 92)
    for token_set, rate in synthetic.STRIP.flips.items():
        assert flips.filter(series=token_set)["estimate"].item() == pytest.approx(2 * round(46 * rate) / 92, abs=1e-6)
    assert flips["set_aside"].unique().to_list() == [8]
    language = pl.read_csv(folder / "language_flips.csv").filter((pl.col("axis") == "vertical") & (pl.col("outcome") == "ordering"))
    ablated = language.filter(series="neutral").sort("site_index")["estimate"].to_list()
    assert ablated == pytest.approx([0.0, *(round(46 * rate) / 46 for rate in synthetic.STRIP.ordering_ablated)], abs=1e-6)
    curve = pl.read_csv(folder / "amplification.csv").filter((pl.col("axis") == BOTH) & (pl.col("measure") == "net accuracy"))
    assert curve.filter((pl.col("series") == "projection") & (pl.col("alpha") == 3))["estimate"].item() == pytest.approx(7 / 120, abs=1e-6)
    assert curve.filter("chosen").select("series", "alpha").rows() == [("oracle", 6.0), ("projection", 3.0)]
    right = pl.read_csv(folder / "accuracy.csv").filter(
        (pl.col("axis") == "horizontal") & (pl.col("variant") == "main") & (pl.col("series") == "all slots")
    )
    assert right.select("estimate", "n", "scenes").row(0) == (0.9, 60, 20)


def test_findings_file(finished: Job) -> None:
    records = read_json(finished.outputs["findings"])
    assert len(records) == len(CLAIMS)
    assert {(r["model"], r["dataset"]) for r in records} == {("strip-organism", "squares")}


def test_geometry_shows_the_planted_angles() -> None:
    table = pl.concat([synthetic.geometry(synthetic.STRIP), synthetic.between_datasets().drop("dataset")])
    tables = {"measures": pl.concat([probe_scores.overlaps(table), probe_scores.angles(table)])}
    overlap = geometry.overlap_rows(tables).filter((pl.col("subspace") == "means") & (pl.col("axis") == "vertical"))
    at_connector = dict(overlap.filter(site="connector").select("series", "estimate").iter_rows())
    planted = {"other axis": 80, "decorrelated training": 20, "other dataset": 40, "content": 30}
    assert at_connector == pytest.approx({name: np.cos(np.radians(angle)) ** 2 for name, angle in planted.items()}, abs=1e-6)
    angles = geometry.angle_rows(tables).filter((pl.col("axis") == BOTH) & (pl.col("subspace") == "logistic"))
    found = {(site, other): angle for site, other, angle in angles.select("site", "other", "estimate").iter_rows()}
    assert found["vision.1", "vision.3"] == found["vision.3", "vision.1"] == pytest.approx(20)
    assert found["connector", "language.2"] == pytest.approx(30)
    assert found["language.4", "language.4"] == 0
    assert ("vision.0", "connector") not in found


def test_the_training_curve_tells_every_series_apart(finished: Job) -> None:
    curve = training.rows({"training": synthetic.training(("shapes", "squares"))}).filter(pl.col("measure") == training.ACCURACY)
    marks = curve.select("series", "place", "where").unique()
    assert marks.height == 12
    assert marks.select("series", "place").is_unique().all()
    assert set(curve["series"]) <= set(training.SERIES)
    caption = (finished.outputs["figures"] / "strip-organism" / "training.md").read_text(encoding="utf-8")
    assert "circle squares horizontal, square squares vertical" in caption


def test_the_report_is_one_escaped_file(finished: Job) -> None:
    text = finished.outputs["report"].read_text(encoding="utf-8")
    assert finished.outputs["report"].stat().st_size < 15e6
    assert HOSTILE not in text
    assert "&lt;/script&gt;&lt;script&gt;document.title" in text
    # Nothing is loaded from anywhere: no element names a source that is not in the page itself.
    body = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert not re.findall(r"""(?:src|href|action|data)=["'](?!#|data:)""", body)
    assert text.count("<script") == 2
    for claim in ("Answers right", "Language layers carry position codes", "Amplifying pays"):
        assert claim in body


def test_planted_truths_are_told(finished: Job) -> None:
    text = finished.outputs["report"].read_text(encoding="utf-8")
    truths = text[text.index('id="truth"') :].partition("</section>")[0]
    assert truths.count("yes</td>") == sum(expected.mechanism == "strip" for expected in EXPECTATIONS)
    assert "no</td>" not in truths


def test_every_planted_mechanism_has_its_truth() -> None:
    assert {expected.mechanism for expected in EXPECTATIONS} == set(get_args(Mechanism)) - {"natural"}


def test_the_report_says_whom_amplification_must_help_and_whom_not(tmp_path: Path) -> None:
    """Both correct 58% of the errors: as it must be where the signal is weak, and as it must not where there is none."""
    models = {"weak": replace(synthetic.STRIP, mechanism="faint"), "blind": replace(synthetic.STRIP, mechanism="language")}
    job = synthetic.write_results(tmp_path, models, ("squares",))
    results = open_results(
        job.settings["models"], {name: path for name, path in job.inputs.items() if name.startswith(("scenes:", "measures:"))}
    )
    records = [record for (model, dataset), tables in results.tables.items() for record in findings(model, dataset, tables["measures"])]
    truth = truth_table(results, records)
    assert on_amplification(truth, "weak", "squares") == [
        "Planted with a slot signal that is there but weak, so amplification must correct errors "
        "(errors corrected over random subspaces ≥ 0.5): it holds."
    ]
    assert on_amplification(truth, "blind", "squares") == [
        "Planted without a spatial code in vision, so amplification must not be found to correct errors "
        "(errors corrected over random subspaces ≤ 0.05): it does not hold."
    ]


def test_a_truth_that_is_not_found_is_told(tmp_path: Path) -> None:
    """A natural model that is said to be a strip organism: the table is computed from what it does."""
    job = synthetic.write_results(tmp_path, {"liar": replace(synthetic.NATURAL, mechanism="strip")}, ("squares",))
    results = open_results(job.settings["models"], job.inputs)
    records = findings("liar", "squares", results.tables["liar", "squares"]["measures"])
    rows = {row["expected"]: row for row in truth_table(results, records)}
    assert set(rows) >= {"rim flips − object flips > 0", "dominance > 0"}
    assert rows["rim flips − object flips > 0"]["measured"] == pytest.approx(-1.0)
    assert not any(rows[name]["holds"] for name in ("rim flips − object flips > 0", "dominance > 0"))


def test_two_runs_are_identical(finished: Job, tmp_path: Path) -> None:
    again = replace(finished, outputs={name: tmp_path / path.name for name, path in finished.outputs.items()})
    figures(again)
    for name in ("report", "findings"):
        assert again.outputs[name].read_bytes() == finished.outputs[name].read_bytes(), name
    for path in sorted(finished.outputs["figures"].rglob("*.csv")):
        assert (again.outputs["figures"] / path.relative_to(finished.outputs["figures"])).read_bytes() == path.read_bytes()


def test_scenes_alone_make_a_report(finished: Job, tmp_path: Path) -> None:
    """A run with every table missing still ends in a report that says so."""
    inputs = {name: path for name, path in finished.inputs.items() if name.startswith("scenes:")}
    synthetic.write_measures(inputs, "strip-organism", "squares", tmp_path / "measures.parquet")
    job = Job(finished.settings, inputs, {name: tmp_path / path.name for name, path in finished.outputs.items()})
    figures(job)
    text = job.outputs["report"].read_text(encoding="utf-8")
    assert "strip-organism/squares/probes: this table was not made" in text
    assert {record["verdict"] for record in read_json(job.outputs["findings"])} == {"inconclusive"}


def test_empty_tables_make_a_report(finished: Job, tmp_path: Path) -> None:
    inputs = dict(finished.inputs)
    for name, path in finished.inputs.items():
        if path.suffix == ".parquet":
            inputs[name] = tmp_path / f"{name.replace(':', '-')}.parquet"
            pl.read_parquet(path).head(0).write_parquet(inputs[name])
    synthetic.write_measures(inputs, "strip-organism", "squares", tmp_path / "measures.parquet")
    job = Job(finished.settings, inputs, {name: tmp_path / path.name for name, path in finished.outputs.items()})
    figures(job)
    assert {record["n"] for record in read_json(job.outputs["findings"])} == {0}


def test_what_was_set_aside_is_counted(finished: Job, tmp_path: Path) -> None:
    """Pairs that the model's grid has no exchange for, pairs answered wrong, and photos that could not be used."""
    path = finished.inputs["conflict:strip-organism:squares"]
    pl.read_parquet(path).filter(pl.col("pair_id") != "conflict-vertical-00007").write_parquet(tmp_path / "conflict.parquet")
    results = open_results(
        finished.settings["models"], {**finished.inputs, "conflict:strip-organism:squares": tmp_path / "conflict.parquet"}
    )
    photos = pl.DataFrame({"file": ["a.jpeg", "b.jpeg"], "reason": ["is not a readable photo", "is listed twice"]})
    told = "; ".join(provenance.warnings(replace(results, set_aside={"squares": photos})))
    assert "1 of 100 conflict pairs not run" in told
    assert "8 of 99 conflict pairs set aside" in told
    assert "vision pairs not run" not in told
    assert "squares: 2 files or pairs of files set aside (set_aside.parquet lists them); the first is a.jpeg: is not a readable" in told


def test_unknown_input_and_missing_scenes(finished: Job) -> None:
    with pytest.raises(UserError, match="input probe:a:b: is not known"):
        figures(replace(finished, inputs=finished.inputs | {"probe:a:b": Path("x")}))
    with pytest.raises(UserError, match="input scenes:squares: is missing"):
        figures(replace(finished, inputs={}))
    with pytest.raises(UserError, match=r"figures\.explorer_scenes"):
        figures(replace(finished, settings=finished.settings | {"figures": {"explorer_scenes": 0}}))


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    job = synthetic.write_results(tmp_path, {"m": synthetic.STRIP}, ("squares",))
    write_record(tmp_path / "scenes" / "squares", MadeBy(stage="scenes"))
    image = next((tmp_path / "scenes" / "squares" / "images").glob("main-horizontal-test-00000.png"))
    image.write_bytes(image.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"main-horizontal-test-00000\.png"):
        figures(job)


def test_neither_torch_nor_transformers_is_imported() -> None:
    code = "import sys, vlm_spatial.stages.figures; print(sorted({'torch', 'transformers', 'snakemake'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.strip() == "[]"


def test_share_column_and_site_order() -> None:
    found = with_shares(pl.DataFrame({"hits": [5, 0], "n": [10, 0]}))
    assert found["estimate"].to_list() == [0.5, None]
    assert found["low"].to_list()[1] is None
    sites = ["language.10", "language.2", "connector", "vision.3"]
    assert sorted(sites, key=site_order) == ["vision.3", "connector", "language.2", "language.10"]


def test_padding_around_a_photograph_has_no_colour() -> None:
    cells = [(row, col) for row in range(4) for col in range(4)]
    table = pl.DataFrame(
        {
            **{
                name: [text] * 16
                for name, text in (
                    ("scene_id", "main-horizontal-test-00000"),
                    ("axis", "horizontal"),
                    ("site", "connector"),
                    ("kind", "logistic"),
                )
            },
            "token": range(16),
            "row": [row for row, _ in cells],
            "col": [col for _, col in cells],
            "slot": [None if row in (0, 3) else min(col, 2) for row, col in cells],
            "predicted": [2] * 16,
            "probability": [[0.1, 0.2, 0.7]] * 16,
            "token_set": ["padding" if row in (0, 3) else "rim" for row, _ in cells],
        }
    )
    shown = strip_maps.rows({"strip_map": table}, ["main-horizontal-test-00000"])
    assert (shown["row"].to_list(), set(shown["rows"])) == ([1] * 4 + [2] * 4, {4})
    maps = explorer.maps(table, ["main-horizontal-test-00000"])
    assert maps["main-horizontal-test-00000"]["connector"]["slot"] == "." * 4 + "2" * 8 + "." * 4


def test_sites_of_the_strip_map_figure() -> None:
    sites = [*(f"vision.{i}" for i in range(4)), "connector", *(f"language.{i}" for i in range(6))]
    assert strip_maps.sites_shown(sites) == ["vision.0", "vision.3", "connector", "language.3", "language.5"]
    assert strip_maps.sites_shown(["connector"]) == ["connector"]


def test_paper_falls_back_to_what_is_there() -> None:
    figure = next(figure for figure in FIGURES if figure.name == "vision_flips")
    rows = pl.DataFrame({"source": ["unrelated"], "dataset": ["d"], "axis": [BOTH]})
    assert paper.at_defaults(figure, rows).height == 1


def test_packed_columns_and_cells() -> None:
    table = pl.DataFrame({"name": ["b", None, "b"], "value": [0.1234567, float("nan"), 1.0], "n": [1, 2, 3]})
    assert packing.columns(table) == {
        "name": {"values": ["b"], "index": [0, -1, 0]},
        "value": [0.12346, None, 1.0],
        "n": [1, 2, 3],
    }
    assert packing.digits([0, -1, 2]) == "0.2"
    assert packing.levels([0.0, 0.5, 1.0]) == "0iz"
    assert re.fullmatch(r"[A-Za-z0-9+/=]+", packing.packed({"text": "</script>"}))
    assert packing.packed({"a": np.float64(1.5)}) == packing.packed({"a": 1.5})


def test_published_figures_stand_beside_ours(finished: Job) -> None:
    page = finished.outputs["report"].read_text(encoding="utf-8")
    section = page.partition('<section id="published">')[2].partition("</section>")[0]
    assert "strip-organism <small>beside Qwen2-VL-7B-Instruct</small>" in section
    rows = re.findall(r"<tr><td>(\w+)</td><td>(.*?)<small>.*?</small></td>(.*?)</tr>", section)
    [(dataset, _, numbers)] = [row for row in rows if row[1].startswith("table5_ablation, all") and "OVERALL" in row[1]]
    ours = pl.read_parquet(finished.inputs["measures:strip-organism:squares"])
    [measured] = ours.filter(experiment="ablation", measure="top1_accuracy", axis=BOTH, condition="neutral")["estimate"]
    assert dataset == "squares"
    assert re.findall(r"[+-]?[\d.]+", numbers.replace("<td", "").replace('class="number"', ""))[:3] == ["0.596", "480", f"{measured:.3f}"]
    # Every figure is shown with ours beside it, or counted with a reason.
    counted = [int(count) for count in re.findall(r"<summary>(\d+): ", section)]
    [(without, shown)] = re.findall(r"(\d+) of (\d+) published figures", section)
    assert sum(counted) == int(without)
    # Those of all models stand there, too.
    assert len(rows) + sum(counted) == int(shown) >= published().filter(model="Qwen2-VL-7B-Instruct").height


def test_the_configuration_knows_the_published_models() -> None:
    assert get_args(PublishedModel) == tuple(names())
