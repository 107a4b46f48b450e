"""AlpacaEval's win rates: raw, and length-controlled by the package's logistic model (Dubois et al. 2024).

The point estimate of the length-controlled win rate is the package's. Its standard error there ignores that the model
was fitted; here the interval is a bootstrap over instructions that refits the model each time.
"""

import hashlib
import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

ALL = 805  # instructions of the official set
INSTRUCTIONS = Path(__file__).with_name("alpaca_instructions.txt")  # the first 12 digits of each one's sha256
KEYS = ("instruction", "output_1", "output_2")  # the texts of an annotation
MODEL = "length_controlled_v1"  # the package's name for the model
RESAMPLES = 500
NEWTON_STEPS = 50
SWEEPS = 100
GAMED_COLUMNS = ("index", "std_delta_len", "instruction_difficulty", "not_gamed_baseline", "preference")


@dataclass(frozen=True)
class JudgedPair:
    """A judged pair.

    index: of the instruction in the official order; None if it is not in the official set.
    preference: 1 (the reference wins) to 2 (the model wins); None if the judge gave none.
    """

    index: int | None
    preference: float | None
    reference: str
    output: str


@dataclass(frozen=True)
class LengthControlled:
    """A win rate in percent with its 95 % interval; without a value, the reason."""

    value: float | None = None
    interval: tuple[float, float] | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Problem:
    """A weighted logistic regression: features (n, d), targets (n,) within [0, 1], weights (n,)."""

    features: "np.ndarray"
    targets: "np.ndarray"
    weights: "np.ndarray"


def import_package() -> None:
    """Import alpaca_eval without its warning (pkg_resources) and without its change of the root logger's level."""
    level = logging.getLogger().level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        import alpaca_eval.annotators
        import alpaca_eval.metrics  # noqa: F401
    logging.getLogger().setLevel(level)


def official_index(instruction: str) -> int | None:
    """Return the place of an instruction in the official order, by which df_gamed.csv gives its difficulty."""
    return _official_order().get(hashlib.sha256(instruction.encode(errors="surrogatepass")).hexdigest()[:12])


@cache
def _official_order() -> dict[str, int]:
    return {digest: index for index, digest in enumerate(INSTRUCTIONS.read_text(encoding="ascii").split())}


def win_rates(preferences: Sequence[float], seed: int = 0, resamples: int = RESAMPLES) -> dict[str, Any]:
    """Return {"win_rate", "standard_error", "win_rate_interval"} in percent, the first two computed by the package."""
    import_package()
    import numpy as np
    from alpaca_eval.metrics import get_winrate

    rates = get_winrate([{"preference": preference} for preference in preferences])
    values = 100 * (np.where(np.asarray(preferences) == 0, 1.5, preferences) - 1)
    draws = np.random.default_rng(seed).integers(len(values), size=(resamples, len(values)))
    error = float(rates["standard_error"])
    return {
        "win_rate": float(rates["win_rate"]),
        "standard_error": error if np.isfinite(error) else None,
        "win_rate_interval": _interval(values[draws].mean(axis=1)),
    }


