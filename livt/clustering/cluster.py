"""The clustering stage: pretrained features as they are, a head of prototypes, and labels that it makes for itself.

Shapes: ``N`` images, ``B`` images of a step, ``D`` features, ``K`` clusters, as many as classes.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans, kmeans_plusplus
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import normalize

from livt.clustering.methods import mass_at, method_of, neighbour_graph, options_of, pseudo_labels
from livt.clustering.metrics import cluster_scores, contingency
from livt.config import ClusterConfig, Engine, Recipe
from livt.data.augment import Augment
from livt.data.batches import apply
from livt.data.images import FileSplit, Split
from livt.data.seeds import one_cpu_thread, seed_everything, seed_of
from livt.data.sets import Dataset
from livt.distributed import is_leader, share, wrap
from livt.models import create_vit, load_encoder, place
from livt.optim import EpochLoss, check_finite, epoch_schedule, take_step
from livt.run import Run

STAGE = 4  # keeps its random numbers apart from those of the other stages


class Prototypes(nn.Module):
    """Logits of clusters: minus half the squared distances of features from prototypes, over a temperature.

    Features are centred and of length one, and so are prototypes that are learnt (``unit``): the logits are then
    cosines over the temperature, but for a constant. Those of k-means are means and stay as they are. Buffers:
    ``centre`` [D], the mean of the training features; ``potential`` [K + 1], the scalings that the last labels ended
    with, from which the next start.
    """

    centre: Tensor
    potential: Tensor

    def __init__(self, clusters: int, width: int, temperature: float, unit: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(clusters, width), requires_grad=unit)
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("potential", torch.zeros(clusters + 1))
        self.temperature, self.unit = temperature, unit

    def forward(self, features: Tensor) -> Tensor:
        """Return logits [B, K] of features [B, D] as they come from the encoder."""
        features = normalize(features - self.centre, dim=1)
        prototypes = normalize(self.weight, dim=1) if self.unit else self.weight
        return (features @ prototypes.T - prototypes.square().sum(1) / 2) / self.temperature


def create_clusters(recipe: Recipe, num_classes: int) -> Prototypes:
    """Return the untrained head of a recipe's clustering. Raises ValueError for a recipe or a method without one."""
    settings = _settings(recipe)
    method, encoder = method_of(settings), _encoder(recipe)
    tokens = encoder.patch_embed.num_patches if settings.tokens == "all" else 1
    return Prototypes(num_classes, tokens * encoder.embed_dim, settings.temperature, method.learns)


