"""Put trained models into the package: `python docs/package_models.py RUNS`.

Weights are rounded to float16. `docs/write_results.py` writes into the pages what is then measured.
"""

import shutil
from pathlib import Path

import click

from pyrobayes import factorizations
from pyrobayes.options import PRETRAINED
from pyrobayes.tensor_files import digest, read_tensors, save_tensors
from pyrobayes.training.checkpoint import CONFIG, MODEL


@click.command()
@click.argument("runs", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(runs):
    """Pack the seven models in RUNS."""
    for model in factorizations.names():
        folder = PRETRAINED / model
        folder.mkdir(parents=True, exist_ok=True)
        tensors, metadata = read_tensors(runs / model / MODEL)
        half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
        if not (folder / MODEL).is_file() or digest(half, {}) != digest(read_tensors(folder / MODEL)[0], {}):
            save_tensors(folder / MODEL, half, metadata)
        shutil.copyfile(runs / model / CONFIG, folder / CONFIG)
        click.echo(f"{folder}: {(folder / MODEL).stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
