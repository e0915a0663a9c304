"""Networks: from the values of the parents to the parameters of a distribution.

Li et al. (2019) use these architectures. 5x5 convolutions with stride 2, three for 28x28 and 32x32 images, and a hidden layer give
the features of x, and the mirror image of that gives p(x|...), with ReLU throughout. A side that can't be halved is padded. A network computes in the precision
of its weights, which may be lower than that of values and log-probabilities.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyrobayes.devices import tile_bytes

KERNEL, STRIDE, PADDING = 5, 2, 2
CPU_TILE = 3 * 2**20  # bytes of the decoder's largest values that a thread computes at a time: they fit a core's cache


def to_float32(parameters: Tensor) -> Tensor:
    """The output of a network in float32, or in float64 if it is."""
    return parameters.to(torch.promote_types(parameters.dtype, torch.float32))


class Perceptron(nn.Module):
    """A multi-layer perceptron on the concatenation of its encoded inputs.

    Each input passes the first layer, which is linear, on its own, before the inputs are broadcast against each other.
    """

    def __init__(self, encoders: list[nn.Module], hidden: list[int], out: int):
        super().__init__()
        self.encoders = nn.ModuleList(encoders)
        self.sizes = [encoder.out_features for encoder in encoders]
        widths = [sum(self.sizes), *hidden, out]
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in itertools.pairwise(widths))
        for layer in self.layers[:-1]:
            keep_variance(layer)
        nn.init.xavier_uniform_(self.layers[-1].weight)
        nn.init.zeros_(self.layers[-1].bias)

    def forward(self, *inputs: Tensor) -> Tensor:
        first, *others = self.layers
        weights = first.weight.split(self.sizes, dim=1)
        encoded = [encoder(value).to(first.weight.dtype) for encoder, value in zip(self.encoders, inputs, strict=True)]
        out = F.linear(encoded[0], weights[0], first.bias)
        for value, weight in zip(encoded[1:], weights[1:]):
            out = out + F.linear(value, weight)
        for layer in others:
            out = layer(F.relu(out, inplace=True))
        return out


class Dropped(nn.Module):
    """A perceptron without hidden layers; it drops encoded inputs where z is below 0, and doubles the others."""

    def __init__(self, perceptron: Perceptron):
        super().__init__()
        self.perceptron = perceptron

    def forward(self, z: Tensor, *inputs: Tensor) -> Tensor:
        (layer,) = self.perceptron.layers
        encoded = [encoder(value) for encoder, value in zip(self.perceptron.encoders, inputs, strict=True)]
        return layer(torch.cat(encoded, dim=-1).to(layer.weight.dtype) * (2 * (z > 0)).to(layer.weight.dtype))


class Latent(nn.Identity):
    """A latent vector, unchanged."""

    def __init__(self, latent: int):
        super().__init__()
        self.out_features = latent


class OneHot(nn.Module):
    """Classes [...] as one-hot vectors [..., classes]."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.out_features = num_classes
        self.register_buffer("rows", torch.eye(num_classes), persistent=False)

    def forward(self, y: Tensor) -> Tensor:
        return self.rows[y]


class ImageFeatures(nn.Module):
    """Features of x: strided convolutions and a hidden layer; [..., channels, height, width] -> [..., hidden].

    `channels` are those that each convolution gives.
    """

    def __init__(self, image_shape: tuple[int, int, int], channels: Sequence[int], hidden: int):
        super().__init__()
        self.out_features = hidden
        pairs = itertools.pairwise([image_shape[0], *channels])
        self.convolutions = nn.ModuleList(nn.Conv2d(*pair, KERNEL, stride=STRIDE, padding=PADDING) for pair in pairs)
        height, width = downsampled_sizes(image_shape, len(channels))[-1]
        self.linear = nn.Linear(channels[-1] * height * width, hidden)
        for layer in (*self.convolutions, self.linear):
            keep_variance(layer)

    def forward(self, x: Tensor) -> Tensor:
        leading, out = x.shape[:-3], x.reshape(-1, *x.shape[-3:])
        out = out.to(self.linear.weight.dtype, memory_format=torch.channels_last)
        for convolution in self.convolutions:
            out = F.relu(convolution(out), inplace=True)
        return F.relu(self.linear(out.flatten(1)), inplace=True).unflatten(0, leading)