def length_controlled(
    comparisons: Sequence[JudgedPair], df_gamed: Path | None, seed: int = 0, resamples: int = RESAMPLES
) -> LengthControlled:
    """Return the length-controlled win rate of one model.

    Each comparison gets the difficulty of its own instruction, whatever their order and number; the rate is the mean
    over all comparisons. As in the package, one without a preference is not part of the fit, but of that mean.

    Args:
        df_gamed: the package's file with difficulties and two gamed models.

    Raises:
        UserError: when that file is malformed.
    """
    if df_gamed is None:
        return LengthControlled(reason="no df_gamed.csv")
    if unknown := sum(pair.index is None for pair in comparisons):
        return LengthControlled(reason=f"{unknown} instructions are not among the official {ALL}")
    import numpy as np

    ordered = sorted(comparisons, key=lambda pair: pair.index or 0)
    if sum(pair.preference is not None for pair in ordered) < 2:
        return LengthControlled(reason="fewer than two preferences")
    if len({len(pair.reference) - len(pair.output) for pair in ordered}) == 1:
        return LengthControlled(reason="all length differences are the same: the model divides by their spread")
    train, test, weights = _design(ordered, df_gamed)
    known = train["preference"].notna()
    fitted = _fit(train[known], weights[known])
    value = 100 * float(fitted.predict_proba(test)[:, 1].mean())
    differences = np.array([len(pair.reference) - len(pair.output) for pair in ordered], float)
    weights = np.where(known, weights, 0)
    problem = Problem(train.drop(columns="preference").to_numpy(), train["preference"].fillna(0.5).to_numpy(), weights)
    length = [name.startswith("np.tanh") for name in train].index(True)
    strength, start = float(fitted.C_[0]), fitted.coef_[0]
    rates = bootstrap(problem, test.to_numpy(), differences, length, strength, start, seed, resamples)
    low, high = _interval(rates)
    return LengthControlled(value, (min(low, value), max(high, value)))  # all won: liblinear stops short of 100


def _design(ordered: Sequence[JudgedPair], df_gamed: Path) -> "tuple[pd.DataFrame, pd.DataFrame, pd.Series[float]]":
    """Return the package's design: rows to fit (gamed models first), rows to predict, and weights.

    The features are those of its `_get_featurized_data`, which would download df_gamed.csv.
    """
    import_package()
    import pandas as pd
    from alpaca_eval.metrics import glm_winrate

    gamed = _read_gamed(df_gamed).drop(columns=["model"])
    difficulty = gamed.drop_duplicates("index")["instruction_difficulty"]
    lengths = pd.Series([len(pair.reference) - len(pair.output) for pair in ordered])
    frame = pd.DataFrame(
        {
            "preference": pd.Series([pair.preference for pair in ordered], dtype=float).replace({0.0: 1.5}) - 1,
            "index": [pair.index for pair in ordered],
            "std_delta_len": lengths / lengths.std(),
        }
    )
    frame["instruction_difficulty"] = frame["index"].transform(lambda index: difficulty[index])
    frame["not_gamed_baseline"] = True
    unbiased = frame[["instruction_difficulty", "not_gamed_baseline"]].assign(std_delta_len=0)
    info = glm_winrate.GLM_INFO[MODEL]
    whole = pd.concat([gamed, frame], axis=0)
    train, test = glm_winrate.make_dmatrix_for_model(whole, unbiased, formula=info["formula"])
    own = whole["not_gamed_baseline"]
    # halved, because there are two gamed models
    weights = own.astype(float) + (info["regularize_to_baseline_lambda"] * (~own)).astype(float) / 2
    return train, test, weights


def _read_gamed(path: Path) -> "pd.DataFrame":
    import pandas as pd

    try:
        frame = pd.read_csv(path)
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise UserError(f"{path}: cannot be read ({error}); fetch it again (harness data fetch alpaca-eval)") from None
    first = frame["index"].drop_duplicates() if "index" in frame else []
    if not {"model", *GAMED_COLUMNS} <= set(frame) or list(first) != list(range(ALL)):
        raise UserError(f"{path}: must have the columns {', '.join(GAMED_COLUMNS)} for the instructions 0 to {ALL - 1}")
    return frame


def _fit(train: "pd.DataFrame", weights: "pd.Series[float]") -> Any:
    import sklearn
    from alpaca_eval.metrics import glm_winrate

    routing = sklearn.get_config()["enable_metadata_routing"]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # scikit-learn's, about the package's parameters
            return glm_winrate.fit_LogisticRegressionCV(
                train, "preference", is_ytrue_proba=True, sample_weight=weights, **glm_winrate.GLM_INFO[MODEL]["kwargs"]
            )
    finally:
        sklearn.set_config(enable_metadata_routing=routing)


