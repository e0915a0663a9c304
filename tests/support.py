"""Helpers of several test files: tiny networks, weights as on a GPU, and calls of the command line."""

import math
import time
from functools import partial

import torch
from click.testing import CliRunner
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from pyrobayes import Networks
from pyrobayes_cli.main import main

TINY = Networks(latent=5, hidden=12, channels=6)


def as_on_a_gpu(factorization):
    """Under FakeTensorMode, weights as they would be on a GPU, which need not be there."""
    for module in factorization.modules():
        for values in (module._parameters, module._buffers):
            for key, value in values.items():
                values[key] = None if value is None else torch.empty(value.shape, dtype=value.dtype, device="cuda")


class CopiesFromTheHost(TorchDispatchMode):
    """Counts what is copied from the CPU to another device, for which a GPU would be waited for.

    `where` copies a number that lies on the CPU, where arithmetic hands it over.
    """

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        out = operation(*arguments, **(options or {}))
        devices = {each.device.type for each in (*arguments, out) if isinstance(each, torch.Tensor)}
        if ("copy" in str(operation) or "where" in str(operation)) and len(devices) > 1:
            self.found.append(operation)
        return out


class OperationsRecorder(TorchDispatchMode):
    """In place of that of CUDA: keeps the operations of one call, and repeats these alone on what the buffers hold then.

    Like a graph it takes everything that Python knew for a constant, and refuses to look at values. `state` gives tensors
    that a capture must leave as they are.
    """

    def __init__(self, state=lambda: []):
        super().__init__()
        self.state, self.captured, self.replayed = state, 0, 0

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        if operation is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing")
        result = operation(*arguments, **(options or {}))
        self.operations.append((operation, arguments, options or {}, result))
        return result

    def serves(self, given):
        return True

    def warm_up(self, function, given):
        return function(*given)

    def record(self, function, buffers):
        self.operations, before = [], [each.clone() for each in self.state()]
        with self:
            result = function(*buffers)
        for each, value in zip(self.state(), before):
            each.data.copy_(value)
        self.captured += 1
        return partial(self._repeat, self.operations, result)

    def _repeat(self, operations, result):
        self.replayed += 1
        now = {}

        def current(value):
            return tree_map_only(torch.Tensor, lambda each: now.get(id(each), each), value)

        with torch.no_grad():
            for operation, arguments, options, before in operations:
                after = operation(*current(arguments), **current(options))
                for one, other in zip(tree_leaves(before), tree_leaves(after)):
                    if isinstance(one, torch.Tensor):
                        now[id(one)] = other
        return current(result)


def invoke(*arguments):
    """The outcome of `pyrobayes ARGUMENTS`, run in this process."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def density(distribution, value):
    """Log-densities written out by hand, summed over the event."""
    base = getattr(distribution, "base_dist", getattr(distribution, "pixel", distribution))
    if hasattr(base, "logits"):
        return base.logits.log_softmax(-1).expand(*value.shape, -1).gather(-1, value[..., None])[..., 0]
    if not hasattr(base, "loc"):
        return torch.zeros(value.shape[:-3], dtype=value.dtype)
    terms = (
        -0.5 * ((value - base.loc) / base.scale) ** 2 - torch.as_tensor(base.scale).log() - 0.5 * math.log(2 * math.pi)
    )
    return terms.flatten(-distribution.event_dim).sum(-1)


def guides_of(factorization):
    """The parents of every variable in the guide, in the order that it draws them."""
    return getattr(factorization, "guides", {"z": ("x", "y")})


def draw_by_hand(factorization, x, y, noise):
    """All variables of one batch, the latent ones as loc + scale * noise, [B, latent]."""
    values, first = {"x": x, "y": y}, 0
    for site, given in guides_of(factorization).items():
        q = getattr(factorization, f"q_{site}")(*(values[parent] for parent in given))
        last = first + q.event_shape[0]
        values[site] = q.base_dist.loc + q.base_dist.scale * noise[:, first:last]
        first = last
    return values


def log_density_by_hand(factorization, values, which):
    """log p(x, z, y), or log q(z|x, y) of the guides, [B]: the sum over conditionals, each with its parents' values."""
    graph = {"p": factorization.structure.parents, "q": guides_of(factorization)}[which]
    return sum(
        density(getattr(factorization, f"{which}_{child}")(*(values[parent] for parent in parents)), values[child])
        for child, parents in graph.items()
    )


# A command line that sees the first 200 images of a data set alone.
FEW_IMAGES = """
from pyrobayes.data import sources
load_data = sources.load_data
sources.load_data = lambda *given: load_data(*given).head(200)
from pyrobayes_cli.__main__ import start
start()
"""
LONG_TRAINING = "--networks small --channels 4 --hidden 16 --latent 6 --data fashion-mnist-mini --epochs 5000".split()


def wait_until(condition):
    """Wait for what another process does, for at most 100 seconds."""
    end = time.monotonic() + 100
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def with_little_memory(classifier, decodings):
    """The classifier with a memory that holds so many decodings."""
    _ = classifier.bytes_needed
    (measured,) = classifier._bytes_needed
    classifier._bytes_needed[measured] = 0, classifier.options.memory * 2**20 // decodings
    return classifier
