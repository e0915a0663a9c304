"""Random numbers that do not depend on the batch: streams, counters, and base noise for the latent sites.

A key follows from the seed, the purpose, the draw and the image. The n-th number of a key is computed at once, in
integer arithmetic, so that the bits are equal on every device and in every batch.
"""

import math
from enum import IntEnum

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyrobayes.errors import InputError
from pyrobayes.factorizations.distributions import as_normal, is_normal

GAMMA = 0x9E3779B97F4A7C15 - 2**64  # as a signed integer


class NoiseStream(IntEnum):
    """Independent draws of the noise of one image.

    The defender's draw is the same on clean and adversarial images, so that eps 0 gives the clean accuracy. The attacker's
    gradient never sees it, unless the noise is fixed.
    """

    DEFENDER = 0
    ATTACKER = 1
    SECOND_DRAW = 2  # tells how many predictions another draw changes
    CALIBRATION = 3  # thresholds of detectors
    REDRAWS = 4  # and all up to the next: judge what an attack found
    SMOOTHING = 2**32  # noisy copies of an image, each resampled


class Purpose(IntEnum):
    """Uses of random numbers, each with numbers of its own."""

    FIXED_NOISE = 0
    NOISE_OF_A_CALL = 1
    NOISE_OF_AN_IMAGE = 2
    ATTACK = 3
    REFERENCES = 4  # images of other classes that a matching loss goes towards
    SMOOTHING = 5  # Gaussian noise on the pixels


def key_of(seed: int, purpose: Purpose, draw: int) -> Tensor:
    """The key of a draw, a scalar int64."""
    return splitmix(splitmix(seed, int(purpose)), draw)


def splitmix(key: Tensor | int, n: Tensor | int) -> Tensor:
    """The n-th output, from 0, of SplitMix64 seeded with `key`: 64 random bits as an int64 tensor.

    Steele, Lea and Flood (2014), figure 17. An output serves as the key of another sequence.
    """
    bits = torch.as_tensor(key) + (torch.as_tensor(n) + 1) * GAMMA
    bits = (bits ^ _shifted(bits, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    bits = (bits ^ _shifted(bits, 27)) * (0x94D049BB133111EB - 2**64)
    return bits ^ _shifted(bits, 31)


def _shifted(bits: Tensor, places: int) -> Tensor:
    """int64 as unsigned, shifted to the right."""
    return (bits >> places) & (2 ** (64 - places) - 1)


def uniforms(key: Tensor, n: Tensor) -> Tensor:
    """A number from 0 to 1 in float32 for each n."""
    return (_shifted(splitmix(key, n), 40).float() + 0.5) / 2**24


def standard_normals(key: Tensor, n: Tensor) -> Tensor:
    """Two standard normal numbers for each n, [..., 2] float32, by the transform of Box and Muller (1958)."""
    bits = splitmix(key, n)
    high, low = ((_shifted(bits, 32).float() + 0.5) / 2**32), ((bits & 0xFFFFFFFF).float() / 2**32)
    radius, angle = (-2 * high.log()).sqrt(), 2 * math.pi * low
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1)


def normals_of_images(keys: Tensor, shape: torch.Size) -> Tensor:
    """Standard normal numbers, [B, ...shape] float32, for the keys [B] of images."""
    size = shape.numel()
    n = torch.arange(math.ceil(size / 2), device=keys.device)
    return standard_normals(keys[:, None], n).flatten(1)[:, :size].unflatten(1, shape)


def base_noise(keys: Tensor, first: int, last: int, guides: int, latent: int) -> Tensor:
    """Standard normal numbers of particles `first` to `last`, [last - first, guides, B, latent], for the keys [B] of images.

    All classes share an image's draws: with common random numbers (Kahn and Marshall 1953) log joints differ less by
    chance. Only the guides of a mixture, whose particles serve all classes, draw their own.
    """
    pairs = math.ceil(latent / 2)
    particle = torch.arange(first, last, device=keys.device)[:, None, None, None]
    guide = torch.arange(guides, device=keys.device)[:, None, None]
    n = (particle * guides + guide) * pairs + torch.arange(pairs, device=keys.device)
    return standard_normals(keys[:, None], n).flatten(-2)[..., :latent]


class BaseNoise(Messenger):
    """Draws every latent site as loc + scale * noise; enter it outside the plates, which expand the distributions.

    The sites share out the standard normal numbers `noise`, [..., latent], in the order that they are drawn. Where `others`
    are allowed, Pyro draws sites that aren't normal.
    """

    def __init__(self, noise: Tensor, others: bool = False):
        super().__init__()
        self.noise, self.others = noise, others

    def __enter__(self):
        self.taken = 0
        return super().__enter__()

    def _pyro_sample(self, msg):
        if msg["is_observed"] or msg["value"] is not None or site_is_subsample(msg):
            return
        if self.others and not is_normal(msg["fn"]):
            return
        normal, shape = as_normal(msg["name"], msg["fn"]), msg["fn"].event_shape
        first, self.taken = self.taken, self.taken + shape.numel()
        if self.taken > self.noise.shape[-1]:
            raise InputError(
                f"the guide draws more than the {self.noise.shape[-1]} latent numbers that it drew when it was built: "
                f"there are none for '{msg['name']}'; define the guide in the class"
            )
        noise = self.noise[..., first : self.taken]
        msg["value"] = normal.loc + normal.scale * noise.reshape(noise.shape[:-1] + shape)