def bootstrap(
    whole: Problem,
    test: "np.ndarray",
    differences: "np.ndarray",
    length: int,
    strength: float,
    start: "np.ndarray",
    seed: int,
    resamples: int,
) -> "np.ndarray":
    """Return length-controlled win rates of resamples of the model's own comparisons (the problem's last rows).

    The gamed models are not resampled. As in the fit to all rows, a length difference is divided by its spread, here
    that of the resample. The regularization keeps the strength that cross-validation chose for all rows.

    Args:
        test: (own, d) rows to predict. differences: (own,) in characters. length: the column that holds them.
        strength, start: see `refit`; the coefficients for all rows are near those of its resamples.

    Returns:
        (resamples,), in percent.
    """
    import numpy as np

    own = len(differences)
    random = np.random.default_rng(seed)
    features, weights = whole.features.copy(), whole.weights.copy()
    rates = []
    for _ in range(resamples):
        counts = np.bincount(random.integers(own, size=own), minlength=own)
        spread = np.std(np.repeat(differences, counts), ddof=1)
        features[-own:, length] = np.tanh(differences / spread) if spread else 0.0
        weights[-own:] = whole.weights[-own:] * counts
        drawn = Problem(features, whole.targets, weights)
        coefficients = refit(drawn, strength, start)
        rates.append(100 * np.average(_logistic(test @ coefficients), weights=counts))
    return np.array(rates)


def refit(problem: Problem, strength: float, start: "np.ndarray") -> "np.ndarray":
    """Return the coefficients (d,) that minimize strength * sum of weighted log losses + sum of |coefficients|.

    This is liblinear's problem with an L1 penalty (Fan et al. 2008, eq. 4), solved by Newton steps whose penalized
    quadratic models are minimized by coordinate descent (Friedman et al. 2010, section 3).
    """
    import numpy as np

    x, targets, weights = problem.features, problem.targets, problem.weights * strength

    def loss(beta: "np.ndarray") -> float:
        scores = x @ beta
        return float(weights @ (np.logaddexp(0, scores) - targets * scores) + np.abs(beta).sum())

    beta: np.ndarray = start.astype(float)
    now = loss(beta)
    for _ in range(NEWTON_STEPS):
        chances = _logistic(x @ beta)
        gradient = (weights * (chances - targets)) @ x
        bends = weights * np.maximum(chances * (1 - chances), 1e-6)  # certain rows must not cause huge steps
        step = _descend((x * bends[:, None]).T @ x, gradient, beta) - beta
        while (then := loss(beta + step)) > now + 1e-12 * abs(now) and np.abs(step).max() > 1e-9:
            step /= 2
        if then < now:
            beta, now = beta + step, then
        if np.abs(step).max() < 1e-6:
            break
    return beta


def _descend(curvature: "np.ndarray", gradient: "np.ndarray", at: "np.ndarray") -> "np.ndarray":
    """Return the b that minimizes gradient . (b - at) + (b - at)' curvature (b - at) / 2 + sum of |b|."""
    bend, places = curvature.tolist(), range(len(at))
    old, found, slope = at.tolist(), at.tolist(), gradient.tolist()
    for _ in range(SWEEPS):
        moved = 0.0
        for place in places:
            if not bend[place][place]:
                continue
            pull = slope[place] + sum(bend[place][k] * (found[k] - old[k]) for k in places)
            target = bend[place][place] * found[place] - pull
            new = max(abs(target) - 1, 0) / bend[place][place] * (1 if target > 0 else -1)
            moved, found[place] = max(moved, abs(new - found[place])), new
        if moved < 1e-8:
            break
    return at + [new - before for new, before in zip(found, old, strict=True)]


def _logistic(scores: "np.ndarray") -> "np.ndarray":
    import numpy as np

    return (1 + np.tanh(scores / 2)) / 2  # never overflows


def _interval(values: "np.ndarray") -> tuple[float, float]:
    import numpy as np

    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def find_gamed(folder: Path) -> Path | None:
    """Return the df_gamed file of a data folder, if there is one."""
    return next(iter(sorted(folder.glob("df_gamed*.csv"))), None)
