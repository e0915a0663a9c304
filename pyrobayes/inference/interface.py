"""The interface that attacks and evaluations have of a classifier: ours, or a module of the user's."""

import contextlib
import copy
import functools
import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from pyrobayes.devices import settled, tf32
from pyrobayes.errors import LARGEST_SEED, InputError, check_integer
from pyrobayes.factorizations import Structure
from pyrobayes.inference.noise import Purpose, key_of, splitmix
from pyrobayes.inference.own_modules import ModuleSource
from pyrobayes.options import ClassifierOptions
from pyrobayes.tensor_files import digest

BY_CALLS = "its noise is drawn by calls and can't be bound to an image: batches of another size have other noise"
_settled = functools.lru_cache(settled)


class Classifier(nn.Module):
    """Images in, log p(x, y) or logits out, [B, C], with noise that can be drawn again.

    A subclass defines `forward`, `estimate`, `replaced` and the properties below that raise NotImplementedError.

    Attributes:
        has_particles: the classifier has particles, terms and log p(x, y); others give logits alone.
        addressable: an image's noise follows from its place in the data set. If it doesn't, another batch has other noise.
        caveats: sentences that results of this classifier repeat.
        source: where a module of the user's comes from, if a command loaded it.
    """

    has_particles = True
    addressable = True
    caveats: tuple[str, ...] = ()
    source: ModuleSource | None = None

    def __init__(self, options: ClassifierOptions):
        super().__init__()
        self._asked, self._name = options, None
        self._indices: Tensor | None = None
        self._calls = self._draw = 0
        self._number: int | Tensor = 0

    @property
    def options(self) -> ClassifierOptions:
        """The options, with those that were left to the device. Every classifier uses `noise` and `seed`."""
        return _settled(self._asked, self.device)

    @property
    def name(self) -> str:
        """The name that results have."""
        raise NotImplementedError

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        raise NotImplementedError

    @property
    def num_classes(self) -> int:
        """C."""
        raise NotImplementedError

    @property
    def structure(self) -> Structure:
        """The variables and their parents."""
        raise NotImplementedError

    @property
    def random(self) -> bool:
        """True where another draw of the noise may give other log joints."""
        raise NotImplementedError

    @property
    def images_at_once(self) -> int:
        """How many images fit into the memory; at least 1."""
        raise NotImplementedError

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights by name."""
        raise NotImplementedError

    @property
    def identity(self) -> str:
        """A digest of all that its answers depend on besides its options: the SHA-256 of the weights."""
        return digest(self.weights, {})

    @property
    def device(self) -> torch.device:
        """The device of the weights; the CPU without any."""
        return next((each.device for each in self._tensors()), torch.device("cpu"))

    def _tensors(self) -> Iterator[Tensor]:
        """Parameters and buffers."""
        return itertools.chain(self.parameters(), self.buffers())

    def precisely(self) -> contextlib.AbstractContextManager[None]:
        """A context in which a GPU computes with the precision of the options, a gradient too; outside it with the user's."""
        device = self.device
        return tf32(_settled(self._asked, device).precision == "tf32", device)

    @property
    def graph_key(self) -> tuple | None:
        """All that the log p(x, y) of known images follows from besides tensors of the images; None if it can't be captured.

        A classifier that has one has `graphs`, `on_buffers` and `buffers_of_images` too.
        """
        return None

    def unchecked(self) -> "Classifier":
        """This classifier, but it doesn't look at the pixels' values, for which a GPU would be waited for."""
        return self

    def _changed(self, **attributes) -> "Classifier":
        other = copy.copy(self)
        vars(other).update(attributes)
        return other

    def for_images(self, indices, draw: int = 0) -> "Classifier":
        """This classifier, made for a batch of known images: `indices` [B] are their places in their data set.

        Under fresh noise, an image's noise then follows from (seed, its index, draw) alone: every call gives the same
        numbers, whatever else is in the batch. Under fixed noise nothing changes.
        """
        check_integer("draw", draw, least=0, most=LARGEST_SEED)
        indices = torch.as_tensor(indices, dtype=torch.long)
        if (indices < 0).any():
            raise InputError(f"indices must be places in a data set, from 0, got {indices.min()}")
        # There they are copied once, and not at every call.
        return self._changed(_indices=indices.to(self.device), _draw=draw)

    def for_some(self, kept: Tensor) -> "Classifier":
        """This classifier, made for some of its known images, their places or a mask [B]; their noise stays theirs."""
        if not self.pinned:
            return self
        number = self._number[kept.to(self._number.device)] if isinstance(self._number, Tensor) else self._number
        return self._changed(_indices=self._indices[kept.to(self._indices.device)], _number=number)

    @property
    def pinned(self) -> bool:
        """True for a classifier that was made for known images."""
        return self._indices is not None

    def resampled(self, number: int | Tensor) -> "Classifier":
        """This classifier of the same images, with the noise of another independent draw; number 0 is the classifier itself.

        The number is one for all images, or [B] has one for each. Without :meth:`for_images` every call has new noise
        anyway. Under fixed noise nothing changes. A tensor of one number, or on a GPU, isn't checked: that would wait for it.
        """
        if not isinstance(number, Tensor):
            check_integer("number", number, least=0, most=LARGEST_SEED)
        elif number.dim() and number.numel() and number.device.type == "cpu":
            check_integer("number", int(number.min()), least=0, most=LARGEST_SEED)
        return self._changed(_number=number) if self.pinned else self

    def _keys(self, images: int, device: torch.device) -> Tensor:
        """[B] a key for the noise of each image."""
        zero = torch.zeros((), dtype=torch.long, device=device)
        if self._asked.noise == "fixed":  # added, since a copy from the host would wait for the device
            return (zero + key_of(self._asked.seed, Purpose.FIXED_NOISE, 0)).expand(images)
        if self._indices is None:
            self._calls += 1
            key = key_of(self._asked.seed, Purpose.NOISE_OF_A_CALL, self._calls)
            return splitmix(key, torch.arange(images, device=device))
        if len(self._indices) != images:
            raise InputError(f"the classifier was made for {len(self._indices)} images, got {images}")
        key = zero + key_of(self._asked.seed, Purpose.NOISE_OF_AN_IMAGE, self._draw)
        if isinstance(self._number, Tensor):
            number = self._number.to(device)
            key = splitmix(key, -number).where(number != 0, key)
        elif self._number:
            key = splitmix(key, -self._number)
        return splitmix(key, self._indices.to(device))
