"""cRT, classifier re-training: a new head on frozen features, from as many images of each class.

Kang et al., ICLR 2020, Section 4.1; facebookresearch/classifier-balancing. The head begins near zero, as in
fine-tuning. On a first stage of GCL it stands for the second phase of that method (Li et al., CVPR 2022), whose code
goes on with its cosine head by a focal form of its loss, with mixup.
"""

from torch import nn

from livt.rivals.methods import METHODS, Method, cross_entropy, widths_of, with_head


def new_head(model: nn.Module) -> nn.Module:
    """Return the model with an untrained linear head of the same shape; the old one can be of another kind."""
    head = nn.Linear(*widths_of(model))
    nn.init.trunc_normal_(head.weight, std=2e-5)
    nn.init.zeros_(head.bias)
    return with_head(model, head)


METHODS["crt"] = Method(name="crt", title="cRT", source="Kang et al., ICLR 2020", adapt=new_head, create=cross_entropy)
