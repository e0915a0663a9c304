"""Speed and memory of training on images that stay on the disk: `python tests/benchmarks/images_on_disk.py`.

One epoch on generated 64x64 RGB images, in a process of its own each time: from memory, and from the disk. The memory is the
peak of the resident set, less what the process has before it touches an image. For Linux.
"""

import argparse
import json
import multiprocessing
import re
import tempfile
import time
from pathlib import Path

import numpy as np

SHAPE, CLASSES = (3, 64, 64), 10


def generate(path: Path, images: int) -> None:
    """Write so many random images, block by block."""
    file = np.lib.format.open_memmap(path, "w+", np.uint8, (images, *SHAPE))
    for first in range(0, images, 1000):
        part = file[first : first + 1000]
        part[:] = np.random.default_rng(first).integers(0, 256, part.shape, np.uint8)
    file.flush()


def peak() -> int:
    """The peak of this process's resident set, in KiB; that of `getrusage` begins with the parent's, which wrote the images."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])


def train(path: Path, on_disk: bool, model: str, channels: int, batch_size: int, told) -> None:
    """Train a model for an epoch; tells images per second, also of CPU time, and MiB."""
    from pyrobayes import Images, TrainingOptions, build, fit
    from pyrobayes.options import Networks

    networks = Networks(latent=16, hidden=32, channels=channels)
    factorization = build(model, networks, image_shape=SHAPE, num_classes=CLASSES)
    options = TrainingOptions(epochs=1, batch_size=batch_size)
    few = np.random.default_rng(0).integers(0, 256, (500, *SHAPE), np.uint8)
    fit(
        factorization, Images.from_arrays(few, np.arange(500) % CLASSES), options, progress=False
    )  # so that all is loaded
    before = peak()
    pixels = np.load(path, mmap_mode="r" if on_disk else None)
    images = Images.from_arrays(pixels, np.arange(len(pixels)) % CLASSES)
    assert images.sha256  # as a run's folder asks for it
    used = time.process_time()
    (epoch,) = fit(factorization, images, options, progress=False)
    used = time.process_time() - used  # of all threads: other programs disturb it less
    after = peak()
    speeds = {"images/s": round(len(images) / epoch.seconds), "images/CPU s": round(len(images) / used)}
    told.put(speeds | {"MiB more": round((after - before) / 1024), "MiB in all": round(after / 1024)})


def measure(**how) -> dict:
    context = multiprocessing.get_context("spawn")
    told = context.Queue()
    process = context.Process(target=train, kwargs=how | {"told": told})
    process.start()
    result = told.get()
    process.join()
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--model", default="dfx")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--from", dest="places", nargs="+", choices=("memory", "disk"), default=("memory", "disk"))
    parser.add_argument("--folder", help="for the generated file; a temporary one where left out")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        path, start = Path(folder) / "images.npy", time.monotonic()
        generate(path, given.images)
        print(
            f"{given.images} images, {path.stat().st_size / 2**20:.0f} MiB, generated in {time.monotonic() - start:.0f} s"
        )
        for place in given.places:
            how = {"model": given.model, "channels": given.channels, "batch_size": given.batch_size}
            how |= {"path": path, "on_disk": place == "disk"}
            print(place, json.dumps(measure(**how)), flush=True)


if __name__ == "__main__":
    main()
