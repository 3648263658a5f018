"""Training state of a detector whose backbone is frozen: groups of queries, moving average, checkpoints."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from architectures import Architecture
from checkpoints import load_state, save_state
from torch import Tensor, nn
from transformers import PreTrainedModel

QUERIES = "model.query_position_embeddings.weight"  # what queries start from, [queries, ...], in every architecture


class Ready(nn.Module):
    """Stands in for the frozen backbone: its input is the feature map already."""

    def forward(self, features: Tensor, mask: Tensor) -> list[tuple[Tensor, Tensor]]:
        return [(features, mask.bool())]


def grouped_loss(loss: Callable[..., Any], queries: int) -> Callable[..., Any]:
    """The library's loss on groups of queries, each of which is matched with all objects of its image.

    Args:
        loss: of the transformers library, for predictions of `queries` queries.
        queries: size of a group.
    """

    def apart(values: Tensor) -> Tensor:  # [..., B, groups * queries, n] -> [..., B * groups, queries, n]
        return values.unflatten(-2, (-1, queries)).flatten(-4, -3)

    def of_groups(
        logits: Tensor, labels: list[Any], device: torch.device, boxes: Tensor, config: Any, *layers: Tensor
    ) -> Any:
        every = [label for label in labels for _ in range(logits.shape[-2] // queries)]
        return loss(apart(logits), every, device, apart(boxes), config, *map(apart, layers))

    return of_groups


def separate_groups(model: PreTrainedModel, groups: int, queries: int, device: torch.device) -> None:
    """Let self-attention of the decoder see queries of the same group only."""
    mask = torch.block_diag(*[torch.ones(queries, queries)] * groups).log()[None, None].to(device)  # 0 or -inf

    def masked(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, kwargs | {"attention_mask": mask}

    for layer in model.model.decoder.layers:
        layer.self_attn.register_forward_pre_hook(masked, with_kwargs=True)


class Trainer:
    """The transformer's training state: weights, their moving average, optimiser, time spent.

    Args:
        architecture: of the model.
        model: the untrained detector with its pre-trained backbone.
        args: the command's options.
        device: where to train.
    """

    def __init__(
        self, architecture: Architecture, model: PreTrainedModel, args: argparse.Namespace, device: torch.device
    ) -> None:
        self.architecture, self.args, self.device, self.model = architecture, args, device, model.to(device)
        self.frozen = model.model.backbone
        model.model.backbone = Ready()
        self.queries = model.config.num_queries
        table = model.model.query_position_embeddings
        model.model.query_position_embeddings = nn.Embedding(self.queries * args.groups, table.embedding_dim).to(device)
        if args.groups > 1:
            separate_groups(model, args.groups, self.queries, device)
        model.loss_function = grouped_loss(model.loss_function, self.queries)
        self.average = {k: v.detach().clone() for k, v in model.state_dict().items()}
        self.optimiser = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=1e-4)
        self.step, self.images, self.seconds = 0, 0, 0.0
        self.parts = [self.settings()]  # of this run and those it goes on from
        self.start: str | None = None  # detector whose weights the first of them took over

    def settings(self) -> dict[str, float]:
        """The settings that parts of one training may change."""
        given = {key: getattr(self.args, key) for key in ("minutes", "groups", "batch", "lr", "no_object")}
        return {key: value for key, value in given.items() if value is not None}

    def warm_start(self, source: str, weights: Mapping[str, Tensor], prefixes: tuple[str, ...]) -> None:
        """Take over those of another detector's weights whose names start with one of the prefixes.

        Args:
            source: where that detector is from.
            weights: by name.
            prefixes: what to take over.

        Raises:
            SystemExit: if these weights do not fit.
        """
        mine = self.model.state_dict()
        wanted = {name for name in mine if name.startswith(prefixes)}
        missing = sorted(n for n in wanted if n not in weights or weights[n].shape != mine[n].shape)
        if missing or not wanted:
            raise SystemExit(f"{source} cannot give {', '.join(prefixes)}: it lacks {missing or 'them'}")
        taken = {name: weights[name].to(self.device) for name in wanted}
        self.model.load_state_dict(mine | taken)
        self.average |= {name: value.clone() for name, value in taken.items()}
        self.start = source

    def update(self, features: Tensor, labels: list[dict[str, Tensor]], progress: float) -> dict[str, float]:
        """One step of the optimiser on feature maps [B, C, h, w]; returns the library's losses."""
        rate = self.args.lr * min(1.0, (self.step + 1) / 300)
        rate *= 1 - max(0.0, (progress - self.args.constant) / (1 - self.args.constant))
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        out = self.model.train()(features, labels=labels)
        self.optimiser.zero_grad()
        out.loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 0.5)
        self.optimiser.step()
        self.step, self.images = self.step + 1, self.images + len(features)
        decay = min(0.998, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for key, value in self.model.state_dict().items():
                self.average[key].lerp_(value, 1 - decay)
        return {"loss": out.loss.item(), **{k: v.item() for k, v in out.loss_dict.items() if k.startswith("loss")}}

    def result(self) -> PreTrainedModel:
        """A plain detector with the averaged weights, the frozen backbone and the first group of queries."""
        model = self.architecture.model(self.model.config)
        weights = {f"model.backbone.{k}": v for k, v in self.frozen.state_dict().items()} | self.average
        weights[QUERIES] = weights[QUERIES][: self.queries].clone()
        model.load_state_dict(weights)
        return model.eval()

    def save(self, path: Path) -> None:
        """Write a checkpoint whole or not at all."""
        # layers may share a head: a file holds copies
        weights = {f"model.{k}": v.clone() for k, v in self.model.state_dict().items()}
        weights |= {f"average.{k}": v for k, v in self.average.items()}
        facts = ("step", "images", "seconds", "parts", "start")
        progress = {key: getattr(self, key) for key in facts}
        save_state(path, weights, self.optimiser, progress)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint that `save` wrote; of its groups of queries the first ones stay.

        Raises:
            SystemExit: if the checkpoint holds fewer groups than are asked for.
        """
        state = load_state(path, self.device)
        weights, average = (
            {k.removeprefix(prefix): v for k, v in state.weights.items() if k.startswith(prefix)}
            for prefix in ("model.", "average.")
        )
        rows = self.queries * self.args.groups
        if len(weights[QUERIES]) < rows:
            raise SystemExit(f"{path} holds fewer groups of queries than --groups {self.args.groups}")
        moments = state.moments[[name for name, _ in self.model.named_parameters()].index(QUERIES)]
        for table, key in ((weights, QUERIES), (average, QUERIES), (moments, "exp_avg"), (moments, "exp_avg_sq")):
            table[key] = table[key][:rows].clone()
        *earlier, last = state.progress["parts"]
        if last != self.settings():
            spent = state.progress["seconds"] / 60
            earlier.append(last if spent >= last["minutes"] else last | {"stopped": spent})
        self.parts = earlier + self.parts
        self.model.load_state_dict(weights)
        self.average = average
        state.restore_moments(self.optimiser)
        self.step, self.images = state.progress["step"], state.progress["images"]
        self.seconds, self.start = state.progress["seconds"], state.progress["start"]
