"""For figures and claims: what the field calls the experiment, the question that it answers, and how to read the picture."""

from typing import NamedTuple


class Terms(NamedTuple):
    """Attributes: ``field``, the experiment in the field's words; ``reading``, what a high, low or flat curve would mean."""

    field: str
    reading: str


TERMS: dict[str, Terms] = {
    "accuracy": Terms(
        "Behavioural accuracy, forced choice among the candidates", "Points at the right: right answers. The dashed line is guessing."
    ),
    "merge_effect": Terms(
        "Paired accuracy, single and merged photographs",
        "A change of zero: merging costs nothing. Below it: merged photographs are harder.",
    ),
    "probes": Terms(
        "Linear probing, multinomial logistic regression",
        "A curve above its controls (shuffled labels, pixels, other scenes): the slot can be read there. At them: it cannot.",
    ),
    "strip_maps": Terms(
        "Linear probe at every visual token",
        "Bands across the picture: the whole strip knows its slot. Colour on the objects alone: only their tokens do.",
    ),
    "strip_index": Terms(
        "Share of the map's variance between lines across the axis", "1: perfect strips. 0: noise. Compare with the blank canvas."
    ),
    "geometry": Terms("Principal angles between probe subspaces", "Near 1: the same directions. Near 0: unrelated ones."),
    "site_angles": Terms("Principal angles between sites", "Small angles: two sites hold the slot in the same directions."),
    "vision_flips": Terms(
        "Interchange intervention (activation patching) on visual tokens, vision encoder and connector",
        "At the top: exchanging these tokens changes every answer. Compare with as many random tokens, and an unrelated scene.",
    ),
    "language_flips": Terms(
        "Interchange intervention on object tokens, residual stream of the language model",
        "Ordering: the answer follows the code that was moved. Stay: it was read elsewhere before. Content: it follows the object.",
    ),
    "crosswise": Terms(
        "Interchange intervention, crosswise, object or strip tokens",
        "Where a curve falls to zero, the answer no longer depends on these tokens: it was read in an earlier layer.",
    ),
    "last_token": Terms(
        "Activation patching at the last prompt position",
        "The layer where a curve rises is the layer from which the last token carries it.",
    ),
    "displaced": Terms(
        "Interchange intervention on object tokens of layout-decorrelated scenes, residual stream of the language model",
        "Ordering above absolute: the code says the slot. Below it: it says where on the canvas the object is.",
    ),
    "dominance": Terms(
        "Interchange of token blocks at the connector: content code against sequence position",
        "+1: the vision code always decides. −1: the position always does.",
    ),
    "positions": Terms(
        "Exchange of visual tokens' values and of their rotary position ids, 2 × 2",
        "Dark at ids alone: the rotary index says the place. Dark at both: the causal order does. Pale everywhere: vision's code does.",
    ),
    "positions_by_layer": Terms(
        "Exchange of rotary position ids in windows of language layers",
        "Where move rises, these layers read the place from the rotary index.",
    ),
    "readout": Terms(
        "Activation patching by token group, residual stream of the language model",
        "Image falls where question or answer rises: there the text has taken the answer over. Neither word nor question rises: the answer "
        "position looks at the image itself.",
    ),
    "readout_text": Terms(
        "Activation patching of the question's tokens in all layers; sufficiency over a corrupted image",
        "First point far right of its control: the question's tokens decide. Right over grey: they hold all that is needed.",
    ),
    "routes": Terms(
        "Attention knockout, all language layers",
        "A thick line: without it the answer is lost. Image → question thick, image → answer thin: text passes the picture on. Both thin, "
        "and many answers lost with both closed: each stands in for the other.",
    ),
    "routes_by_layer": Terms(
        "Attention knockout, windows of layers",
        "Where a curve is high, the route must be open there. At its random control: no such need.",
    ),
    "heads": Terms(
        "Activation patching of single attention heads at the last prompt position",
        "A dark square: this head alone brings that much of the other run's answer. All pale: many heads share it. Ordinal: the slot asked "
        "for. Attribute: the object there.",
    ),
    "heads_together": Terms(
        "Activation patching and mean ablation of ranked attention heads, last prompt position",
        "A curve that is high at few heads: few of them do it. Compare with random heads of the same layers.",
    ),
    "ablation": Terms(
        "Concept erasure (LEACE) and neutral re-encoding, 2 × 2 with the ordering erased in the language model",
        "Losing both costs more than the sum of each: they stand in for each other. Less: both are needed at once.",
    ),
    "amplified_accuracy": Terms(
        "Accuracy with and without activation steering, own and carried corrections",
        "Points right of the untouched model's: the correction helps on balance.",
    ),
    "amplification": Terms(
        "Activation steering along the probe subspace",
        "A gain counts only above random subspaces that move every token as far. The ring: chosen on validation.",
    ),
    "amplification_groups": Terms(
        "Activation steering, by slot and question", "Right of zero: helped. Left: harmed. Grey: random subspaces."
    ),
    "amplification_transfer": Terms(
        "Transfer of the steering strength", "Above the controls: a strength chosen on one dataset helps on another."
    ),
    "correction_transfer": Terms(
        "Transfer of the steering vector", "Above the controls: subspace and strength of one dataset help on another."
    ),
    "training": Terms("Training curve", "Accuracy on held-out scenes over the steps, for each kind of question."),
}


