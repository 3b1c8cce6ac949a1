"""Open-set scores: how well a network tells images of known classes from those of unknown ones.

A score is large for known classes. The three scores are compared by the area under the ROC curve
and by the false-positive rate at a given true-positive rate.
"""

import numpy as np
import scipy.special
from numpy.typing import ArrayLike
from sklearn.metrics import roc_auc_score, roc_curve

from amdjax.errors import UserError


def max_log_probability(logits: ArrayLike) -> np.ndarray:
    """Returns the logarithm of the maximum softmax probability (MSP), `max_c log p_c`.

    It orders examples as `max_c p_c` of Hendrycks & Gimpel (ICLR 2017) does, and still differs
    between examples whose probability is rounded to 1.

    Args:
      logits: float [N,C].

    Returns:
      float64 [N], at most 0.
    """
    logits = _checked(logits, "logits [N,C]")
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.put_along_axis(odds, logits.argmax(axis=1)[:, None], 0.0, axis=1)
    return -np.log1p(odds.sum(axis=1))


def negative_energy(logits: ArrayLike) -> np.ndarray:
    """Returns the negative free energy at temperature 1, `log sum_c exp(logit_c)`.

    Liu et al., "Energy-based Out-of-distribution Detection" (NeurIPS 2020).

    Args:
      logits: float [N,C].

    Returns:
      float64 [N].
    """
    return scipy.special.logsumexp(_checked(logits, "logits [N,C]"), axis=1)


def nearest_mean_cosine(embedding: ArrayLike, means: ArrayLike) -> np.ndarray:
    """Returns the cosine of the angle between an embedding and the nearest class mean.

    `max_c <z, mu_c> / (|z| |mu_c|)`; 0 for an embedding or a mean of zeros.

    Args:
      embedding: float [N,D].
      means: float [C,D], mean of the training embeddings of each class.

    Returns:
      float64 [N], in [-1, 1].

    Raises:
      UserError: if the shapes differ from these.
    """
    embedding, means = _checked(embedding, "embedding [N,D]"), _checked(means, "means [C,D]")
    if embedding.shape[1] != means.shape[1]:
        raise UserError(
            f"the embedding has {embedding.shape[1]} dimensions and the class means have "
            f"{means.shape[1]}"
        )
    return np.clip((_unit(embedding) @ _unit(means).T).max(axis=1), -1.0, 1.0)


def auroc(known: ArrayLike, unknown: ArrayLike) -> float:
    """Returns the area under the ROC curve of a score, with the known examples as positives.

    It is the probability that a known example has a larger score than an unknown one, where equal
    scores count half.

    Args:
      known: scores of the examples of known classes, float [N], at least one.
      unknown: scores of the examples of unknown classes, float [M], at least one.

    Returns:
      A value in [0, 1]; 1/2 for a score without information.

    Raises:
      UserError: if there are no examples of one kind, or a score is not finite.
    """
    return float(roc_auc_score(*_labelled(known, unknown)))


def fpr_at_tpr(known: ArrayLike, unknown: ArrayLike, tpr: float = 0.95) -> float:
    """Returns the false-positive rate of a score at a true-positive rate.

    The fraction of the unknown examples whose score is at least the largest threshold that
    accepts the fraction `tpr` of the known ones.

    Args:
      known: scores of the examples of known classes, float [N], at least one.
      unknown: scores of the examples of unknown classes, float [M], at least one.
      tpr: in (0, 1].

    Returns:
      A value in [0, 1].

    Raises:
      UserError: if there are no examples of one kind, a score is not finite, or `tpr` is out of
        range.
    """
    if not 0.0 < tpr <= 1.0:
        raise UserError(f"the true-positive rate must be above 0 and at most 1, not {tpr}")
    fpr, rates, _ = roc_curve(*_labelled(known, unknown), drop_intermediate=False)
    return float(fpr[np.argmax(rates >= tpr)])


def _labelled(known: ArrayLike, unknown: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Returns whether an example is known, bool [N+M], and its score, float64 [N+M]."""
    known, unknown = np.asarray(known, np.float64), np.asarray(unknown, np.float64)
    if known.ndim != 1 or unknown.ndim != 1 or not known.size or not unknown.size:
        raise UserError(
            "expected scores [N] of known and [M] of unknown examples, at least one of each, got "
            f"shapes {list(known.shape)} and {list(unknown.shape)}"
        )
    scores = np.concatenate([known, unknown])
    if not np.isfinite(scores).all():
        raise UserError("the scores contain NaN or Inf")
    return np.arange(len(scores)) < len(known), scores


def _unit(vectors: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(norms > 0.0, norms, 1.0)


def _checked(values: ArrayLike, expected: str) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or not values.shape[1]:
        raise UserError(f"expected {expected}, got the shape {list(values.shape)}")
    return values
