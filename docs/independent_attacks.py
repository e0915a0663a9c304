"""Judge the images that independent attacks made, and those of eot-mim beside them: `python docs/independent_attacks.py`.

Two attacks were written from scratch, by somebody who hadn't read the attacks of this package. Each had all models of the package
and as much time as it liked, several times what eot-mim takes. `docs/results/independent` has what they made of the
first 100 test images. The draws that judge here chose none of the images. `docs/write_results.py` makes the table.
"""

from pathlib import Path

import click
import torch
from attack_strengths import judged

from pyrobayes import Images, RobustnessOptions, load_data, pretrained
from pyrobayes.evaluation.robustness.cache import ResultCache
from pyrobayes.evaluation.robustness.measurements import RobustnessRun
from pyrobayes.evaluation.robustness.suite import EOT_MIM
from pyrobayes.files import write_json
from pyrobayes.progress import silent
from pyrobayes.tensor_files import read_tensors
from pyrobayes.training.checkpoint import versions

MODELS, EPS, DRAWS = ("gfz", "gbz"), 0.1, 20
RESULTS = Path(__file__).parent / "results"
MADE = RESULTS / "independent"


def images_of(path: Path, few: Images) -> torch.Tensor:
    """The adversarial images of a file, [N, channels, height, width], which holds what was added to the test images."""
    x, _ = few.batch(slice(None))
    added = read_tensors(path)[0]["added"][: len(few)].float().clamp(-EPS, EPS)
    return (x + added).clamp(0, 1)


def rows_of(model: str, few: Images) -> list[dict]:
    """How often further draws misclassify the images of every attack on a model."""
    options = RobustnessOptions(images=len(few), eps=(EPS,), redraws=DRAWS, batch_size=50)
    run = RobustnessRun(pretrained(model), few, options, (), ResultCache(), silent)
    made = {EOT_MIM: run.result(EOT_MIM)["adversarial"][0]}
    made |= {
        f"{path.stem.partition('-')[2]} independent attack": images_of(path, few)
        for path in sorted(MADE.glob(f"{model}-*.safetensors"))
    }
    shares = {name: run.share_of_draws(name, images, few) for name, images in made.items()}
    return [
        {
            "model": model,
            "attack": name,
            "eps": EPS,
            "draws": DRAWS,
            **judged(each),
            "versions": versions(),
        }
        for name, each in shares.items()
    ]


@click.command(help=__doc__)
@click.option("--images", default=100, show_default=True, help="first test images of Fashion-MNIST, at most 100")
@click.option("--out", default=RESULTS / "independent_attacks.json", type=click.Path(path_type=Path), show_default=True)
def main(images: int, out: Path) -> None:
    few = load_data("fashion-mnist", "test").head(images)
    write_json(out, [row for model in MODELS for row in rows_of(model, few)])


if __name__ == "__main__":
    main()
