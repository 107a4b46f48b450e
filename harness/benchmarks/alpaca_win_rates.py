"""AlpacaEval's win rates: raw, and length-controlled by the package's logistic model (Dubois et al. 2024).

The point estimate of the length-controlled win rate is the package's own. Its standard error there ignores that the
model was fitted; here the interval is a bootstrap over instructions in which the model is fitted anew each time.
"""

import hashlib
import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UserError

if TYPE_CHECKING:
    import numpy as np

ALL = 805  # instructions of the official set
INSTRUCTIONS = Path(__file__).with_name("alpaca_instructions.txt")  # of each: the first 12 digits of its sha256
MODEL = "length_controlled_v1"  # the package's name of the model
RESAMPLES = 500
NEWTON_STEPS = 25
GAMED_COLUMNS = ("index", "std_delta_len", "instruction_difficulty", "not_gamed_baseline", "preference")


@dataclass(frozen=True)
class Comparison:
    """A judged pair.

    index: of the instruction in the official order, or None where it is none of these.
    preference: 1 (the reference wins) to 2 (the model wins), None where the judge gave none.
    """

    index: int | None
    preference: float | None
    reference: str
    output: str


@dataclass(frozen=True)
class LengthControlled:
    """Percent, with its 95 % interval; without a value, the reason."""

    value: float | None = None
    interval: tuple[float, float] | None = None
    reason: str | None = None


def import_package() -> None:
    """Import alpaca_eval without its warning (pkg_resources) and its change of the root logger's level."""
    level = logging.getLogger().level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        import alpaca_eval.annotators
        import alpaca_eval.metrics  # noqa: F401
    logging.getLogger().setLevel(level)


def official_index(instruction: str) -> int | None:
    """The place of an instruction in the official order, which the difficulties of df_gamed.csv are joined by."""
    return _official_order().get(hashlib.sha256(instruction.encode()).hexdigest()[:12])


@cache
def _official_order() -> dict[str, int]:
    return {digest: index for index, digest in enumerate(INSTRUCTIONS.read_text(encoding="ascii").split())}


def win_rates(preferences: Sequence[float], seed: int = 0) -> dict:
    """{"win_rate", "standard_error", "win_rate_interval"} in percent, the first two as the package computes them."""
    import_package()
    import numpy as np
    from alpaca_eval.metrics import get_winrate

    rates = get_winrate([{"preference": preference} for preference in preferences])
    values = 100 * (np.where(np.asarray(preferences) == 0, 1.5, preferences) - 1)
    draws = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    error = float(rates["standard_error"])
    return {
        "win_rate": float(rates["win_rate"]),
        "standard_error": error if np.isfinite(error) else None,
        "win_rate_interval": _interval(values[draws].mean(axis=1)),
    }


def length_controlled(comparisons: Sequence[Comparison], df_gamed: Path | None, seed: int = 0) -> LengthControlled:
    """The length-controlled win rate of one model.

    Every comparison gets the difficulty of its own instruction, in whatever order and number they come.

    Args:
        df_gamed: the package's file with difficulties and two gamed models.

    Raises:
        UserError: when that file has another form.
    """
    if df_gamed is None:
        return LengthControlled(reason="no df_gamed.csv")
    if unknown := sum(each.index is None for each in comparisons):
        return LengthControlled(reason=f"{unknown} instructions are not among the official {ALL}")
    ordered = sorted(comparisons, key=lambda each: each.index)
    if sum(each.preference is not None for each in ordered) < 2:
        return LengthControlled(reason="fewer than two preferences")
    if len({len(each.reference) - len(each.output) for each in ordered}) == 1:
        return LengthControlled(reason="all length differences are the same: the model divides by their spread")
    train, test, weights = _design(ordered, df_gamed)
    known = train["preference"].notna()
    train, weights = train[known], weights[known]
    fitted = _fit(train, weights)
    value = 100 * float(fitted.predict_proba(test)[:, 1].mean())
    own = int(sum(each.preference is not None for each in ordered))
    return LengthControlled(value, _bootstrap(train, test, weights, fitted, own, seed))


def _design(ordered: Sequence[Comparison], df_gamed: Path):
    """The package's design: (rows to fit, gamed models first; rows to predict; weights)."""
    import_package()
    import pandas as pd
    from alpaca_eval.metrics import glm_winrate

    _check_gamed(df_gamed)
    annotations = pd.DataFrame(
        {
            "preference": [each.preference for each in ordered],
            "index": [each.index for each in ordered],
            "output_1": [each.reference for each in ordered],
            "output_2": [each.output for each in ordered],
        }
    )
    annotations["preference"] = annotations["preference"].astype(float)
    info = glm_winrate.GLM_INFO[MODEL]
    download = glm_winrate.hf_hub_download
    glm_winrate.hf_hub_download = lambda **_where: str(df_gamed)
    try:
        return glm_winrate._get_featurized_data(
            annotations,
            formula=info["formula"],
            regularize_to_baseline_lambda=info["regularize_to_baseline_lambda"],
        )
    finally:
        glm_winrate.hf_hub_download = download


