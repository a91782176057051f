"""Configurations with one mistake each, and what the line about it must say."""

import copy

GOOD = {
    "datasets": {"squares": {"kind": "squares"}},
    "organisms": {"small": {"family": "gemma3"}},
    "models": {"small": {"organism": "small", "datasets": ["squares"]}},
}
HUB = {"checkpoint": "owner/name", "revision": "0" * 40, "datasets": ["squares"]}

# Where, the value to put there, what the line must say.
MALFORMED: list[tuple[str, object, str]] = [
    ("sede", 1, "sede: unknown key; allowed are .*seed"),
    ("seed", -1, "seed: .*greater than or equal to 0, found -1"),
    ("seed", "one", "seed: .*valid integer.*found 'one'"),
    ("seed", 1.5, "seed: .*integer.*found 1.5"),
    ("seed", None, "seed: .*integer.*found None"),
    ("results", 3, "results: must be text, .*put it in quotes, found 3"),
    ("results", "../elsewhere", r"results: .*'\.\./elsewhere'"),
    ("results", "", "results: a folder whose names have letters"),
    ("results", "my results", r"line \d+: results: .*no space.*, found 'my results'"),
    ("results", "$NOT_SET/results", r"results: the environment has no variable \$NOT_SET; set it, or write the path out"),
    ("results", "~nobody-here/results", "results: no such user"),
    ("results", "re{sults}", "results: "),
    ("datasets", {}, "datasets: name at least one dataset"),
    ("datasets", None, "datasets: must be a section of names"),
    ("datasets", "squares", "datasets: must be a section of names, each with its keys indented below it, found 'squares'"),
    ("models.small.datasets", "squares", r"models.small.datasets: must be a list, in brackets: \[squares\], found 'squares'"),
    ("datasets", ["squares"], "datasets: must be a section of names, .*found a list"),
    ("datasets.squares", None, "datasets.squares: .*"),
    ("datasets.squares", {}, "datasets.squares.kind: Field required"),
    ("datasets.squares.kind", "circles", "datasets.squares.kind: .*'squares', 'shapes', 'objects', .*found 'circles'"),
    ("datasets.squares.kid", "squares", "datasets.squares.kid: unknown key; allowed are asked_slots, axes"),
    ("datasets.squares.axes", [], "at least one"),
    ("datasets.squares.axes", ["horizontal", "horizontal"], "at most once"),
    ("datasets.squares.axes", ["diagonal"], r"datasets.squares.axes.0: .*'horizontal' or 'vertical', found 'diagonal'"),
    ("datasets.squares.axes", "horizontal", "datasets.squares.axes: .*must be a list, in brackets: .horizontal., found 'horizontal'"),
    ("datasets.squares.scenes", {"train": -5}, "datasets.squares.scenes.train: .*greater than or equal to 0, found -5"),
    ("datasets.squares.scenes", {"train": 0}, "at least 1 .an empty dataset answers nothing"),
    ("datasets.squares.scenes", {"test": "many"}, "datasets.squares.scenes.test: .*integer.*'many'"),
    ("datasets.squares.scenes", 100, "datasets.squares.scenes: .*"),
    ("datasets.squares.templates", [], "templates: name at least one"),
    ("datasets.squares.templates", ["riddle"], "datasets.squares.templates.0: .*found 'riddle'"),
    ("datasets.squares.wording", "verbose", "wording: must be 'plain', .* or own words .*, found 'verbose'"),
    ("datasets.squares.difficulty", {"object_size": [0.3, 0.1]}, "object_size: .*smallest <= largest"),
    ("datasets.squares.difficulty", {"noise": 2}, "noise: .*less than or equal to 1, found 2"),
    ("datasets.squares.difficulty", {"noise": float("nan")}, "noise: .*nan"),
    ("datasets.squares.pairs", {"vision": -1}, "pairs.vision: .*found -1"),
    ("datasets.squares.root", "/tmp", "only a dataset of kind whatsup"),
    ("datasets.photos", {"kind": "whatsup"}, "a whatsup dataset needs the folder"),
    ("datasets.photos", {"kind": "whatsup", "root": "./no/such"}, "datasets.photos.root: no folder 'no/such/data'"),
    ("datasets.typo", {"knd": "squares"}, "datasets.typo.knd: unknown key; allowed are .*kind"),
    ("datasets.../up", {"kind": "squares"}, "datasets.*: a name has small letters, .*found ''"),
    ("datasets.a b", {"kind": "squares"}, "datasets.*: a name has small letters, .*found 'a b'"),
    ("organisms.small.family", "pixtral", "organisms.small.family: .*'llava' or 'internvl', found 'pixtral'"),
    ("organisms.small.mechanism", "magic", "organisms.small.mechanism: .*found 'magic'"),
    ("organisms.small.steps", 0, "organisms.small.steps: .*greater than or equal to 1, found 0"),
    ("organisms.small.accuracy", 95, "organisms.small.accuracy: .*less than or equal to 1, found 95"),
    ("organisms.small.datasets", ["sqares"], "organisms.small.datasets: 'sqares' is not defined; allowed are squares"),
    ("models", {}, "models: name at least one model"),
    ("models.small", {"datasets": ["squares"]}, "exactly one of organism and checkpoint"),
    ("models.small.checkpoint", "owner/name", "exactly one of organism and checkpoint"),
    ("models.small.organism", "large", "models.small.organism: 'large' is not defined; allowed are small"),
    ("models.small.datasets", ["circles"], "models.small.datasets: 'circles' is not defined; allowed are squares"),
    ("models.small.datasets", [], "models.small.datasets: name at least one of squares"),
    ("models.small.dtype", "int8", "models.small.dtype: .*'float32', 'bfloat16' or 'float16', found 'int8'"),
    ("models.small.device", "tpu", "models.small.device: .*found 'tpu'"),
    ("models.hub", HUB | {"revision": "main"}, "40-digit commit"),
    ("models.hub", HUB | {"revision": None}, "40-digit commit"),
    ("models.hub", HUB | {"revision": "FILL-IN"}, "fill in models.hub.revision; found FILL-IN"),
    ("models.folder", {"checkpoint": "./no/such/folder", "revision": "0" * 40}, "no folder './no/such/folder'"),
    ("models.scenes", {"organism": "small"}, "models.scenes: .*choose another"),
    ("models.Small", {"organism": "small"}, "models.*: a name has small letters, .*found 'Small'"),
    ("behaviour", {"batch": 0}, "behaviour.batch: .*found 0"),
    ("behaviour", {"splits": ["holdout"]}, "behaviour.splits.0: .*found 'holdout'"),
    ("activations", {"pooling": "max"}, "activations.pooling: .*'none', 'cell' or 'token_set', found 'max'"),
    ("activations", {"batch": "all"}, "activations.batch"),
    ("probes", {"strengths": [0]}, "probes.strengths.0: .*greater than 0, found 0"),
    ("interchange", {"memory_gb": 0}, "interchange.memory_gb: .*greater than 0"),
    ("interchange", {"token_sets": ["halo"]}, "interchange.token_sets.0: .*found 'halo'"),
    ("ablation", {"methods": ["lesion"]}, "ablation.methods.0: .*found 'lesion'"),
    ("amplification", {"random_draws": 1}, "amplification.random_draws: .*greater than or equal to 2, found 1"),
    ("amplification", {"alphas": [1]}, "amplification.alphas: unknown key; allowed are attention_factors, control_alphas"),
    ("figures", {"explorer_scenes": 0}, "figures.explorer_scenes: .*greater than or equal to 1, found 0"),
    ("figures", {"palette": "jet"}, "figures.palette: .*'okabe-ito' or 'viridis', found 'jet'"),
    ("figures", [], "figures: .*"),
]

