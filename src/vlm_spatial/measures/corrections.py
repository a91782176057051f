"""Rows of the amplification sweep: every setting, the chosen setting by group of questions, and settings and corrections carried over."""

from collections.abc import Iterator

import polars as pl

from vlm_spatial.interventions.labels import CONTENT
from vlm_spatial.measures.amplification import (
    BASELINES,
    METHODS,
    RANDOM,
    at,
    choose,
    control_outcome,
    curve,
    outcome,
    random_calibration_error,
    random_corrected_share,
    random_net,
    spatial,
)
from vlm_spatial.measures.calibration import calibration
from vlm_spatial.measures.table import BOTH, numbers, tidy
from vlm_spatial.measures.transfer import pairs
from vlm_spatial.statistics import Interval, clustered_share

NET, CORRECTED, CALIBRATION, BRIER = "net_accuracy", "errors_corrected", "calibration_error", "brier_change"
ALL = "all spatial questions"
NOT_SPATIAL, PRESENT = "not spatial: content", "not spatial: names what is there"
UNTOUCHED = "untouched"
TESTS = ("errors", "corrected", "broken")
_METHOD = (
    "Student with two added differences (changes), exact (shares of errors), both for as many independent questions as the scenes' are "
    "worth; resampled scenes, wide rather than narrow (calibration error); range of the draws (random controls)"
)


def _tidy(rows: list[dict[str, object]], experiment: str) -> pl.DataFrame:
    return tidy(rows, experiment, counted="questions (errors_corrected: errors; random controls: draws)", method=_METHOD)


def sweep(table: pl.DataFrame | None) -> pl.DataFrame:
    """A row an axis, site, correction, alpha and measure, test split; ``chosen`` marks the setting that validation chose.

    Rows of the two forms' net accuracy also hold the counts behind it, McNemar's exact p and its Holm adjustment over the form's grid.
    """
    if table is None or table.is_empty():
        return _tidy([], "amplification")
    choices = {method: choose(table, method) for method in (*METHODS, *BASELINES)}
    found: list[dict[str, object]] = []
    for axis in [BOTH, *sorted(table["axis"].unique())]:
        part = spatial(table if axis == BOTH else table.filter(axis=axis)).filter(split="test")
        for row in curve(part).iter_rows(named=True):
            method, site, alpha = row["method"], row["site"], row["alpha"]
            where = {"axis": axis, "site": site, "alpha": alpha, "correction": method, "chosen": choices[method] == (site, alpha)}
            net = {end: row[f"net_{end}"] for end in ("estimate", "low", "high")}
            share = {end: row[f"share_{end}"] for end in ("estimate", "low", "high")}
            error = calibration(at(part, "test", method, site, alpha)).error_after
            tested = {key: row[key] for key in TESTS} | {"p": row["p_value"], "p_holm": row["p_holm"]}
            found += [
                {**where, "measure": NET, **net, "n": row["n"], **tested},
                {**where, "measure": CORRECTED, **share, "n": row["errors"]},
                {**where, "measure": CALIBRATION, **numbers(error)},
            ]
        for method, site, alpha in _control_settings(part).iter_rows():
            where = {"axis": axis, "site": site, "alpha": alpha, "correction": method, "chosen": choices.get(method) == (site, alpha)}
            of_setting = _of_control(part, method, site, alpha)
            tested = _counted(part, method, site, alpha) if method in BASELINES else {}
            found += [
                {**where, "measure": measure, **numbers(number), **(tested if measure == NET else {})} for measure, number in of_setting
            ]
    return _tidy(found, "amplification")


def _control_settings(part: pl.DataFrame) -> pl.DataFrame:
    """Method, site and alpha of every control. Where a few draws alone were run, they had chosen the setting: no sample of draws."""
    of_controls = part.filter(~pl.col("method").is_in(METHODS)).group_by("method", "site", "alpha").agg(draws=pl.col("draw").n_unique())
    whole = of_controls.filter(pl.col("draws") == pl.col("draws").max().over("method"))
    return whole.select("method", "site", "alpha").sort("method", "site", "alpha")


