"""The model of several experts: what is shared, what is each one's own, and what it comes to for one."""

from collections import Counter
from copy import deepcopy

import pytest
import torch
from torch import nn

from livt.models import create_vit
from livt.optim import layer_decay_groups
from livt.resnets import create_resnet
from livt.rivals.experts import check_experts, checked, cosine_experts, expert_logits, linear_experts

B, C = 5, 7


def network(size="pico", spread=0.3):
    torch.manual_seed(0)
    vit = create_vit(size, 8, 4, C)
    nn.init.normal_(vit.head.weight, std=spread)  # as a trained one, not near zero
    nn.init.normal_(vit.head.bias, std=spread)
    return vit


@pytest.fixture
def images():
    return torch.randn(B, 3, 8, 8, generator=torch.manual_seed(1))


@pytest.mark.parametrize("own_blocks", [1, 2])
@pytest.mark.parametrize("training", [True, False])
def test_one_expert_is_the_network_to_the_bit(own_blocks, training, images):
    plain = network().train(training)
    alone = linear_experts(deepcopy(plain), 1, own_blocks).train(training)
    expected, found = plain(images), alone(images)
    assert torch.equal(found[:, 0] if training else found, expected)
    expected.square().sum().backward()
    found.square().sum().backward()
    for before, after in zip(plain.parameters(), alone.parameters(), strict=True):
        assert torch.equal(before.grad, after.grad)


@pytest.mark.parametrize("own_blocks", [1, 2, 4])
def test_each_expert_is_a_network_of_the_trunk_and_its_own_layers(own_blocks, images):
    model = linear_experts(network("mini"), 3, own_blocks)
    for parameter in model.parameters():  # away from the copies that they start as
        parameter.data += 0.02 * torch.randn_like(parameter)
    logits = model.train()(images)
    assert logits.shape == (B, 3, C)
    for k in range(3):
        single = network("mini")
        for number in range(4):
            block = model.blocks[number]
            single.blocks[number] = block if number < 4 - own_blocks else block[k]
        single.patch_embed, single.cls_token, single.pos_embed = model.patch_embed, model.cls_token, model.pos_embed
        single.fc_norm, single.head = model.fc_norm[k], model.head[k]
        assert torch.equal(single(images), logits[:, k])
    mean = model.eval()(images)
    assert mean.shape == (B, C)
    torch.testing.assert_close(mean, logits.mean(1))
    torch.testing.assert_close(expert_logits(model, images), logits)


def test_experts_start_from_the_same_features_and_differ_by_their_heads(images):
    vit = network(spread=2e-5)
    with torch.no_grad():
        vit.head.bias.copy_(torch.arange(C))
    model = linear_experts(vit, 3, 1).train()
    features = model.forward_head(model.forward_features(images), pre_logits=True).chunk(3)
    assert torch.equal(features[0], features[1])
    assert torch.equal(features[0], features[2])
    logits = model(images)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (logits[:, one] - logits[:, other]).std() > 0.1
        assert torch.equal(model.head[one].bias, model.head[other].bias), "finetune.start holds for all"


def test_an_experts_block_learns_at_the_rate_of_the_block_it_is_a_copy_of():
    def rates(model):
        """Return, for each parameter's shape, learning rate and decay, how often there is one."""
        groups = layer_decay_groups(model, 0.05, 0.5)
        return Counter((tuple(p.shape), g["lr_scale"], g["weight_decay"]) for g in groups for p in g["params"])

    plain = network("mini")
    expected = rates(plain)
    assert rates(linear_experts(network("mini"), 1, 2)) == expected
    own = Counter()
    for layer in (plain.blocks[2], plain.blocks[3], plain.fc_norm, plain.head):
        names = {id(p) for p in layer.parameters()}
        for group in layer_decay_groups(plain, 0.05, 0.5):
            own.update(
                (tuple(p.shape), group["lr_scale"], group["weight_decay"]) for p in group["params"] if id(p) in names
            )
    assert rates(linear_experts(network("mini"), 3, 2)) == expected + own + own


def test_cosine_experts_have_heads_of_their_own(images):
    model = cosine_experts(create_vit("pico", 8, 4, C), 2, 1, 16.0).train()
    logits = model(images)
    assert logits.shape == (B, 2, C)
    assert logits.abs().max() <= 16
    assert not torch.equal(logits[:, 0], logits[:, 1])
    assert model.eval()(images).shape == (B, C)


def test_checkpointing_changes_nothing(images):
    models = [linear_experts(network(), 2, 1).train() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    models[1].set_grad_checkpointing(True)
    outputs = [model(images) for model in models]
    assert torch.equal(*outputs)
    for output in outputs:
        output.square().sum().backward()
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_no_memory_is_needed_to_know_the_names():
    with torch.device("meta"):
        model = cosine_experts(create_vit("pico", 8, 4, C), 3, 1, 30.0)
    assert all(p.is_meta for p in model.parameters())
    assert model.state_dict().keys() == cosine_experts(create_vit("pico", 8, 4, C), 3, 1, 30.0).state_dict().keys()


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="model.size must name a Vision Transformer"):
        linear_experts(create_resnet("resnet10", C), 3, 1)
    with pytest.raises(ValueError, match="finetune.options.own_blocks must be at most 2, the blocks of .*, not 3"):
        cosine_experts(network(), 3, 3, 30.0)
    with pytest.raises(ValueError, match="finetune.options.experts must be a whole number of at least 1, not 2.5"):
        check_experts(2.5, 1)
    with pytest.raises(ValueError, match="finetune.options.own_blocks must be a whole number of at least 1, not 0"):
        check_experts(3, 0)
    with pytest.raises(ValueError, match=r"finetune.start must be 'zero'"):
        cosine_experts(network(), 3, 1, 30.0)
    with pytest.raises(ValueError, match=r"logits must be floating point \[B, K, C\], not torch.float32 of shape"):
        checked(torch.zeros(3, 4))


def test_logits_of_half_precision_are_made_wider():
    assert checked(torch.zeros(1, 2, 3, dtype=torch.bfloat16)).dtype == torch.float32
    assert checked(torch.zeros(1, 2, 3, dtype=torch.float64)).dtype == torch.float64
