"""Ridge and partial least squares regression through products of stimuli, for n stimuli of far more neuroids.

Both predictions depend on the features only through their products: a cross-validation multiplies the features once,
and neither memory nor time of a fold grows with their width. The ridge regression is ours and not scikit-learn's since
it shares this Gram matrix with PLS and CKA, which makes it twice as fast. Singular values of the features below about
1e-8 of the largest are lost in the products' rounding. Ridge regression on few features uses the features themselves.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh, qr, solve_triangular, svd

from nmnc.errors import UserError

Matrix = NDArray[np.float64]

#: Penalties tried per neuroid, as multiples of the mean squared size of a centred training stimulus.
PENALTIES = tuple(np.logspace(-6, 4, 21).tolist())
#: Directions of less covariance than this, relative to the sizes of features and responses, are rounding.
ROUNDING = 1e-15


def centred_on_training(gram: Matrix, train: NDArray[np.intp], test: NDArray[np.intp]) -> tuple[Matrix, Matrix]:
    """Return the products (train, train) and (test, train) after the training stimuli's mean is removed from all.

    Args:
        gram: (n, n) products of all stimuli; subtract their overall mean before, see gram.centred_gram.
        train, test: positions of the training and of the test stimuli.
    """
    within, across = gram[np.ix_(train, train)], gram[np.ix_(test, train)]
    means = within.mean(axis=0)
    across -= across.mean(axis=1, keepdims=True)
    across -= means - means.mean()
    within -= means
    within -= means[:, None] - means.mean()
    return within, across


def pls_predictions(within: Matrix, across: Matrix, responses: Matrix, components: int = 25) -> Matrix:
    """Predict test responses by partial least squares regression (PLS2, scikit-learn's PLSRegression, scale=False).

    Kernel form of Rosipal & Trejo 2001 (JMLR 2:97): each step finds exactly the direction of the responses that
    covaries most with the features, where scikit-learn iterates up to a tolerance. It ends early where features or
    responses have no covariance left.

    Args:
        within, across: (train, train) and (test, train) centred products.
        responses: (train, neuroids).
        components: number of latent variables.

    Returns:
        (test, neuroids) float64.
    """
    means = responses.mean(axis=0)
    left, turn = responses - means, None
    if left.shape[1] > left.shape[0]:
        # More neuroids than stimuli: turn them into as many as there are stimuli; predictions turn back.
        turn, triangle = qr(left.T, mode="economic")
        left = triangle.T
    centred = left.copy()
    n = len(left)
    scores, steps = np.zeros((n, components)), np.zeros((n, components))
    triangle, found = np.zeros((components, components)), 0
    size, whole = np.linalg.norm(within), np.linalg.norm(left)
    for index in range(components):
        products = within @ left
        covariance = left.T @ products
        last = covariance.shape[0] - 1
        values, vectors = eigh((covariance + covariance.T) / 2, subset_by_index=[last, last])
        rest = np.linalg.norm(left)
        if not (rest > ROUNDING * whole and values[0] > ROUNDING * size * rest**2):
            break
        step, score = left @ vectors[:, 0], products @ vectors[:, 0]
        for _ in range(2):
            # Twice, for what rounding leaves of the earlier scores after once.
            overlap = scores[:, :index].T @ score
            score -= scores[:, :index] @ overlap
            triangle[:index, index] += overlap
        triangle[index, index] = np.linalg.norm(score)
        scores[:, index], steps[:, index] = score / triangle[index, index], step
        left = left - np.outer(scores[:, index], scores[:, index] @ left)
        found = index + 1
    used = slice(0, found)
    # The test stimuli's scores: products with the steps, made orthogonal as the training scores were.
    latent = solve_triangular(triangle[used, used].T, (across @ steps[:, used]).T, lower=True).T
    predictions = latent @ (scores[:, used].T @ centred)
    return means + (predictions if turn is None else predictions @ turn.T)


def ridge_predictions(
    within: Matrix, across: Matrix, responses: Matrix, penalties: Sequence[float] | None = None
) -> tuple[Matrix, NDArray[np.float64]]:
    """Predict test responses by ridge regression, each neuroid with its own penalty.

    Each neuroid gets the penalty of least squared leave-one-out error, in closed form (Golub, Heath & Wahba 1979), as
    in scikit-learn's RidgeCV(alpha_per_target=True).

    Args:
        within, across: (train, train) and (test, train) centred products.
        responses: (train, neuroids).
        penalties: positive, in squared units of the features; a single one is used as it is. None: 21 from 1e-6 to
            1e4 times the mean squared size of a centred training stimulus, so that units do not matter.

    Returns:
        Predictions (test, neuroids) float64 and the penalties (neuroids,).

    Raises:
        UserError: a penalty that is not positive, or none.
    """
    values, vectors = eigh(within)
    values = np.maximum(values, 0.0)
    return _ridge(values, vectors, across @ vectors, responses, penalties)


def ridge_of_features(
    train: Matrix, test: Matrix, responses: Matrix, penalties: Sequence[float] | None = None
) -> tuple[Matrix, NDArray[np.float64]]:
    """Predict as `ridge_predictions` from features (train, p) and (test, p); time grows with p^2."""
    mean = train.mean(axis=0)
    vectors, sizes, axes = svd(train - mean, full_matrices=False)
    return _ridge(sizes**2, vectors, (test - mean) @ axes.T * sizes, responses, penalties)


def _ridge(
    values: NDArray[np.float64], vectors: Matrix, across: Matrix, responses: Matrix, penalties: Sequence[float] | None
) -> tuple[Matrix, NDArray[np.float64]]:
    """Ridge regression on the training stimuli's components.

    Args:
        values, vectors: (k,) and (train, k) eigenvalues and eigenvectors of their products.
        across: (test, k) products of the test stimuli with the eigenvectors.
        responses, penalties: see `ridge_predictions`.
    """
    n = len(vectors)
    if penalties is None:
        unit = float(values.sum()) / n
        penalties = [unit * factor for factor in PENALTIES] if unit > 0.0 else [1.0]
    if len(penalties) == 0 or not min(penalties) > 0.0:
        raise UserError(f"ridge penalties must be positive, got {list(penalties)}; give one or more above 0")
    means = responses.mean(axis=0)
    rotated = vectors.T @ (responses - means)
    chosen = np.full(responses.shape[1], float(penalties[0]))
    if len(penalties) > 1:
        best = np.full(responses.shape[1], np.inf)
        beyond, squares = responses - means - vectors @ rotated, vectors**2
        for penalty in penalties:
            # What is left of a stimulus by its own fit, and by the fit without it.
            residuals = beyond + vectors @ (rotated * (penalty / (values + penalty))[:, None])
            leverages = 1.0 / n + squares @ (values / (values + penalty))
            errors = np.mean((residuals / (1.0 - leverages)[:, None]) ** 2, axis=0)
            chosen[errors < best] = penalty
            best = np.minimum(errors, best)
    weights = rotated / (values[:, None] + chosen)
    return means + across @ weights, chosen
