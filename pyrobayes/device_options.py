"""The names of devices, and options that the device settles where they are not given. Nothing here imports torch."""

from dataclasses import replace

from pyrobayes.errors import InputError, choice

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "fp32", "tf32", "bf16")
# `auto` stands for these, by device, and elsewhere for float32 without TF32. The table that `make gpu` measures is to choose; until
# then a GPU computes as a CPU does.
AUTO_PRECISION = {"cuda": "fp32"}
MEMORY, BATCH_SIZE = 512, 100  # MiB and images, where they are not given, on a CPU


class SettledByDevice:
    """The part of a record of options that a device settles: `precision`, `memory` and, where there is one, `batch_size`."""

    @property
    def is_open(self) -> bool:
        """True where something is left to the device."""
        return self.precision == "auto" or self.memory is None or getattr(self, "batch_size", BATCH_SIZE) is None

    def settled(self, device: str = "cpu", memory: int = MEMORY, batch_size: int = BATCH_SIZE):
        """These options with nothing left open, for a kind of device and its limits.

        A gradient that leaves out the negligible depends on the memory, which then must not depend on the device.
        """
        chosen = {
            "precision": AUTO_PRECISION.get(device, "fp32") if self.precision == "auto" else self.precision,
            "memory": (MEMORY if self.negligible else memory) if self.memory is None else self.memory,
        }
        if getattr(self, "batch_size", BATCH_SIZE) is None:
            chosen["batch_size"] = batch_size
        return replace(self, **chosen)


def device_name(given: str) -> tuple[str, int | None]:
    """The kind of a device, and the number of a GPU if one is given: `cuda:1` is `cuda` and 1."""
    kind, colon, number = str(given).partition(":")
    if not colon:
        return choice("device", given, DEVICES), None
    if kind.lower() != "cuda" or not number.isdecimal():
        raise InputError(f"unknown device '{given}': known are {', '.join(DEVICES)}, and cuda:0, cuda:1 and so on")
    return "cuda", int(number)
