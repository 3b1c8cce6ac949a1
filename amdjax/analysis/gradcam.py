"""Where a model looks: Selvaraju et al., Grad-CAM, ICCV 2017."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np

from amdjax.errors import UserError, unknown_name
from amdjax.losses import functional
from amdjax.models import Outputs

_COLORS = "inferno"  # from dark to bright, so it reads without colour as well
_STRENGTH = 0.75  # how much of the image the hottest colour covers


def grad_cam(
    model: nn.Module,
    variables: Any,
    images: jax.Array,
    classes: jax.Array,
    layer: str,
    predict: Callable[[Outputs], Outputs] = lambda outputs: outputs,
) -> jax.Array:
    """Returns what in a feature map speaks for a class, for each sample (Eq. 1 and 2).

    `relu(sum_c w_c A_c)` with the feature's channels `A_c` and `w_c = mean_hw d y / d A_c`, where
    y is the logit of the class, in evaluation mode. Where the network reads the feature in more
    than one way (a shortcut) all of them count.

    Args:
      model: from `create_model`.
      variables: {"params": ..., "batch_stats": ...}.
      images: float [B,H,W,3], normalised as for the model.
      classes: int [B], the class whose evidence each map shows; one that does not exist has none.
      layer: of the feature: "stem", "stage1", ...
      predict: outputs -> outputs whose logits predict; see `Objective`.

    Returns:
      float32 [B,h,w] of the feature's size, not negative.

    Raises:
      UserError: if the model has no such layer, or there is not one class for each image.
    """
    images, classes = jnp.asarray(images), jnp.asarray(classes)
    if classes.shape != images.shape[:1]:
        raise UserError(f"{images.shape[0]} images with classes {list(classes.shape)}")
    features = jax.eval_shape(lambda x: model.apply(variables, x, train=False).features, images)
    if layer not in features:
        raise unknown_name("layer", layer, features)

    def score(change: jax.Array) -> tuple[jax.Array, jax.Array]:
        def feature_hook(at: str, x: jax.Array) -> jax.Array:
            return x + change if at == layer else x

        outputs = model.apply(variables, images, train=False, feature_hook=feature_hook)
        logits = predict(outputs).logits
        # Samples do not mix in evaluation mode: the gradient of the sum is that of each.
        return jnp.sum(logits * jax.nn.one_hot(classes, logits.shape[-1])), outputs.features[layer]

    nothing = jnp.zeros(features[layer].shape, features[layer].dtype)
    gradient, feature = jax.grad(score, has_aux=True)(nothing)
    weights = jnp.mean(functional.promote_to_float32(gradient), axis=(1, 2), keepdims=True)
    return nn.relu(jnp.sum(weights * functional.promote_to_float32(feature), axis=-1))


def overlay(images: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Paints heat over images: `x + 0.75 h (c(h) - x)`, so that nothing hides what is cold.

    Args:
      images: float [...,H,W,3], from 0 to 1.
      heat: float [...,H,W], from 0 to 1; its colour c goes from dark to bright (inferno).

    Returns:
      float [...,H,W,3], from 0 to 1.
    """
    heat = np.asarray(heat)
    colors = mpl.colormaps[_COLORS](heat)[..., :3]
    return images + _STRENGTH * heat[..., None] * (colors - images)


def upsample(cams: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Enlarges maps by bilinear interpolation.

    Args:
      cams: float [B,h,w].
      size: (H, W), that of the images.

    Returns:
      float [B,H,W].
    """
    return jax.image.resize(cams, (cams.shape[0], *size), "bilinear")


def to_unit(cams: jax.Array) -> jax.Array:
    """Scales each map to the range 0 to 1: `(x - min) / (max - min)`.

    Args:
      cams: float [B,H,W].

    Returns:
      float [B,H,W]; a constant map becomes zero.
    """
    low = jnp.min(cams, axis=(1, 2), keepdims=True)
    span = jnp.max(cams, axis=(1, 2), keepdims=True) - low
    return (cams - low) / jnp.where(span > 0, span, 1.0)
