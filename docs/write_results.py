"""Write results into the pages: `python docs/write_results.py`.

The results are files in `docs/results`. Three commands wrote `evaluation.json`, `attack.json` and `robustness.json`:

    pyrobayes evaluate --pretrained --data fashion-mnist
    pyrobayes attack all --pretrained --data fashion-mnist --images 1000
    pyrobayes robustness all --pretrained --data fashion-mnist --images 1000
        --eps-range 0.05,0.1,0.2 --steps 20 --redraws 10 --checked-images 100 --precision bf16 --negligible 0.01

The commands in `docs/detection.md` wrote `detection.json`, also that in `evading`. `pyrobayes reproduce --seeds 3` and `--recipe poster` wrote
`reproduction.json` in `own` and `poster`, and `examples/effect_of_particles.py --pretrained` wrote `particles.json`. The programs beside this one
wrote the files of their names. A script like `tests/benchmarks/gpu.py` measured `h100.json` on a GPU. Everything goes into tables of the README and
of `docs`, and into the cards of the models. A test holds the pages to the files.
"""

import re
import tomllib
from pathlib import Path

import click
import gpu_tables
import reproduction_tables
import result_tables
from result_tables import RESULTS

from pyrobayes import factorizations
from pyrobayes.commands.report import read_results
from pyrobayes.evaluation.clean import Evaluation
from pyrobayes.evaluation.robustness.verdict import Verdict
from pyrobayes.options import NETWORKS, PRETRAINED, TrainingOptions
from pyrobayes.results.configuration import flags
from pyrobayes.results.names import model_name
from pyrobayes.results.store import SavedResults
from pyrobayes.training.checkpoint import Config

ROOT = Path(__file__).parents[1]
TABLES = result_tables.TABLES | gpu_tables.TABLES | reproduction_tables.TABLES
BLOCK = re.compile(r"<!-- written: (\w+)(?: of (\w+))? -->\n.*?<!-- end -->", re.DOTALL)

CARD = """# {name}, small networks, Fashion-MNIST

A {kind} deep Bayes classifier (Li, Bradshaw and Sharma 2019), {formula}. It comes with pyrobayes:
`pyrobayes attack {model} --pretrained`, or `pyrobayes.pretrained("{model}")` in Python.

* **Data**: 55,000 of the 60,000 training images of Fashion-MNIST; the others are for validation. Pixels in [0, 1], {augmented} augmented.
* **Recipe**: `pyrobayes train {model} {flags}`, seed {seed}. {epochs} epochs, batches of {batch_size}, Adam with a {schedule}
  schedule up to {lr:g}. The weight of the KL term rises over {kl_warmup:g} of the run. Latent {latent}, hidden {hidden}, {channels} channels,
  {likelihood} likelihood, variance {variance:g}. Weights are rounded to float16.
* **Accuracy**: {accuracy} of {evaluated:,} test images, K = {particles}, fresh noise. Another draw of the noise changes {changed} of the predictions.
* **Worst case** of {attacks} attacks, L-infinity, success rate on {attacked:,} test images: {worst}.
* **Checks that failed**: {failed}. A failed check puts some of the numbers in doubt (`docs/robustness.md`).
* **Licence**: the weights are under that of pyrobayes (Apache 2.0), Fashion-MNIST is under MIT (Zalando SE).
* **Use**: made to study adversarial robustness; not to be relied on for anything else.
"""


def card(evaluation: Evaluation, verdict: Verdict, particles: int) -> str:
    """The card of a model."""
    model = verdict.model
    config = Config.read(PRETRAINED / model)
    changed = flags(config.networks, NETWORKS["small"])
    changed += flags(config.training, TrainingOptions.of(model))
    return CARD.format(
        name=model_name(model),
        model=model,
        formula=factorizations.get(model).formula(),
        kind="generative" if verdict.generative else "discriminative",
        flags=" ".join(["--networks small", *changed]),
        augmented=config.training.augmentation or "nothing",
        evaluated=evaluation.images,
        particles=particles,
        accuracy=evaluation.accuracy.sentence(),
        changed=f"{100 * evaluation.flipped_by_resampling.share:.1f}%",
        attacks=len(verdict.success),
        attacked=verdict.images,
        worst=", ".join(f"{rate.sentence()} at eps {eps:g}" for eps, rate in zip(verdict.eps, verdict.headline)),
        failed=", ".join(map(str, verdict.failed)) or "none",
        **vars(config.networks) | vars(config.training),
    )


PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "docs" / "commands" / "index.md")
LINK = re.compile(r"(!?\[[^\]]*\]\()(?![a-z]+:|#)([^)\s]+\))")


def repository() -> str:
    """The address of the repository, which `[project.urls]` in pyproject.toml has; empty where it has none."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project.get("urls", {}).get("Repository", "").rstrip("/")


def absolute(text: str, address: str) -> str:
    """A page at the root with links into the repository in place of relative ones, which a package index can't follow."""

    def link(found: re.Match) -> str:
        return f"{found[1]}{address}/{'raw' if found[1].startswith('!') else 'blob'}/main/{found[2]}"

    return LINK.sub(link, text) if address else text


def pages() -> dict[Path, str]:
    """Every page with the results in it."""

    def filled(block: re.Match) -> str:
        first = block[0].split("\n", 1)[0]
        return f"{first}\n\n{TABLES[block[1]](*filter(None, [block[2]]))}\n\n<!-- end -->"

    written = {page: BLOCK.sub(filled, page.read_text()) for page in PAGES}
    readme = ROOT / "README.md"
    written[readme] = absolute(written[readme], repository())
    found: dict[str, SavedResults] = read_results(RESULTS)
    for verdict in found["robustness"].results:
        (evaluation,) = found["evaluate"].of(verdict.model)
        text = card(evaluation, verdict, found["evaluate"].options.particles)
        written[PRETRAINED / verdict.model / "README.md"] = text
    return written


@click.command(help=__doc__.split("\n")[0])
def main():
    for path, text in pages().items():
        if not path.is_file() or path.read_text() != text:
            path.write_text(text)
            click.echo(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