class Decoder(nn.Module):
    """The mirror image of :class:`ImageFeatures`: [..., hidden] -> logits of the mean [..., channels, height, width]."""

    def __init__(self, image_shape: tuple[int, int, int], channels: Sequence[int], hidden: int):
        super().__init__()
        self.image_shape, sizes = tuple(image_shape), downsampled_sizes(image_shape, len(channels))[::-1]
        channels = [*reversed(channels), image_shape[0]]
        self.smallest = (channels[0], *sizes[0])
        self.linear = nn.Linear(hidden, math.prod(self.smallest))
        # Values between two layers, at most.
        self.largest = max(count * math.prod(size) for count, size in zip(channels[:-1], sizes))
        pairs = zip(itertools.pairwise(channels), itertools.pairwise(sizes))
        self.convolutions = nn.ModuleList(Upsampling(*counts, *between) for counts, between in pairs)
        self.generated: tuple[Callable[[Tensor], Tensor], int] | None = None  # the code, and its tile

    def forward(self, hidden: Tensor) -> Tensor:
        leading, hidden = hidden.shape[:-1], hidden.reshape(-1, hidden.shape[-1]).to(self.linear.weight.dtype)
        layers = partial(self.layers, self.prepared())
        trained = any(parameter.requires_grad for parameter in self.parameters())
        written_out = self.linear.weight.dtype is torch.bfloat16 and not trained

        def decode(part: Tensor) -> Tensor:
            return WithGradient.apply(layers, self.backward, part) if written_out else layers(part)[-1]

        whole, tile = self.generated or (decode, self.tile)
        parts = [(whole if len(part) == tile else decode)(part) for part in hidden.split(tile)]
        return (torch.cat(parts) if len(parts) > 1 else parts[0]).unflatten(0, leading)

    @property
    def tile(self) -> int:
        """How many hidden vectors to decode at a time."""
        weight, device = self.linear.weight, self.linear.weight.device
        values = CPU_TILE * torch.get_num_threads() if device.type == "cpu" else tile_bytes(device)
        return max(1, values // (self.largest * weight.element_size()))

    def prepared(self) -> list[Callable[[Tensor], Tensor]]:
        """The convolutions, their weights laid out for the fastest kernel."""
        return [convolution.prepared() for convolution in self.convolutions]

    def layers(self, convolutions: list[Callable], hidden: Tensor) -> list[Tensor]:
        """The outputs of all layers for [N, hidden], by the convolutions of :meth:`prepared`; the last are the logits."""
        out = F.relu(self.linear(hidden), inplace=True).unflatten(1, self.smallest)
        out = [out.contiguous(memory_format=torch.channels_last)]
        for convolution in convolutions[:-1]:
            out.append(F.relu(convolution(out[-1]), inplace=True))
        return [*out, convolutions[-1](out[-1])]

    def backward(self, gradient: Tensor, *inputs: Tensor) -> Tensor:
        """The gradient in the hidden vectors [N, hidden], from the gradient in the logits and the convolutions' inputs."""
        for convolution, given in zip(reversed(self.convolutions), reversed(inputs)):
            weight = convolution.weight.contiguous(memory_format=torch.channels_last)
            gradient = F.conv2d(channels_last(gradient), weight, stride=STRIDE, padding=PADDING)
            gradient = torch.ops.aten.threshold_backward(gradient, given, 0)  # the gradient of ReLU
        return gradient.flatten(1) @ self.linear.weight


class WithGradient(torch.autograd.Function):
    """The last output of `forward`, with a gradient that `backward` computes.

    Autograd's own gradient is slow in bfloat16: it meets two memory layouts, and the ReLUs alone take a third of its time.
    """

    @staticmethod
    def forward(context, forward: Callable, backward: Callable, hidden: Tensor) -> Tensor:
        *inputs, out = forward(hidden)
        context.save_for_backward(*inputs)
        context.run = backward
        return out

    @staticmethod
    def backward(context, gradient: Tensor):
        return None, None, context.run(gradient.contiguous(), *context.saved_tensors)


class Upsampling(nn.ConvTranspose2d):
    """A 5x5 transposed convolution with stride 2, from n to 2n or 2n - 1 pixels in each direction.

    An equivalent convolution, from blocks of inputs to blocks of outputs, replaces it where that is faster. It has one
    channel for each place in a block (the sub-pixel convolution of Shi et al. 2016).
    """

    def __init__(self, channels: int, out: int, before: tuple[int, int], after: tuple[int, int]):
        more = tuple(large - 2 * small + 1 for small, large in zip(before, after))
        super().__init__(channels, out, KERNEL, stride=STRIDE, padding=PADDING, output_padding=more)
        self.before, self.after = before, after

    def forward(self, x: Tensor) -> Tensor:
        return self.prepared()(x)

    def prepared(self) -> Callable[[Tensor], Tensor]:
        """The layer, its weight laid out for the fastest kernel."""
        block = self.block()
        if not block:
            return super().forward
        weight = self.block_weight(block).contiguous(memory_format=torch.channels_last)
        bias = self.bias.repeat(4 * block**2)

        def convolve(x: Tensor) -> Tensor:
            out = F.conv2d(x, weight, bias, stride=block, padding=1).permute(0, 2, 3, 1)
            out = out.unflatten(3, (2 * block, 2 * block, -1)).transpose(2, 3)  # [..., height, row, width, column, out]
            out = out.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)
            return out[..., : self.after[0], : self.after[1]]

        return convolve

    def block(self) -> int:
        """The number of inputs in each direction of a block; 0 for no blocks.

        Few output channels leave a transposed convolution's matrix products half empty; in bfloat16 on a CPU it is slow.
        """
        if 16 * self.out_channels <= self.in_channels and not any(size % 2 for size in self.before):
            return 2
        slow = self.weight.dtype is torch.bfloat16 and self.weight.device.type == "cpu"
        return 1 if 4 * self.out_channels < self.in_channels or slow else 0

    def block_weight(self, block: int) -> Tensor:
        """The weight of the equivalent convolution, [(2 block)^2 * out, in, block + 2, block + 2]."""
        # Output r of a block takes input s - 1 with the tap r - 2s + 4. Where the kernel has no such tap, the weight is 0.
        rows, taps = (torch.arange(n, device=self.weight.device) for n in (2 * block, block + 2))
        tap = rows[:, None] - 2 * taps + 4
        there = (tap >= 0) & (tap < KERNEL)
        both = there[:, None, :, None] & there[None, :, None, :]
        place = (KERNEL * tap[:, None, :, None] + tap[None, :, None, :]).where(both, KERNEL**2)
        weight = F.pad(self.weight.flatten(2), (0, 1))[:, :, place]  # [in, out, row, column, height, width]
        return weight.permute(2, 3, 1, 0, 4, 5).flatten(0, 2)


