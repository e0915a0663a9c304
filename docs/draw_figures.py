"""Draw the figures of the pages, as PDF and PNG: `python docs/draw_figures.py`.

All are of the files in `docs/results`, but the graphs, which are of the running models, and figures 2, which need the images and are drawn by what makes
them: `pyrobayes attack gbz --pretrained`, and `pyrobayes attack gbz` of the first training by our own recipe.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import click
from matplotlib.figure import Figure

from pyrobayes import build
from pyrobayes.codec import decode
from pyrobayes.commands.report import read_reproduction, read_results
from pyrobayes.evaluation.attacked import AttackResult
from pyrobayes.evaluation.certification import Certification
from pyrobayes.evaluation.particles import Effect
from pyrobayes.options import MODELS
from pyrobayes.results import figures

DOCS = Path(__file__).parent
RESULTS = DOCS / "results"


def drawn() -> Iterator[tuple[str, Figure]]:
    """The figures with their names."""
    found = read_results(RESULTS, ["attack", "robustness"])
    yield "figure1", figures.success_rates(found["attack"].results)
    verdicts = found["robustness"].results
    yield "robustness", figures.worst_cases(verdicts)
    for verdict in verdicts:
        yield f"robustness-{verdict.model}", figures.robustness(verdict)
    for name, folder, attack in (("detection", RESULTS, "pgd"), ("detection-evading", RESULTS / "evading", "pgd")):
        found = read_results(folder, ["detect"])["detect"].of("gbz")
        yield f"{name}-gbz", figures.detection([each for each in found if each.attack == attack])
    yield (
        "selective-gbz",
        figures.selective_accuracy(read_results(RESULTS / "selective", ["detect"])["detect"].of("gbz")),
    )
    measured = json.loads((RESULTS / "particles.json").read_text())
    yield "particles", figures.particles(decode(list[Effect], measured))
    nearest = [
        decode(AttackResult, row["result"]) for row in json.loads((RESULTS / "least_distances.json").read_text())
    ]
    yield "distances", figures.distances([result for result in nearest if result.attack == "fmn"])
    measured = json.loads((RESULTS / "certified_accuracy.json").read_text())
    certified = decode(list[Certification], [row["certification"] for row in measured])
    yield "certified_accuracy-cnn", figures.certificates([each for each in certified if each.model == "cnn"])
    for path in sorted(RESULTS.glob("*/reproduction.json")):
        yield f"reproduction-{path.parent.name}", figures.reproduction(read_reproduction(path.parent))
    for name in MODELS:
        yield f"graph-{name}", figures.graphical_model(build(name, networks="small"))


@click.command(help=__doc__.split("\n")[0])
@click.option("--out", default=DOCS / "figures", type=click.Path(file_okay=False, path_type=Path))
def main(out):
    out.mkdir(exist_ok=True)
    for name, figure in drawn():
        for path in figures.save(figure, out / name):
            click.echo(path)


if __name__ == "__main__":
    main()
