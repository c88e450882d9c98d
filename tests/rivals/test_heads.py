"""The cosine head against its formula, and in the place of a network's own."""

import numpy as np
import pytest
import torch
from torch import nn

from livt.models import create_vit
from livt.optim import layer_decay_groups
from livt.resnets import create_resnet
from livt.rivals.heads import CosineHead, with_cosine_head


def test_cosines():
    head, x = CosineHead(5, 3, 30.0).double(), np.random.default_rng(0).normal(size=(4, 5))
    w = head.weight.detach().numpy()
    expected = [[30 * u @ v / np.linalg.norm(u) / np.linalg.norm(v) for v in w] for u in x]
    logits = torch.from_numpy(x).requires_grad_()
    np.testing.assert_allclose(head(logits).detach().numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(w, axis=1), 1, rtol=1e-6)
    assert torch.autograd.gradcheck(
        lambda x, w: torch.func.functional_call(head, {"weight": w}, (x,)), (logits, head.weight)
    )


def test_lengths_do_not_matter():
    head, x = CosineHead(5, 3, 30.0), torch.randn(4, 5)
    before = head(x)
    head.weight.data *= 7
    torch.testing.assert_close(head(3 * x), before)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: create_vit("femto", 8, 4, 3), "head"),
        (lambda: create_resnet("resnet10", 3), "head.fc"),
        (lambda: create_resnet("resnet50", 3), "fc"),
    ],
    ids=["vit", "resnet10", "resnet50"],
)
def test_it_takes_the_place_of_a_networks_own(make, name):
    with torch.device("meta"):
        plain, network = make(), with_cosine_head(make(), 30.0)
    assert network.state_dict().keys() == plain.state_dict().keys() - {f"{name}.bias"}
    assert isinstance(network.get_classifier(), CosineHead)
    assert network.get_submodule(name) is network.get_classifier()
    with torch.device("meta"):
        assert network(torch.zeros(2, 3, *((8, 8) if name == "head" else (32, 32)))).shape == (2, 3)


def test_a_transformer_keeps_its_layers():
    found = layer_decay_groups(with_cosine_head(create_vit("femto", 8, 4, 3), 30.0), 0.05, 0.75)
    assert len({group["lr_scale"] for group in found}) == 4, "embeddings, two blocks, and what follows them"


def test_a_start_at_the_priors_is_refused_and_a_constant_is_not():
    vit = create_vit("femto", 8, 4, 3)
    nn.init.constant_(vit.head.bias, -1.0)
    assert isinstance(with_cosine_head(vit, 30.0).head, CosineHead)
    vit = create_vit("femto", 8, 4, 3)
    vit.head.bias.data[1] = 1.0
    with pytest.raises(ValueError, match="finetune.start must be 'zero'"):
        with_cosine_head(vit, 30.0)
