"""MiSLAS: label-aware smoothing, on a head with a learned factor for each class.

The loss is (1 - eps_y) (-log p_y) + eps_y mean_c(-log p_c), where eps_y rises with the class count from ``tail`` to
``head``: tail + (head - tail) sin(pi / 2 (n_y - n_min) / (n_max - n_min)). The head of the first stage learns on, at a
share of the learning rate, and factors as in LWS with it, from as many images of each class (Zhong et al., CVPR 2021,
Eqs. 3 to 6; dvlab-research/MiSLAS, values of CIFAR-100-LT at factor 100). The paper's first stage is trained with
``finetune.mixup`` 0.2. Its shift learning moves batch statistics of the trunk, which stays as it is here; a Vision
Transformer has none.
"""

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from livt.longtail import check_class_counts
from livt.losses import CrossEntropy
from livt.rivals.lws import scaled
from livt.rivals.methods import METHODS, Method, head_of, mean_over
from livt.rivals.options import require


class LabelAwareSmoothing(CrossEntropy):
    """Cross-entropy whose targets are smoothed the more, the larger their class.

    class_counts: training images of each class, [C]. head, tail: shares of smoothing for the largest and the smallest
    class; ``tail`` is everybody's where all classes are equal. Of a mixed target, each class's share is smoothed by
    that class. head_rate is the optimiser's. Raises ValueError for shares outside [0, 1).
    """

    def __init__(self, class_counts: ArrayLike, head: float, tail: float, head_rate: float) -> None:
        super().__init__()
        for name, value in (("head", head), ("tail", tail)):
            require(0 <= value < 1, name, "must lie in [0, 1)", value, "second")
        require(0 < head_rate <= 1, "head_rate", "must lie in (0, 1]", head_rate, "second")
        counts = check_class_counts(class_counts)
        place = (counts - counts.min()) / max(counts.max() - counts.min(), 1.0)
        self.smoothing = torch.from_numpy(tail + (head - tail) * np.sin(np.pi / 2 * place))

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        surprise, smoothing = -logits.log_softmax(1), self.smoothing.to(logits)
        return mean_over((1 - smoothing) * surprise + smoothing * surprise.mean(1, keepdim=True), targets)


def scaled_and_learned(model: nn.Module, **options: float) -> nn.Module:
    """Return the model with a scaled head, of which factors and weights are learned."""
    head_of(model).requires_grad_(True)
    return scaled(model)


def slower(head_rate: float, **options: float) -> dict[str, float]:
    """Return the share of the learning rate that the head learns at."""
    return {".inner.": head_rate}


METHODS["mislas"] = Method(
    name="mislas",
    title="MiSLAS",
    source="Zhong et al., CVPR 2021",
    adapt=scaled_and_learned,
    create=LabelAwareSmoothing,
    slower=slower,
    options={"head": 0.4, "tail": 0.1, "head_rate": 0.2},
)
