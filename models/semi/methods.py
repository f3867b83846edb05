"""The semi-supervised methods of the training loop, each as a set of switches."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Method:
    """How a method uses unlabelled images; L_u is the weighted sum of its views' losses (Eq. 9).

    Attributes:
        pseudo: label of unlabelled images: none, the model's prediction, or the enhanced label of Eq. 7.
        teacher: what predicts the weak view: the network itself, or its exponential moving average.
        strong_views: number of strongly augmented views per image.
        feature_view: whether the weak view's features with dropped channels are another view.
        complementary_dropout: whether two strong views see opposite halves of the channels.
        strong_weight: weight of each strong view's loss.
        feature_weight: weight of the feature view's loss.
        default_tau: default of `tau`, the minimum probability of a class that the model predicts.
    """

    pseudo: Literal["none", "model", "enhanced"]
    teacher: Literal["self", "ema"] = "self"
    strong_views: int = 0
    feature_view: bool = False
    complementary_dropout: bool = False
    strong_weight: float = 0.0
    feature_weight: float = 0.0
    default_tau: float = 0.95


_SEGRAY = Method(
    pseudo="enhanced",
    strong_views=2,
    strong_weight=0.25,
    feature_view=True,
    feature_weight=0.5,
    default_tau=0.7,
)
_SEGRAY_V2 = replace(_SEGRAY, teacher="ema")

METHODS: dict[str, Method] = {
    "supervised": Method(pseudo="none"),
    "fixmatch": Method(pseudo="model", strong_views=1, strong_weight=1.0),
    "unimatch": Method(
        pseudo="model", strong_views=2, strong_weight=0.25, feature_view=True, feature_weight=0.5
    ),
    "unimatch_v2": Method(
        pseudo="model", teacher="ema", strong_views=2, strong_weight=0.5, complementary_dropout=True
    ),
    "segray": _SEGRAY,
    "segray_v2": _SEGRAY_V2,
    "segray_v3": _SEGRAY_V2,
}
"""FixMatch (2020, as in UniMatch's baseline), UniMatch (CVPR 2023), UniMatch V2 (2025), the paper (Eq. 7-10),
and the paper with UniMatch V2's averaged teacher: its feature view stays, complementary dropout did worse.
segray_v3 is segray_v2 with other defaults of its options (`config.commands.train.OF_METHOD`)."""