def channels_last(images: Tensor) -> Tensor:
    """Images in the memory layout channels_last; with one channel, libraries otherwise assume the other, and copy outputs."""
    height, width = images.shape[2:]
    return images.movedim(1, 3).flatten(1).unflatten(1, (height, width, -1)).movedim(3, 1)


def keep_variance(layer: nn.Linear | nn.Conv2d) -> None:
    """Initialise a layer before a ReLU so that variance passes through it (He et al. 2015).

    With torch's default the features of different images hardly differ at first: the posterior collapses, in DBX for good.
    """
    nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)


def start_as_original(network: nn.Module) -> None:
    """Initialise the layers of a network as the authors' program does, and take the biases of transposed convolutions away.

    Weights have the variance of Glorot and Bengio (2010), normal in the features of x, else uniform; those of transposed
    convolutions are uniform within 1 / (25 output channels). Biases start at 0 (github.com/deepgenerativeclassifier/DeepBayes).
    """
    glorot = nn.init.xavier_normal_ if isinstance(network, ImageFeatures) else nn.init.xavier_uniform_
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            glorot(layer.weight)
            nn.init.zeros_(layer.bias)
        if isinstance(layer, Upsampling):
            bound = 1 / (KERNEL**2 * layer.out_channels)
            nn.init.uniform_(layer.weight, -bound, bound)
            del layer.bias  # what computes takes a constant 0 for it, which is neither trained nor stored
            layer.register_buffer("bias", torch.zeros(layer.out_channels), persistent=False)


def downsampled_sizes(image_shape: tuple[int, int, int], halvings: int) -> list[tuple[int, int]]:
    """Heights and widths of an image before and after each of the stride-2 convolutions."""
    return [tuple(-(-size // 2**halved) for size in image_shape[1:]) for halved in range(halvings + 1)]