def _counted(part: pl.DataFrame, method: str, site: str, alpha: float) -> dict[str, object]:
    """Errors, answers corrected and broken, and McNemar's exact p."""
    found = control_outcome(part, method, site, alpha)
    return {key: getattr(found, key) for key in TESTS} | {"p": found.p_value}


def _of_control(part: pl.DataFrame, method: str, site: str, alpha: float) -> list[tuple[str, Interval]]:
    of_form = next((form for form, control in RANDOM.items() if control == method), None)
    if of_form is not None:
        return [
            (NET, random_net(part, site, alpha, of_form)),
            (CORRECTED, random_corrected_share(part, site, alpha, of_form)),
            (CALIBRATION, random_calibration_error(part, site, alpha, of_form)),
        ]
    result = control_outcome(part, method, site, alpha)
    error = calibration(at(part, "test", method, site, alpha)).error_after
    return [(NET, result.net), (CORRECTED, result.corrected_share), (CALIBRATION, error)]


def by_group(table: pl.DataFrame | None) -> pl.DataFrame:
    """A row an axis, group of questions, correction and measure: the test split at the site and alpha that validation chose."""
    if table is None or table.is_empty():
        return _tidy([], "amplification_by_group")
    found: list[dict[str, object]] = []
    for method in METHODS:
        choice = choose(table, method)
        if choice is None:
            continue
        for axis in [BOTH, *sorted(table["axis"].unique())]:
            for group, part in _groups(table if axis == BOTH else table.filter(axis=axis)):
                measured = _measured(part, method, *choice)
                # Probabilities are those of the spatial answer, not of what is there.
                found += [{"axis": axis, "group": group, **row} for row in measured if group != PRESENT or row["measure"] == NET]
    return _tidy(found, "amplification_by_group")


def choices_carried(table: pl.DataFrame | None, transfer: pl.DataFrame | None) -> pl.DataFrame:
    """A row a dataset that chose the setting (``fitted_on``), correction and measure: this dataset's test split under that site and alpha.

    The correction's subspace is this dataset's own; only the choice of site and alpha comes from elsewhere.
    """
    if table is None or table.is_empty() or transfer is None or transfer.is_empty():
        return _tidy([], "choice_transfer")
    own = transfer.filter(pl.col("method").is_in(METHODS)).select("fitted_on", "method", "site", "alpha").unique().sort(pl.all())
    found: list[dict[str, object]] = []
    for source, method, site, alpha in own.sort("fitted_on", pl.col("method") == "oracle").iter_rows():
        found += [{"axis": BOTH, "fitted_on": source, **row} for row in _measured(spatial(table), method, site, alpha)]
    return _tidy(found, "choice_transfer")