def cluster(
    recipe: Recipe,
    data: Dataset,
    run: Run,
    *,
    encoder: Mapping[str, Tensor],
    device: torch.device,
    progress: bool = True,
    engine: Engine = Engine(),
) -> None:
    """Cluster the training images of ``data`` by the features of ``encoder``, and finish ``run``.

    The features are computed once and held in memory. The prototypes of every method start at the same seeds, drawn as
    k-means++ draws them. In each epoch all images get pseudo-labels from the present predictions; steps of
    cross-entropy follow, in which an image weighs as much as its label holds. An image's cluster is the largest
    prediction. Labels of classes score the clusters and do nothing else. What the run has saved is resumed; the last
    epoch is the result. Raises ValueError for settings that do not fit, NonFiniteLossError when the loss is no longer a
    number, TransportError where labels cannot be computed.
    """
    # ---------------------------------------------------------------- what to do
    settings = _settings(recipe)
    method, options = method_of(settings), options_of(settings)
    steps = data.steps_per_epoch(settings.batch_size)

    with one_cpu_thread(device):
        # ---------------------------------------------------------------- features, head, optimiser, state
        seed_everything(recipe.seed, STAGE, 0)
        network = _encoder(recipe)
        load_encoder(network, encoder)
        place(network, device, settings.precision)
        augment = Augment(settings.augment, data.mean, data.std)
        seen, tested = (
            features_of(network, split, settings.tokens, augment, engine).clone().to(device)
            for split in (data.train, data.evaluation)
        )
        head = create_clusters(recipe, data.num_classes).to(device)
        head.centre.copy_(seen.mean(0))
        unit = normalize(seen - head.centre, dim=1)
        points = unit.cpu().double().numpy()
        seeds = kmeans_plusplus(points, data.num_classes, random_state=seed_of(recipe.seed, STAGE))[0]
        with torch.no_grad():
            head.weight.copy_(torch.from_numpy(seeds))
        groups: list[dict[str, Any]] = [{"params": [head.weight] if method.learns else [], "lr_scale": 1.0}]
        betas = (settings.beta1, settings.beta2)
        optimizer = torch.optim.AdamW(groups, settings.lr, betas, weight_decay=settings.weight_decay)
        run.restore(head, optimizer)
        model = wrap(head, device) if method.learns else head
        graph = neighbour_graph(unit, int(options["neighbours"])) if "neighbours" in options else None
        labels = data.train.labels.cpu().numpy()

        def found() -> dict[str, Any]:
            return cluster_scores(_predicted(head, seen), labels, data.class_counts)

        def step_loss(features: Tensor, target: Tensor) -> Tensor:
            return -(target * model(features).log_softmax(1)).sum(1).mean()

        # ---------------------------------------------------------------- label all images, then train
        for epoch in run.epochs(settings.epochs, progress):
            row: dict[str, Any] = {"epoch": epoch + 1, "lr": 0.0, "train_loss": None, "mass": 1.0}
            if method.learns:
                mass = mass_at(epoch, settings.epochs, options)
                with torch.no_grad():
                    log_p = head(seen).double().log_softmax(1)
                plan = pseudo_labels(log_p, mass, options, graph, head.potential if epoch else None)
                head.potential.copy_(plan.potential)
                target = (plan.q * len(seen) / mass).float()  # rows of 1 in the mean
                schedule = epoch_schedule(settings, epoch, steps)
                losses = EpochLoss(epoch * steps, f"{run.id}; its last good state is the end of epoch {run.saved}")
                seed_everything(recipe.seed, STAGE, 1 + epoch)
                order = torch.randperm(len(seen)).to(device)
                for (_, lr), index in zip(schedule, order.split(settings.batch_size), strict=False):
                    chunks = index.chunk(settings.accumulation_steps)
                    parts = [(seen[chunks[part]], target[chunks[part]]) for part in share(len(chunks))]
                    losses.add(take_step(optimizer, step_loss, parts, lr=lr, settings=settings, model=model))
                check_finite(head, f"the end of epoch {epoch + 1} of {run.id}")
                row |= {"lr": max(lr for _, lr in schedule), "train_loss": losses.mean(), "mass": mass}
            else:
                means = KMeans(data.num_classes, init=seeds, n_init=1).fit(points)
                with torch.no_grad():
                    head.weight.copy_(torch.from_numpy(means.cluster_centers_))
            row |= {name: value for name, value in found().items() if name not in ("per_class", "matching")}
            run.save(head, optimizer, row)

        # ---------------------------------------------------------------- the last epoch is the result
        if is_leader():
            result = found() | {"class_counts": [int(count) for count in data.class_counts]}
            own = contingency(_predicted(head, tested), data.evaluation.labels.cpu().numpy(), data.num_classes)
            right = own[np.arange(data.num_classes), result["matching"]].sum()
            result["evaluation_accuracy"] = 100 * float(right) / len(tested)
            images = settings.epochs * steps * settings.batch_size if method.learns else 0
            run.finish(head.state_dict(), result, images, device)


def features_of(
    encoder: VisionTransformer, split: Split | FileSplit, tokens: str, augment: Augment, engine: Engine = Engine()
) -> Tensor:
    """Return what is clustered of each image, float32 [N, D] on the CPU: its mean patch token, or all of them."""
    encoder.eval()
    prefix, device = encoder.num_prefix_tokens, next(encoder.parameters()).device

    def look(images: Tensor) -> Tensor:
        patches = encoder.forward_features(images)[:, prefix:]
        return patches.flatten(1) if tokens == "all" else patches.mean(1)

    return apply(look, split, augment, device, engine)


def _predicted(head: Prototypes, features: Tensor) -> NDArray[np.int64]:
    with torch.no_grad():
        return head(features).argmax(1).cpu().numpy()


def _encoder(recipe: Recipe) -> VisionTransformer:
    return create_vit(recipe.model.size, recipe.data.size, recipe.model.patch_size, num_classes=0, global_pool="token")


def _settings(recipe: Recipe) -> ClusterConfig:
    if recipe.cluster is None:
        raise ValueError("this recipe clusters nothing: set cluster.method")
    return recipe.cluster
