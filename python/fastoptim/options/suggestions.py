"""Suggestions for names that are unknown here, among them those of other libraries."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches

#: Options that other libraries have under these names, without underscores and capitals; the first that exists counts.
OTHER_NAMES: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("learningrate", "learnrate", "eta", "stepsize", "eta0", "learningrateinit"), ("lr",)),
    **dict.fromkeys(("b1", "beta1", "beta"), ("betas", "beta", "momentum", "rho", "alpha")),
    **dict.fromkeys(("b2", "beta2", "b3", "beta3"), ("betas",)),
    **dict.fromkeys(("epsilon", "e", "adamepsilon"), ("eps",)),
    "epsilonroot": ("eps_root",),
    **dict.fromkeys(("decay", "decayrate", "rho", "alpha", "smoothing"), ("alpha", "rho", "beta", "betas")),
    **dict.fromkeys(("mu", "nesterovmomentum"), ("momentum", "nesterov", "beta")),
    **dict.fromkeys(("wd", "l2", "weightdecayrate", "l2regularization"), ("weight_decay",)),
    **dict.fromkeys(("l1regularization", "l1reg", "l1penalty"), ("l1",)),
    "clipnorm": ("clip_norm",),
    "clipvalue": ("clip_value",),
    **dict.fromkeys(("globalclipnorm", "maxnorm", "maxgradnorm", "gradclip", "clipgradnorm"), ("clip_global_norm",)),
    **dict.fromkeys(("lossscale", "lossscalefactor", "gradscale"), ("grad_scale",)),
    **dict.fromkeys(("useema", "emamomentum", "emadecay"), ("ema",)),
    **dict.fromkeys(("foundinf", "skipnonfinite", "nanpolicy"), ("on_nonfinite",)),
    "ascend": ("maximize",),
    **dict.fromkeys(("nesterov", "nesterovaccelerated"), ("NAG",)),
    "sgdm": ("Momentum",),
}


def did_you_mean(name: str, known: Collection[str]) -> str:
    """Return the end of a message that suggests one of the known names, or an empty string."""
    plain = _plain(name)
    by_plain = {_plain(each): each for each in known}
    candidates = [by_plain.get(plain), *(other for other in OTHER_NAMES.get(plain, ()) if other in known)]
    candidates += [by_plain[close] for close in get_close_matches(plain, by_plain, 1, 0.75)]
    found = next((each for each in candidates if each), None)
    return f"; did you mean {found!r}?" if found else ""


def _plain(name: str) -> str:
    return name.replace("_", "").casefold()
