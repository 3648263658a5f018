"""ViLT: words and patches in one stream (Kim et al., ICML 2021, doi:10.48550/arXiv.2102.03334)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor
from transformers import ViltForQuestionAnswering

from hetexp.models.joint_stream import JointAnswerer
from hetexp.models.observe import replaced
from hetexp.models.observed_run import Inputs, Place, Question, Run, sequence
from hetexp.models.processed import as_list, mask_of


class ViltAdapter(JointAnswerer):
    """A `ViltForQuestionAnswering`; the source `image` is its patches, without the picture's own CLS token.

    The answer is read from the text's CLS. The model shuffles the patches, and drops some at random where there are
    more than `config.max_image_length`; the shuffle is fixed here, and every patch is reported at its place.
    """

    name = "vilt"
    model_class = ViltForQuestionAnswering
    attention = "attention.attention"
    image_inputs = ("image_embeds", "pixel_mask")

    @property
    def feature_width(self) -> int:
        return int(self.model.config.hidden_size)

    @torch.no_grad()
    def regions_of(self, image: Image) -> tuple[Tensor, Tensor]:
        """A picture's patches, row by row: embedded with their positions [R, d], and their places [R, 4]."""
        found = self.require_processor().image_processor(image, return_tensors="pt")
        pixels, mask = found["pixel_values"].to(self.device, self.dtype), found["pixel_mask"].to(self.device)
        with self._patches_noted() as notes:
            embed = self.model.vilt.embeddings.visual_embed
            tokens = embed(pixels, mask, self.model.config.max_image_length)[0][0, 1:]
        order = notes["index"][0].argsort()
        tokens, index = tokens[order].cpu(), notes["index"][0][order].cpu()
        rows, columns = index // notes["grid"][1], index % notes["grid"][1]
        corners = torch.stack((columns, rows, columns + 1, rows + 1), -1)
        height, width = notes["grid"]
        return tokens, corners / torch.tensor([width, height, width, height])

    def embed_regions(self, regions: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """The patches as they are, embedded before [R, d]."""
        return [patches for patches, _ in regions]

    def encode_regions(self, embedded: Sequence[Tensor]) -> list[Tensor]:
        """The picture's CLS, which always stays, before its patches [1 + R, d]."""
        embeddings = self.model.vilt.embeddings
        cls = (embeddings.cls_token + embeddings.position_embeddings[:, :1])[0].detach()
        return [torch.cat((cls.to(patches), patches)) for patches in embedded]

    def run(self, inputs: Inputs) -> tuple[Tensor, Mapping[str, Any]]:
        if "image_embeds" in inputs:
            return self.model(**inputs).logits[:, None], {"mask": inputs["pixel_mask"].bool()}
        with self._patches_noted() as notes:
            return self.model(**inputs).logits[:, None], notes

    @contextmanager
    def _patches_noted(self) -> Iterator[dict[str, Any]]:
        """Which patches the model looks at, and in which order; what it draws at random is the same every time."""
        notes: dict[str, Any] = {}
        embeddings = self.model.vilt.embeddings
        plain = embeddings.visual_embed

        def noting(*args: Any, **kwargs: Any) -> Any:
            tokens, mask, (index, grid) = plain(*args, **kwargs)
            notes.update(mask=mask.bool(), index=index[..., 0] * grid[1] + index[..., 1], grid=grid)
            return tokens, mask, (index, grid)

        with replaced(embeddings, "visual_embed", noting), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)  # the library draws on the CPU
            yield notes

    def valid(self, inputs: Inputs, notes: Mapping[str, Any]) -> dict[str, Tensor]:
        words = mask_of(inputs["attention_mask"], inputs["input_ids"])
        return {"joint": torch.cat([words, notes["mask"].cpu()], 1)}

    def places(self, run: Run, item: int) -> dict[str, Place]:
        text = run.inputs["input_ids"].shape[1]
        if "grid" not in run.notes:  # patches that were embedded before
            tokens = torch.arange(run.inputs["image_embeds"].shape[1] - 1)
            words = sequence("joint", run.inputs["attention_mask"][item])
            return {"text": words, "image": Place("joint", tokens + text + 1, (len(tokens),))}
        (height, width), index = run.notes["grid"], run.notes["index"][item].cpu()
        kept = run.valid["joint"][item, text + 1 :].nonzero().flatten()
        order = kept[index[kept].argsort()]
        rows, columns = index[kept] // width, index[kept] % width
        patch = self.model.config.patch_size
        extent = (int(rows.max() + 1) * patch, int(columns.max() + 1) * patch)
        mask = run.inputs["attention_mask"][item]
        return {
            "text": sequence("joint", mask),
            "image": Place("joint", order + text + 1, (height, width), index[order], extent),
        }

    def answer_token(self, n_text: int) -> int:
        return 0

    def attention_input(self, layer: Any, hidden: Tensor) -> Tensor:
        normed: Tensor = layer.layernorm_before(hidden)
        return normed

    def readouts(self, run: Run, question: Question) -> dict[str, Sequence[int]]:
        return {"joint": [0] * len(question.targets)}

    def prepare(self, text: str | Sequence[str], image: Any) -> dict[str, Tensor]:
        """Inputs of one or several questions, each with its RGB picture."""
        return self.placed(
            dict(self.require_processor()(images=as_list(image), text=as_list(text), padding=True, return_tensors="pt"))
        )
