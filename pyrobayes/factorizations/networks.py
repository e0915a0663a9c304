"""Networks: from the values of the parents to the parameters of a distribution.

The architectures are those of Li et al. (2019) for 28x28 images: three 5x5 convolutions with stride 2 and
one hidden layer for features of x, the mirror image of that for p(x|...), ReLU throughout. They compute in the precision of
their weights, which may be lower than that of values and log-probabilities.
"""

import copy
import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyrobayes.errors import InputError

KERNEL, STRIDE, PADDING = 5, 2, 2
# Bytes of the decoder's largest values: on a CPU, what the cache of a core holds, for each thread.
TILE, LARGE_TILE = {"cpu": 3 * 2**20}, 64 * 2**20
# Where the polynomials of Winograd's algorithm are evaluated, infinity besides: of some symmetric choices the one whose
# results in float32 were the most precise.
POINTS = (0.0, 0.6, -0.6, 1.5, -1.5)
# The compiler may take the weights for constants, and tries its own matrix products against the libraries', silently.
INDUCTOR = {
    "freezing": True,
    "max_autotune": True,
    "max_autotune_gemm_backends": "CPP,TRITON,ATEN",
    "autotune_num_choices_displayed": 0,
    "max_autotune_report_choices_stats": False,
}


def for_classification(factorization: nn.Module, dtype: torch.dtype | None, compiled: bool) -> nn.Module:
    """A copy of a factorization whose networks compute in `dtype`, if given, and in generated code, if so asked.

    Its densities stay in float32 at least.
    """
    factorization = copy.deepcopy(factorization).requires_grad_(False)
    for module in factorization.modules():
        if dtype and isinstance(module, (Perceptron, Decoder)):
            module.to(dtype)
        if compiled and isinstance(module, Decoder):
            module.generate_code()
    return factorization


def to_float32(parameters: Tensor) -> Tensor:
    """What a network gives, in float32 at least."""
    return parameters.to(torch.promote_types(parameters.dtype, torch.float32))


class Perceptron(nn.Module):
    """A multi-layer perceptron on the concatenation of its encoded inputs.

    The first layer is linear in each input, so it is applied to each before they are broadcast against
    each other: weight @ concat(a, b) = weight_a @ a + weight_b @ b.
    """

    def __init__(self, encoders: list[nn.Module], hidden: list[int], out: int):
        super().__init__()
        self.encoders = nn.ModuleList(encoders)
        self.sizes = [encoder.out_features for encoder in encoders]
        widths = [sum(self.sizes), *hidden, out]
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in zip(widths, widths[1:]))
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
    """A perceptron without hidden layers, whose encoded inputs are dropped where z is below 0 and doubled elsewhere."""

    def __init__(self, perceptron: Perceptron):
        super().__init__()
        self.perceptron = perceptron

    def forward(self, z: Tensor, *inputs: Tensor) -> Tensor:
        (layer,) = self.perceptron.layers
        encoded = [encoder(value) for encoder, value in zip(self.perceptron.encoders, inputs, strict=True)]
        return layer(torch.cat(encoded, dim=-1) * (2 * (z > 0)).to(layer.weight.dtype))


class Latent(nn.Module):
    """z as it is."""

    def __init__(self, latent: int):
        super().__init__()
        self.out_features = latent

    def forward(self, z: Tensor) -> Tensor:
        return z