# Files that are no configuration at all.
UNREADABLE: list[tuple[str, bytes | None, str]] = [
    ("empty", b"", "must be a mapping of sections, found nothing"),
    ("a list", b"[1, 2]", "must be a mapping of sections, found a list"),
    ("a bracket left open", b"datasets: [a", "is not YAML"),
    ("a tab", b"seed: 1\n\tresults: x", "line 2: is not YAML .*indent with spaces, not with a tab"),
    ("a key twice", b"seed: 1\nmodels: {a: {}}\nmodels: {b: {}}", "line 3: models: given a second time, the first is in line 2; keep one"),
    (
        "a key twice, deeper",
        b"models:\n  a:\n    dtype: x\n    dtype: y",
        "line 4: models.a.dtype: given a second time, the first is in line 3",
    ),
    ("a key twice in JSON", b'{"seed": 1,\n\t"seed": 2}', "line 2: seed: given a second time, the first is in line 1"),
    (
        "a name that YAML reads as true",
        b"datasets:\n  on: {kind: squares}",
        "line 2: datasets.on: YAML reads this name as True; put it in quotes",
    ),
    ("a name that YAML reads as false", b"models:\n  no: {}", "line 2: models.no: YAML reads this name as False; put it in quotes"),
    ("a name that is a number", b"datasets: {7: {kind: squares}}", "line 1: datasets.7: YAML reads this name as 7; put it in quotes"),
    ("a Python object", b"seed: !!python/object/apply:os.system ['true']", "is not YAML .*could not determine a constructor"),
    ("not text", b"\xff\xfe\x00", "is not YAML"),
    ("missing", None, r"cannot be read \(No such file"),
]


def malformed(where: str, value: object) -> dict:
    """The good configuration with ``value`` put at ``where``."""
    config = copy.deepcopy(GOOD)
    section = config
    *parents, key = where.split(".", 2)
    for parent in parents:
        section = section.setdefault(parent, {})
    section[key] = value
    return config
