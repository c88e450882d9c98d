"""The causal classifier against its formula in training and at test, its moving direction, and its limits."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from livt.models import create_vit
from livt.rivals.causal import CausalHead
from livt.rivals.heads import CosineHead

N, D, C, K = 7, 6, 4, 2


def make(heads=K, scale=16.0, gamma=1 / 32, alpha=3.0):
    head = CausalHead(D, C, heads=heads, scale=scale, gamma=gamma, alpha=alpha).double()
    torch.manual_seed(0)
    torch.nn.init.normal_(head.weight)
    return head


def reference(x, w, d, heads, scale, gamma, alpha):
    """One image, class and head at a time."""
    size, logits = D // heads, np.zeros((len(x), len(w)))
    for i, c, k in np.ndindex(len(x), len(w), heads):
        part = slice(k * size, (k + 1) * size)
        unit = x[i, part] / np.linalg.norm(x[i, part])
        if d is not None:
            common = d[part] / np.linalg.norm(d[part])
            cosine = unit @ common / np.linalg.norm(unit) / np.linalg.norm(common)
            unit = unit - alpha * cosine * common
        logits[i, c] += scale / heads * unit @ w[c, part] / (np.linalg.norm(w[c, part]) + gamma)
    return logits


@pytest.mark.parametrize("heads", [1, 2, 3])
def test_training_and_test_against_the_formula(heads):
    head, rng = make(heads), np.random.default_rng(heads)
    batches = rng.normal(1.0, 1.0, size=(3, N, D))
    w, d = head.weight.detach().numpy(), np.zeros(D)
    for batch in batches:
        found = head(torch.from_numpy(batch)).detach().numpy()
        np.testing.assert_allclose(found, reference(batch, w, None, heads, 16, 1 / 32, 3), rtol=1e-12, atol=1e-13)
        d = 0.9 * d + batch.mean(0)
    np.testing.assert_allclose(head.direction.numpy(), d, rtol=1e-13)
    head.eval()
    found = head(torch.from_numpy(batches[0])).detach().numpy()
    np.testing.assert_allclose(found, reference(batches[0], w, d, heads, 16, 1 / 32, 3), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(head.direction.numpy(), d, rtol=1e-13, err_msg="a test image moves nothing")


@pytest.mark.parametrize("training", [True, False])
def test_gradients(training):
    head = make().train(training)
    head.direction.normal_()
    x = torch.randn(N, D, dtype=torch.float64, requires_grad=True)

    def logits(x, weight):
        kept = head.direction.clone()
        found = torch.func.functional_call(head, {"weight": weight, "direction": head.direction}, (x,))
        head.direction.copy_(kept)
        return found

    assert torch.autograd.gradcheck(logits, (x, head.weight))


def test_limits():
    x = torch.randn(N, D, dtype=torch.float64) + 1
    head = make()
    trained = head(x)
    head.alpha = 0.0
    assert torch.equal(head.eval()(x), trained), "alpha 0 leaves nothing out"
    fresh = make()
    torch.testing.assert_close(fresh.eval()(x), trained)  # no direction yet
    cosine = CosineHead(D, C, 16.0).double()
    one = make(heads=1, gamma=0.0)
    cosine.weight.data.copy_(one.weight)
    torch.testing.assert_close(one(x), cosine(x), rtol=1e-12, atol=1e-13)
    all_out = make(heads=1, alpha=1.0)
    all_out(x)
    direction = all_out.direction / all_out.direction.norm()
    left = F.normalize(x) - (F.normalize(x) @ direction)[:, None] * direction
    assert (left @ direction).abs().max() < 1e-12
    expected = 16 * left @ (all_out.weight / (all_out.weight.norm(dim=1, keepdim=True) + 1 / 32)).T
    torch.testing.assert_close(all_out.eval()(x), expected, rtol=1e-12, atol=1e-13)


def test_heads_divide_the_features():
    vit = create_vit("femto", 8, 4, 3)
    with pytest.raises(ValueError, match="finetune.options.heads must divide the 16 features, not 3"):
        CausalHead(vit.num_features, 3, heads=3, scale=16.0, gamma=0.0, alpha=3.0)