class OneHot(nn.Module):
    """Classes [...] as one-hot vectors [..., classes]."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.out_features = num_classes
        self.register_buffer("rows", torch.eye(num_classes), persistent=False)

    def forward(self, y: Tensor) -> Tensor:
        return self.rows[y]


class ImageFeatures(nn.Module):
    """Features of x: three strided convolutions and a hidden layer, [..., channels, height, width] -> [..., hidden]."""

    def __init__(self, image_shape: tuple[int, int, int], channels: int, hidden: int):
        super().__init__()
        self.out_features = hidden
        sizes = [image_shape[0], channels, channels, channels]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(*pair, KERNEL, stride=STRIDE, padding=PADDING) for pair in zip(sizes, sizes[1:])
        )
        height, width = downsampled_sizes(image_shape)[-1]
        self.linear = nn.Linear(channels * height * width, hidden)
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

    def __init__(self, image_shape: tuple[int, int, int], channels: int, hidden: int):
        super().__init__()
        self.image_shape, sizes = tuple(image_shape), downsampled_sizes(image_shape)[::-1]
        self.smallest = (channels, *sizes[0])
        self.linear = nn.Linear(hidden, math.prod(self.smallest))
        self.largest = channels * math.prod(sizes[-2])  # values between two layers
        outs = [channels, channels, image_shape[0]]
        self.convolutions = nn.ModuleList(
            Upsampling(channels, out, before, after) for out, before, after in zip(outs, sizes, sizes[1:])
        )
        self.generated: tuple[Callable[[Tensor], Tensor], int] | None = None  # and for how many at a time

    def forward(self, hidden: Tensor) -> Tensor:
        leading, hidden = hidden.shape[:-1], hidden.reshape(-1, hidden.shape[-1]).to(self.linear.weight.dtype)
        layers = partial(self.layers, self.prepared())
        trained = any(parameter.requires_grad for parameter in self.parameters())
        if self.linear.weight.dtype is torch.bfloat16 and not trained:
            decode = partial(WithGradient.apply, layers, self.backward)
        else:
            decode = partial(last_of, layers)
        whole, tile = self.generated or (decode, self.tile)
        parts = [(whole if len(part) == tile else decode)(part) for part in hidden.split(tile)]
        return (torch.cat(parts) if len(parts) > 1 else parts[0]).unflatten(0, leading)

    @property
    def tile(self) -> int:
        """How many to decode at a time."""
        weight, device = self.linear.weight, self.linear.weight.device.type
        values = TILE[device] * torch.get_num_threads() if device in TILE else LARGE_TILE
        return max(1, values // (self.largest * weight.element_size()))

    def prepared(self) -> list[Callable[[Tensor], Tensor]]:
        """The convolutions with their weights laid out."""
        return [convolution.prepared() for convolution in self.convolutions]

    def layers(self, convolutions: list[Callable], hidden: Tensor) -> list[Tensor]:
        """What comes out of every layer for [N, hidden], with the convolutions as they were prepared.

        The last is [N, channels, height, width], the logits.
        """
        out = F.relu(self.linear(hidden), inplace=True).unflatten(1, self.smallest)
        out = [out.contiguous(memory_format=torch.channels_last)]
        *others, last = convolutions
        for convolution in others:
            out.append(F.relu(convolution(out[-1]), inplace=True))
        return [*out, last(out[-1])]

    def backward(self, gradient: Tensor, *inputs: Tensor) -> Tensor:
        """The gradient in what was decoded, [N, hidden], from that in the result and the inputs of the convolutions."""
        for convolution, given in zip(reversed(self.convolutions), reversed(inputs)):
            weight = convolution.weight.contiguous(memory_format=torch.channels_last)
            gradient = F.conv2d(channels_last(gradient), weight, stride=STRIDE, padding=PADDING)
            gradient = torch.ops.aten.threshold_backward(gradient, given, 0)  # that of the ReLU
        return gradient.flatten(1) @ self.linear.weight

    def generate_code(self) -> None:
        """Have whole tiles, and their gradients, computed by generated code, with the weights as they are.

        The code is generated at once, which takes up to half a minute.
        """

        on_cpu = self.linear.weight.device.type == "cpu"
        fused = [Winograd(layer) if on_cpu and not layer.block() else None for layer in self.convolutions]

        def layers(hidden: Tensor) -> list[Tensor]:
            return self.layers([own or layer.prepared() for own, layer in zip(fused, self.convolutions)], hidden)

        def decode(hidden: Tensor) -> Tensor:
            return last_of(layers, hidden)

        known = torch._inductor.list_options()  # not all of them to an older torch
        options = {name: value for name, value in INDUCTOR.items() if name in known}
        compiled = partial(torch.compile, fullgraph=True, dynamic=False, options=options)
        compiled_backward = compiled(self.backward)

        def backward(gradient: Tensor, *inputs: Tensor) -> Tensor:  # of the gradient itself there may be one
            return (self.backward if torch.is_grad_enabled() else compiled_backward)(gradient, *inputs)

        with_gradient = partial(WithGradient.apply, compiled(layers), backward)
        without = compiled(decode)  # keeps nothing, and fuses more

        def generated(hidden: Tensor) -> Tensor:
            return (with_gradient if torch.is_grad_enabled() and hidden.requires_grad else without)(hidden)

        self.generated = generated, self.tile
        zeros = self.linear.weight.new_zeros(self.tile, self.linear.in_features).requires_grad_()
        try:
            with torch.inference_mode(False), torch.enable_grad():
                generated(zeros).sum().backward()
            with torch.no_grad():
                generated(zeros.detach())
        except Exception as error:  # the compiler's are of many kinds
            reason = str(error).strip().partition("\n")[0]
            raise InputError(
                "compile needs a C++ compiler that works (CXX names one; on a GPU, Triton): mend that or leave "
                f"compile out; torch.compile says: {reason}"
            ) from error


def last_of(layers: Callable[[Tensor], list[Tensor]], hidden: Tensor) -> Tensor:
    """What comes out of the last layer."""
    return layers(hidden)[-1]


class WithGradient(torch.autograd.Function):
    """The last of what `forward` gives, layer by layer, whose gradient in what went in `backward` computes.

    In bfloat16 the gradient that autograd takes back through blocks meets two layouts, and the ReLUs alone take a third of
    its time.
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

    Where it is faster it is computed as the equivalent convolution of blocks of inputs to blocks of outputs, with one
    channel for each place in a block (the sub-pixel convolution of Shi et al. 2016).
    """

    def __init__(self, channels: int, out: int, before: tuple[int, int], after: tuple[int, int]):
        more = tuple(large - 2 * small + 1 for small, large in zip(before, after))
        super().__init__(channels, out, KERNEL, stride=STRIDE, padding=PADDING, output_padding=more)
        self.before, self.after = before, after

    def forward(self, x: Tensor) -> Tensor:
        return self.prepared()(x)

    def prepared(self) -> Callable[[Tensor], Tensor]:
        """The layer with its weight laid out."""
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
        """How many inputs in each direction a block should have; 0 for no blocks.

        Few output channels leave a transposed convolution's matrix products half empty; in bfloat16 on a CPU the
        transposed convolution is the slower one whatever its channels.
        """
        if 16 * self.out_channels <= self.in_channels and not any(size % 2 for size in self.before):
            return 2
        slow = self.weight.dtype is torch.bfloat16 and self.weight.device.type == "cpu"
        if 4 * self.out_channels < self.in_channels or slow:
            return 1
        return 0

    def block_weight(self, block: int) -> Tensor:
        """The weight of the equivalent convolution, [(2 block)^2 * out, in, block + 2, block + 2]."""
        # Output r of a block takes input s - 1 with the tap r - 2s + 4, where there is one; a zero stands in for others.
        rows, taps = (torch.arange(n, device=self.weight.device) for n in (2 * block, block + 2))
        tap = rows[:, None] - 2 * taps + 4
        there = (tap >= 0) & (tap < KERNEL)
        both = there[:, None, :, None] & there[None, :, None, :]
        place = (KERNEL * tap[:, None, :, None] + tap[None, :, None, :]).where(both, KERNEL**2)
        weight = F.pad(self.weight.flatten(2), (0, 1))[:, :, place]  # [in, out, row, column, height, width]
        return weight.permute(2, 3, 1, 0, 4, 5).flatten(0, 2)


class Winograd(nn.Module):
    """The same layer by Winograd's algorithm F(4x4, 3x3) (Lavin and Gray 2016), with the weight that it has now.

    Blocks of 2x2 outputs are a 3x3 convolution, of which a tile of 4x4 blocks takes 36 products of matrices where the
    transposed convolution takes 100. What comes before and after has to be fused, or takes as long as is gained.
    """

    def __init__(self, layer: Upsampling):
        super().__init__()
        self.after = layer.after
        self.tiles = [math.ceil(size / 4) for size in layer.before]
        # The correlation of 6 inputs with 3 taps is outputs.T @ ((inputs @ x) * (taps @ w)): the product of two
        # polynomials, which their values at six points determine, transposed.
        inputs = torch.linalg.inv(powers(6)).T
        scale = inputs.abs().amax(1, keepdim=True)  # so that nothing grows large
        inputs, outputs, taps = inputs / scale, powers(4), powers(3) * scale
        padded = [F.pad(torch.eye(n).double(), (0, 0, 1, 4 * t + 1 - n)) for n, t in zip(layer.before, self.tiles)]
        rows, columns = (inputs @ each.unfold(0, 6, 4).transpose(1, 2) for each in padded)  # [tiles, 6, before]
        weight = torch.einsum("uh,ochw,vw->uvco", taps, layer.block_weight(1).double(), taps).flatten(0, 1)
        fixed = {
            "inputs": torch.einsum("iuh,jvw->uvijhw", rows, columns).flatten(4).flatten(0, 3),
            "weight": weight.contiguous(),
            "outputs": torch.einsum("ui,vj->ijuv", outputs, outputs).flatten(2).flatten(0, 1),
            "bias": layer.bias.detach(),
        }
        for name, value in fixed.items():
            self.register_buffer(name, value.to(layer.weight.dtype))

    def forward(self, x: Tensor) -> Tensor:
        out = self.inputs @ x.permute(2, 3, 0, 1).reshape(self.inputs.shape[1], -1)
        out = torch.bmm(out.view(len(self.weight), -1, self.weight.shape[1]), self.weight)
        out = (self.outputs @ out.flatten(1)).view(4, 4, *self.tiles, len(x), 2, 2, len(self.bias))
        out = out.permute(4, 2, 0, 5, 3, 1, 6, 7).flatten(1, 3).flatten(2, 4)  # [N, height, width, out]
        return (out[:, : self.after[0], : self.after[1]] + self.bias).permute(0, 3, 1, 2)


def powers(count: int) -> Tensor:
    """The first powers at POINTS, and their value at infinity, [6, count] in float64."""
    finite = torch.tensor(POINTS, dtype=torch.float64)[:, None] ** torch.arange(count)
    return torch.cat([finite, torch.eye(count, dtype=torch.float64)[-1:]])


def channels_last(images: Tensor) -> Tensor:
    """Images [N, channels, height, width] in that layout, which strides leave open where there is one channel.

    A library takes it for the other one then, and what comes out of a convolution has to be laid out anew.
    """
    height, width = images.shape[2:]
    return images.movedim(1, 3).flatten(1).unflatten(1, (height, width, -1)).movedim(3, 1)


def keep_variance(layer: nn.Linear | nn.Conv2d) -> None:
    """Initialise a layer before a ReLU so that variance passes through it (He et al. 2015).

    With torch's default the features of different images hardly differ at first, and z, whose noise has
    unit scale, can't carry them: the posterior collapses, in DBX for good.
    """
    nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)


def downsampled_sizes(image_shape: tuple[int, int, int]) -> list[tuple[int, int]]:
    """Heights and widths of an image before and after each of the three stride-2 convolutions."""
    sizes = [tuple(image_shape[1:])]
    for _ in range(3):
        sizes.append(tuple((n + 1) // 2 for n in sizes[-1]))
    return sizes
