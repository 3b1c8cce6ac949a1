"""Grad-CAM: Selvaraju et al., ICCV 2017."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
from jax.typing import ArrayLike

from amdjax.errors import UserError, unknown_name
from amdjax.losses import functional
from amdjax.models import Outputs

COLORS = "inferno"  # from dark to bright, so that it is legible without colour
_OPACITY = 0.75  # of the brightest colour


def grad_cam(
    model: nn.Module,
    variables: Any,
    images: jax.Array,
    classes: jax.Array,
    layer: str,
    predict: Callable[[Outputs], Outputs] = lambda outputs: outputs,
) -> jax.Array:
    """Returns the Grad-CAM of a class in a feature map, for each sample (Eq. 1 and 2).

    `relu(sum_c w_c A_c)` with the feature's channels `A_c` and `w_c = mean_hw d y / d A_c`, where
    y is the logit of the class, in evaluation mode. The gradient covers all paths from the feature
    to the logit, shortcuts and a prediction rule that reads the feature included.

    Args:
      model: from `create_model`.
      variables: {"params": ..., "batch_stats": ...}.
      images: float [B,H,W,3], normalised as for the model.
      classes: int [B], the class of each map; the map of a class that does not exist is zero.
      layer: of the feature: "stem", "stage1", ...
      predict: outputs -> outputs with the logits of the prediction; see `Objective`.

    Returns:
      float32 [B,h,w] of the size of the feature, not negative.

    Raises:
      UserError: if the model has no such layer, or `classes` does not have the shape [B].
    """
    images, classes = jnp.asarray(images), jnp.asarray(classes)
    if classes.shape != images.shape[:1]:
        raise UserError(
            f"expected classes [{images.shape[0]}], one for each image, got {list(classes.shape)}"
        )
    features = jax.eval_shape(lambda x: model.apply(variables, x, train=False).features, images)
    if layer not in features:
        raise unknown_name("layer", layer, features)

    def class_logits(perturbation: jax.Array) -> tuple[jax.Array, jax.Array]:
        def feature_hook(name: str, x: jax.Array) -> jax.Array:
            return x + perturbation if name == layer else x

        outputs: Any = model.apply(variables, images, train=False, feature_hook=feature_hook)
        feature = outputs.features[layer]
        # The features are those before the hook, and a prediction rule may read them.
        hooked = {**outputs.features, layer: feature_hook(layer, feature)}
        logits = predict(outputs.replace(features=hooked)).logits
        # Samples are independent in evaluation mode, so the sum gives the gradient of each.
        return jnp.sum(logits * jax.nn.one_hot(classes, logits.shape[-1])), feature

    zero = jnp.zeros(features[layer].shape, features[layer].dtype)
    gradient, feature = jax.grad(class_logits, has_aux=True)(zero)
    weights = jnp.mean(functional.promote_to_float32(gradient), axis=(1, 2), keepdims=True)
    return nn.relu(jnp.sum(weights * functional.promote_to_float32(feature), axis=-1))


def overlay(images: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Blends a heat map into images: `x + 0.75 h (c(h) - x)`, unchanged where the heat is 0.

    Args:
      images: float [...,H,W,3], in [0, 1].
      heat: float [...,H,W], in [0, 1]; its colour c goes from dark to bright (inferno).

    Returns:
      float [...,H,W,3], in [0, 1].
    """
    heat = np.asarray(heat)
    colors = mpl.colormaps[COLORS](heat)[..., :3]
    return images + _OPACITY * heat[..., None] * (colors - images)


def upsample(cams: ArrayLike, size: tuple[int, int]) -> jax.Array:
    """Upsamples maps by bilinear interpolation.

    Args:
      cams: float [B,h,w].
      size: (H, W) of the images.

    Returns:
      float [B,H,W].
    """
    cams = jnp.asarray(cams)
    return jax.image.resize(cams, (cams.shape[0], *size), "bilinear")


def to_unit(cams: ArrayLike) -> jax.Array:
    """Scales each map to [0, 1]: `(x - min) / (max - min)`.

    Args:
      cams: float [B,H,W].

    Returns:
      float [B,H,W]; zero for a constant map.
    """
    cams = jnp.asarray(cams)
    low = jnp.min(cams, axis=(1, 2), keepdims=True)
    span = jnp.max(cams, axis=(1, 2), keepdims=True) - low
    return (cams - low) / jnp.where(span > 0, span, 1.0)