GROUPS: dict[str, tuple[str, ...]] = {
    "Does the model answer right?": ("accuracy", "merge_effect", "training"),
    "Where can the slot be read?": ("probes", "strip_maps", "strip_index", "geometry", "site_angles"),
    "Which visual tokens carry the answer?": ("vision_flips", "crosswise"),
    "Vision's code or the token's place: which decides?": ("dominance", "positions", "positions_by_layer"),
    "What does the language model add?": ("language_flips", "displaced", "last_token", "ablation"),
    "How does the language model fetch the answer?": ("readout", "readout_text", "routes", "routes_by_layer", "heads", "heads_together"),
    "Does strengthening the signal correct errors?": (
        "amplified_accuracy",
        "amplification",
        "amplification_groups",
        "amplification_transfer",
        "correction_transfer",
    ),
}
"""Question → its figures, in the order of the report."""


class ClaimTerms(NamedTuple):
    """Attributes: ``field``, the measurement in the field's words; ``figure``, which shows it (that of all models shows any claim)."""

    field: str = ""
    figure: str = "comparison"


CLAIM_TERMS: dict[str, ClaimTerms] = {
    "accuracy": ClaimTerms("Behavioural accuracy, untouched model", "accuracy"),
    "slot_probe_background": ClaimTerms("Linear probe, background tokens, connector", "probes"),
    "strip_flip": ClaimTerms("Interchange intervention, strip tokens, connector", "vision_flips"),
    "object_flip": ClaimTerms("Interchange intervention, object tokens, connector", "vision_flips"),
    "crosswise_strip_flip": ClaimTerms("Crosswise interchange, strip tokens, connector", "crosswise"),
    "crosswise_object_flip": ClaimTerms("Crosswise interchange, object tokens, best site", "crosswise"),
    "crosswise_last_layer": ClaimTerms("Crosswise interchange, strip tokens, last layer that flips", "crosswise"),
    "last_token_slot": ClaimTerms("Last-token interchange, answers that follow the slot", "last_token"),
    "last_token_takeover": ClaimTerms("Last-token interchange, first layer with the answer itself", "last_token"),
    "dominance": ClaimTerms("Exchange of token blocks, connector: dominance index", "dominance"),
    "rotary_dominance": ClaimTerms("Exchange of position ids, all layers: dominance index", "positions"),
    "order_dominance": ClaimTerms("Exchange of values with their position ids: dominance index", "positions"),
    "shuffle_sensitivity": ClaimTerms("Shuffled visual tokens: answers lost", "positions"),
    "language_ordering_peak": ClaimTerms("Interchange intervention, object tokens, best language layer", "language_flips"),
    "language_peak_layer": ClaimTerms("Interchange intervention, object tokens, layer of the peak", "language_flips"),
    "slot_not_place": ClaimTerms("Interchange intervention, displaced objects: slot against absolute place", "displaced"),
    "text_decides": ClaimTerms("Activation patching, question tokens, all layers", "readout_text"),
    "spatial_id_swap": ClaimTerms("Steering along spatial IDs at the object's name", "readout"),
    "id_faithful_on_errors": ClaimTerms("Spatial IDs read at the object's name, wrong answers"),
    "text_suffices": ClaimTerms("Sufficiency of the question tokens over a grey image", "readout_text"),
    "object_to_question_needed": ClaimTerms("Attention knockout, object tokens → question, all layers", "routes_by_layer"),
    "object_to_answer_needed": ClaimTerms("Attention knockout, object tokens → answer, all layers", "routes_by_layer"),
    "text_mediated_share": ClaimTerms("Attention knockout: share of the damage that is image → question", "routes"),
    "fallback": ClaimTerms("Attention knockout: both image routes against the sum of each", "routes"),
    "head_sparsity": ClaimTerms("Activation patching of a tenth of the attention heads, last token", "heads_together"),
    "ablation_drop": ClaimTerms("Ablation of the vision layout: accuracy lost", "ablation"),
    "backup_gain": ClaimTerms("Interchange intervention under ablation: ordering gained", "language_flips"),
    "errors_corrected": ClaimTerms("Activation steering, probe subspace: errors corrected", "amplification"),
    "net_accuracy": ClaimTerms("Activation steering, probe subspace: net accuracy", "amplification"),
}
"""A claim that is not here has its title alone."""