def _groups(table: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    asked = spatial(table)
    yield ALL, asked
    for slot in sorted(asked["slot"].unique()):
        yield f"slot {slot}", asked.filter(slot=slot)
    for template in sorted(asked["template"].unique()):
        yield template.replace("_", " "), asked.filter(template=template)
    naming = asked.drop_nulls("present")
    if not naming.is_empty():
        # Among all of the dataset's object words, not only those of the picture: right wherever the object stands.
        yield PRESENT, naming.with_columns(correct=pl.col("present"), correct_before=pl.col("present_before"))
    other = table.filter(pl.col("template") == CONTENT)
    if not other.is_empty():
        # The outcomes leave out what is not spatial; here that is what is counted.
        yield NOT_SPATIAL, other.with_columns(template=pl.lit(NOT_SPATIAL))


def _measured(part: pl.DataFrame, method: str, site: str, alpha: float) -> list[dict[str, object]]:
    rows = at(part, "test", method, site, alpha)
    if rows.is_empty():
        return []
    result = outcome(rows)
    where = {"site": site, "alpha": alpha}
    tested = {"errors": result.errors, "corrected": result.corrected, "broken": result.broken, "p": result.p_value}
    measured = [
        (method, NET, result.net, tested),
        (method, CORRECTED, result.corrected_share, {}),
        (method, BRIER, calibration(rows).brier_change, {}),
    ]
    # Each form has random controls of its own, which move tokens as far as it does.
    random = ((NET, random_net(part, site, alpha, method)), (CORRECTED, random_corrected_share(part, site, alpha, method)))
    measured += [(RANDOM[method], measure, interval, {}) for measure, interval in random if interval.n]
    return [{"correction": name, "measure": measure, **where, **numbers(interval), **more} for name, measure, interval, more in measured]


def carried(table: pl.DataFrame | None, dataset: str) -> pl.DataFrame:
    """``transfer.parquet`` → a row an axis, dataset that a correction was fitted on, correction and measure, on ``dataset``'s questions.

    Rows of the two forms' net accuracy also hold the counts behind it, McNemar's exact p and its Holm adjustment over the pairs of
    different datasets (of the same axis and form).
    """
    if table is None or table.is_empty():
        return _tidy([], "correction_transfer")
    found: list[dict[str, object]] = []
    for axis in [BOTH, *sorted(table["axis"].unique())]:
        for row in pairs(table if axis == BOTH else table.filter(axis=axis)).filter(applied_to=dataset).iter_rows(named=True):
            where = {"axis": axis, **{key: row[key] for key in ("fitted_on", "site", "alpha")}}
            method, random = row["method"], RANDOM[row["method"]]
            tested = {key: row[key] for key in TESTS} | {"p": row["p_value"], "p_holm": row["p_holm"]}
            found += [
                {**where, "correction": method, "measure": NET, **_ends(row, "net", "n"), **tested},
                {**where, "correction": random, "measure": NET, **_ends(row, "random_net", "controls")},
                {**where, "correction": method, "measure": CORRECTED, **_ends(row, "share", "errors"), "verdict": row["verdict"]},
                {**where, "correction": random, "measure": CORRECTED, **_ends(row, "random_share", "controls")},
            ]
    return _tidy(found, "correction_transfer")


def accuracies(table: pl.DataFrame | None, transfer: pl.DataFrame | None, dataset: str) -> pl.DataFrame:
    """Accuracy without a correction and with each form: a row an axis, dataset that the correction was fitted on, and form; test split.

    The correction is the one that ``fitted_on``'s validation split chose. Rows without one (``untouched``) are of the same questions.
    """
    parts: dict[tuple[str, str], pl.DataFrame] = {}
    if table is not None and not table.is_empty():
        choices = {method: choose(table, method) for method in METHODS}
        parts |= {(dataset, method): at(table, "test", method, *found) for method, found in choices.items() if found is not None}
    if transfer is not None and not transfer.is_empty():
        elsewhere = transfer.filter(pl.col("method").is_in(METHODS), pl.col("fitted_on") != dataset, applied_to=dataset)
        carried_over = elsewhere.partition_by("fitted_on", "method", as_dict=True).items()
        parts |= {(str(source), str(form)): rows for (source, form), rows in carried_over}
    found: list[dict[str, object]] = []
    for (source, form), rows in sorted(parts.items()):
        asked = spatial(rows)
        for axis in [BOTH, *sorted(asked["axis"].unique())] if asked.height else ():
            part = asked if axis == BOTH else asked.filter(axis=axis)
            for correction, answered in ((UNTOUCHED, "correct_before"), (form, "correct")):
                share = numbers(clustered_share(part[answered].to_numpy(), part["scene_id"].to_list()))
                clusters = part["scene_id"].n_unique()
                found.append({"axis": axis, "fitted_on": source, "correction": correction, "clusters": clusters, **share})
    method = "exact interval, n lowered for answers that agree within a scene (Korn and Graubard)"
    once = pl.DataFrame(found, infer_schema_length=None).unique(maintain_order=True) if found else pl.DataFrame()
    return tidy(once, "amplified_accuracy", measure="accuracy", counted="questions", method=method)


def _ends(row: dict[str, object], name: str, counted: str) -> dict[str, object]:
    return {**{end: row[f"{name}_{end}"] for end in ("estimate", "low", "high")}, "n": row[counted]}
