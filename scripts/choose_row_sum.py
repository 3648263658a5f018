"""Choose the one parameter of the unit-free method on scenes and questions made for that purpose alone.

    python scripts/choose_row_sum.py --work /tmp/selection

Row sums and corrections are compared by four numbers: AP at Otsu's threshold and at 0.3 times it, and how far apart the
areas under the perturbation curves lie (least relevant first minus most relevant first) for regions and for words. Each
is divided by the best of the grid; the largest mean is chosen. Neither scenes nor questions are those of the tables.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pandas as pd
from PIL import Image
from transformers import DetrForObjectDetection

from hetexp.config import composed
from hetexp.data.regions import Regions, write_compact
from hetexp.data.regions.features import RegionHead, extract
from hetexp.data.synthetic.candidates import scenes_from_coco
from hetexp.data.synthetic.coco_format import write_coco
from hetexp.data.synthetic.questions import generate
from hetexp.data.synthetic.scenes import render_scene, scene_rng
from hetexp.data.vqa import write_items
from hetexp.experiments.engine.session import open_session
from hetexp.experiments.tasks import evaluate
from hetexp.files import atomic_write
from hetexp.paths import asset

SEED = 31_170_000  # of the scenes; those of the tables have 20,170,000, those of training 1,000,000,000 and more
ROW_SUMS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)


def make_data(folder: Path, scenes: int, questions: int) -> None:
    """Write scenes, questions and regions, unless they are there."""
    if (folder / "regions.safetensors").is_file():
        return
    content = write_coco(folder, (render_scene(scene_rng(SEED, i)) for i in range(scenes)), f"selection, seed {SEED}")
    names = sorted(c["name"] for c in content["categories"])
    write_items(generate(scenes_from_coco(content), names, questions, SEED), folder / "questions.json")
    model, head = DetrForObjectDetection.from_pretrained(asset("detr")).eval().requires_grad_(False), RegionHead.load()
    regions: list[tuple[str, Regions]] = []
    for record in content["images"]:
        with Image.open(folder / "images" / record["file_name"]) as image:
            found = extract(image, model, head=head)
            regions.append(
                (Path(record["file_name"]).stem, Regions(found.features.numpy(), found.boxes.numpy(), *image.size))
            )
    write_compact(folder / "regions.safetensors", regions)


def measured(work: Path, model: str, methods: list[str]) -> pd.DataFrame:
    """results.csv of a run over the selection data."""
    data = work / "data"
    of_model = {
        "detr": ["data.name=selection_scenes", "metrics=[segm]", "threshold.scale=[1.0,0.3]"],
        "lxmert": [
            "data.name=selection_questions",
            "metrics=[perturbation]",
            "data.questions=questions.json",
            "data.regions=regions.safetensors",
            f"data.answers={asset('lxmert/label2ans.json')}",
            "data.annotations=annotations.json",
            "data.images=images",
        ],
    }
    listed = ",".join(f'"{m}"' for m in methods)
    cfg = composed(
        f"model={model}",
        f"data.root={data}",
        f"methods=[{listed}]",
        f"paths.outputs={work}",
        "bootstrap=0",
        "progress=false",
        *of_model[model],
    )
    session = open_session(cfg, work / model)
    evaluate(session)
    return pd.read_csv(session.folder / "results.csv")


def criteria(work: Path, methods: list[str]) -> pd.DataFrame:
    """A row for every method: the four numbers, and their mean relative to the best."""
    detr, lxmert = (measured(work, model, methods) for model in ("detr", "lxmert"))
    ap = detr[detr["metric"] == "AP"].pivot(index="method", columns="threshold", values="value")
    area = lxmert[lxmert["metric"] == "AUC"].pivot(index="method", columns="panel", values="value")
    table = pd.DataFrame(
        {
            "AP, Otsu": ap[1.0],
            "AP, 0.3 × Otsu": ap[0.3],
            "regions, negative − positive": area["image_negative"] - area["image_positive"],
            "words, negative − positive": area["text_negative"] - area["text_positive"],
        }
    )
    return table.assign(mean=(table / table.max()).mean(axis=1)).sort_values("mean", ascending=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for data and runs")
    parser.add_argument("--scenes", type=int, default=240)
    parser.add_argument("--questions", type=int, default=480)
    args = parser.parse_args()
    make_data(args.work / "data", args.scenes, args.questions)
    methods = [f"unit_free(correction={c},row_sum={r})" for c in ("abs", "pos") for r in ROW_SUMS]
    table = criteria(args.work, methods)
    text = table.to_markdown(floatfmt=".3f")
    atomic_write(args.work / "selection.md", text + "\n")
    atomic_write(args.work / "selection.json", json.dumps({"seed": SEED, "chosen": str(table.index[0])}) + "\n")
    print(text)


if __name__ == "__main__":
    main()
