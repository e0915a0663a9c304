"""Put the trainings of a recipe that were made apart together: `python docs/merge_seeds.py docs/results/own`.

`pyrobayes reproduce --seeds 3` makes them one after the other. On several machines each is made by `pyrobayes reproduce --seed N`, and what that writes,
`reproduction.json` and the results of its commands, is collected in a folder `seed-N` each. What they say together is written beside these.
"""

import json
from pathlib import Path

import click

from pyrobayes.files import write_json
from pyrobayes.reproduction import Reproduction, claims, compare
from pyrobayes.results import REPRODUCTION, read_results

SAME = ("particles", "data", "images")


def how(saved: dict) -> dict:
    """What trainings must have in common."""
    recipe = {name: value for name, value in saved["recipe"].items() if name != "time"}
    return {"recipe": recipe} | {name: saved[name] for name in SAME}


@click.command(help=__doc__.split("\n")[0])
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(folder):
    parts = sorted(folder.glob("seed-*"), key=lambda part: int(part.name.removeprefix("seed-")))
    saved = [json.loads((part / REPRODUCTION).read_text()) for part in parts]
    if not parts or any(how(each) != how(saved[0]) for each in saved):
        raise click.ClickException(
            f"the folders seed-N in {folder} must be there, and alike in recipe, {', '.join(SAME)}"
        )
    found = [read_results(part) for part in parts]
    evaluations, attacks, verdicts = (
        [each[command].results for each in found] for command in ("evaluate", "attack", "robustness")
    )
    seeds = [seed for each in saved for seed in each["seeds"]]
    merged = Reproduction(
        seeds, parts, [], evaluations, attacks, verdicts, compare(attacks, verdicts), claims(attacks)
    ).as_dict()
    first = {name: saved[0][name] for name in ("recipe", "particles")}
    write_json(folder / REPRODUCTION, first | merged | {"versions": saved[0]["versions"]})
    click.echo(f"{folder / REPRODUCTION}: seeds {', '.join(map(str, seeds))}")


if __name__ == "__main__":
    main()