def _check_gamed(path: Path) -> None:
    import pandas as pd

    try:
        frame = pd.read_csv(path)
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise UserError(f"{path}: can not be read ({error}); fetch it again (harness data fetch alpaca-eval)") from None
    first = frame["index"].drop_duplicates() if "index" in frame else []
    if not {"model", *GAMED_COLUMNS} <= set(frame) or list(first) != list(range(ALL)):
        raise UserError(f"{path}: must have the columns {', '.join(GAMED_COLUMNS)} for the instructions 0 to {ALL - 1}")


def _fit(train, weights):
    import sklearn
    from alpaca_eval.metrics import glm_winrate

    routing = sklearn.get_config()["enable_metadata_routing"]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of scikit-learn, about the package's parameters
            return glm_winrate.fit_LogisticRegressionCV(
                train, "preference", is_ytrue_proba=True, sample_weight=weights, **glm_winrate.GLM_INFO[MODEL]["kwargs"]
            )
    finally:
        sklearn.set_config(enable_metadata_routing=routing)


def _bootstrap(train, test, weights, fitted, own: int, seed: int) -> tuple[float, float]:
    """95 % interval over resamples of the model's own instructions (the last `own` rows of train).

    Each resample is fitted at the strength of regularization that cross-validation chose for the whole, by Newton's
    method from the whole's coefficients; the signs of the L1 penalty, which is weak, are those of the whole.
    """
    import numpy as np

    features = train.drop(columns="preference").to_numpy(float)
    targets, weights = train["preference"].to_numpy(float), np.asarray(weights, float)
    whole, strength = fitted.coef_[0], float(fitted.C_[0])
    test = test.to_numpy(float)
    length = [name.startswith("np.tanh") for name in train.columns[:-1]].index(True)
    mine = slice(len(train) - own, len(train))
    spreads = np.arctanh(np.clip(features[mine, length], -1 + 1e-12, 1 - 1e-12))  # in units of the whole's spread
    random = np.random.default_rng(seed)
    rates = []
    for _ in range(RESAMPLES):
        counts = np.bincount(random.integers(own, size=own), minlength=own).astype(float)
        spread = np.sqrt(np.cov(spreads, aweights=counts, ddof=0) * own / (own - 1))
        drawn = features.copy()
        drawn[mine, length] = np.tanh(spreads / spread) if spread else 0.0
        drawn_weights = weights.copy()
        drawn_weights[mine] *= counts
        coefficients = _newton(drawn, targets, drawn_weights, whole, strength)
        chances = 1 / (1 + np.exp(-test @ coefficients))
        rates.append(100 * np.average(chances, weights=counts if len(test) == own else None))
    return _interval(np.array(rates))


def _newton(
    features: "np.ndarray", targets: "np.ndarray", weights: "np.ndarray", start: "np.ndarray", strength: float
) -> "np.ndarray":
    """Coefficients that minimize strength * sum of weighted log losses + |coefficients|_1, near `start`.

    Args:
        features: (n, d). targets: (n,) within [0, 1]. weights: (n,). start: (d,); where it is 0, 0 stays.
    """
    import numpy as np

    free = start != 0
    x, signs, beta = features[:, free], np.sign(start[free]), start[free].copy()
    for _ in range(NEWTON_STEPS if free.any() else 0):
        chances = 1 / (1 + np.exp(-x @ beta))
        gradient = strength * x.T @ (weights * (chances - targets)) + signs
        curvature = strength * (x * (weights * chances * (1 - chances))[:, None]).T @ x
        step = np.linalg.solve(curvature, gradient)
        beta -= step
        if np.abs(step).max() < 1e-9:
            break
    found = np.zeros_like(start)
    found[free] = beta
    return found


def _interval(values: "np.ndarray") -> tuple[float, float]:
    import numpy as np

    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def find_gamed(folder: Path) -> Path | None:
    """The df_gamed file of a data folder."""
    found = sorted(folder.glob("df_gamed*.csv"))
    return found[0] if found else None


def read_preference(where: str, value: object) -> float | None:
    """A stored preference: 1 to 2, 0 for a tie, or null.

    Raises:
        UserError: for anything else.
    """
    if value is None:
        return None
    if type(value) in (int, float) and (value == 0 or 1 <= value <= 2):
        return float(value) or 1.5
    if isinstance(value, float) and value != value:
        return None
    raise UserError(f"{where}: preference must be from 1 to 2, 0 for a tie, or null, not {value!r:.60}")


