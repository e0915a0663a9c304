"""The conditional distributions that a factorization is made of.

Each is a module whose call takes the values of its parents and returns a Pyro distribution. Values may
have any leading dimensions that broadcast against each other: images [..., channels, height, width] in
[0, 1], classes [...] integers, latent vectors [..., latent]. What depends on x alone is therefore computed
once per image, however many classes and particles stand around it.

The architectures are those of Li et al. (2019) for 28x28 images: three 5x5 convolutions with stride 2 and
one hidden layer for features of x, the mirror image of that for p(x|...), ReLU throughout.
"""

import copy
import math
from collections.abc import Callable
from functools import cache, partial

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn
from torch.nn import functional as F

from pyrobayes.options import InputError, Networks

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


class Conditionals:
    """Makes the conditionals of one model, all of the same sizes.

    `z("y")` makes p(z|y), `y("z", "x")` makes p(y|z, x), and so on; the parents are then given in that
    order. `data_x()` and `data_y()` make p_D(x) and p_D(y).
    """

    def __init__(self, networks: Networks, image_shape: tuple[int, int, int], num_classes: int):
        self.networks, self.image_shape, self.num_classes = networks, image_shape, num_classes

    def _perceptron(self, given, hidden_layers: int, out: int) -> "Perceptron":
        net = self.networks
        encoders = {
            "x": lambda: ImageFeatures(self.image_shape, net.channels, net.hidden),
            "y": lambda: OneHot(self.num_classes),
            "z": lambda: Latent(net.latent),
        }
        return Perceptron([encoders[name]() for name in given], [net.hidden] * hidden_layers, out)

    def z(self, *given: str, hidden_layers: int = 1) -> nn.Module:
        """p(z), a standard normal, or p(z|given), a normal with diagonal covariance."""
        latent = self.networks.latent
        if not given:
            return StandardNormal(latent)
        return NormalGiven(self._perceptron(given, hidden_layers, 2 * latent))

    def y(self, *given: str, hidden_layers: int = 2) -> nn.Module:
        """p(y|given), a categorical distribution over the classes."""
        return CategoricalGiven(self._perceptron(given, hidden_layers, self.num_classes))

    def dropout(self) -> nn.Module:
        """p(z) of one number for each hidden unit, a standard normal, that says which are dropped."""
        return StandardNormal(self.networks.hidden)

    def y_under_dropout(self, *given: str) -> nn.Module:
        """p(y|z, given), a categorical distribution, of which z says which hidden units are dropped."""
        features = self._perceptron(given, 0, self.num_classes)
        return CategoricalGiven(Dropped(features))

    def x(self, *given: str) -> nn.Module:
        """p(x|given), independent pixels around the mean that a decoder gives."""
        net = self.networks
        decoder = Decoder(self.image_shape, net.channels, net.hidden)
        return ImagesGiven(self._perceptron(given, 0, net.hidden), decoder, net.likelihood, net.variance)

    def data_x(self) -> nn.Module:
        """p_D(x), the distribution the images come from: a constant, whatever the model."""
        return DataImages(self.image_shape)

    def data_y(self) -> nn.Module:
        """p_D(y), the class frequencies of the training images."""
        return DataClasses(self.num_classes)


class StandardNormal(nn.Module):
    """p(z) = Normal(0, I)."""

    def __init__(self, latent: int):
        super().__init__()
        self.register_buffer("loc", torch.zeros(latent), persistent=False)

    def forward(self) -> dist.Distribution:
        return DiagonalNormal(self.loc, self.loc)


class NormalGiven(nn.Module):
    """p(z|...) = Normal(loc, diag(scale^2)), both from one network; also the guide q(z|x, y)."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, *given: Tensor) -> dist.Distribution:
        loc, log_scale = precise(self.network(*given)).chunk(2, dim=-1)
        return DiagonalNormal(loc, log_scale)


class CategoricalGiven(nn.Module):
    """p(y|...), a categorical distribution whose logits a network gives."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, *given: Tensor) -> dist.Distribution:
        return dist.Categorical(logits=precise(self.network(*given)))


class ImagesGiven(nn.Module):
    """p(x|...), independent pixels around mean = sigmoid(decoder(hidden)), with a fixed variance.

    `gaussian` with variance 1/2 is the squared error of the original: log p = -(x - mean)^2 - log(pi)/2.
    """

    def __init__(self, network: nn.Module, decoder: nn.Module, likelihood: str, variance: float):
        super().__init__()
        self.network, self.decoder = network, decoder
        self.likelihood, self.variance = likelihood, variance

    def forward(self, *given: Tensor) -> dist.Distribution:
        hidden = F.relu(self.network(*given), inplace=True)

        def pixel() -> dist.Distribution:
            return pixels(self.likelihood, precise(self.decoder(hidden)), self.variance)

        shapes = hidden.shape[:-1], self.decoder.image_shape
        return GaussianImage(pixel, *shapes, self.variance) if self.likelihood == "gaussian" else Image(pixel, *shapes)

    def extra_repr(self) -> str:
        return f"likelihood={self.likelihood}, variance={self.variance:g}"


class DataImages(nn.Module):
    """p_D(x): zero log-density everywhere, and nothing to draw from."""

    def __init__(self, image_shape: tuple[int, int, int]):
        super().__init__()
        self.image_shape = image_shape

    def forward(self) -> dist.Distribution:
        return DataDistribution(constraints.independent(constraints.real, 3), (), self.image_shape)


class DataDistribution(dist.ImproperUniform):
    """An improper uniform that says why it can't be sampled."""

    def expand(self, batch_shape, _instance=None):
        return DataDistribution(self.support, torch.Size(batch_shape), self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return value.new_zeros(()).expand(super().log_prob(value).shape)

    def sample(self, sample_shape=torch.Size()):
        raise InputError("p_D(x) can't be sampled: this model takes its images from the data; give it x")


class DataClasses(nn.Module):
    """p_D(y): a categorical distribution with the class frequencies of the training images."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.register_buffer("frequencies", torch.full((num_classes,), 1 / num_classes))

    def forward(self) -> dist.Distribution:
        return dist.Categorical(probs=self.frequencies)


# Networks: from the values of the parents to the parameters of a distribution. They compute in the precision of
# their weights, which may be lower than that of values and log-probabilities.


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


def precise(parameters: Tensor) -> Tensor:
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
        height, width = halvings(image_shape)[-1]
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
        self.image_shape, sizes = tuple(image_shape), halvings(image_shape)[::-1]
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


def halvings(image_shape: tuple[int, int, int]) -> list[tuple[int, int]]:
    """Heights and widths of an image before and after each of the three stride-2 convolutions."""
    sizes = [tuple(image_shape[1:])]
    for _ in range(3):
        sizes.append(tuple((n + 1) // 2 for n in sizes[-1]))
    return sizes


# Distributions that are cheaper under plates: what is the same for all particles or classes is computed once.


class DiagonalNormal(dist.Independent):
    """Normal(loc, diag(exp(log_scale)^2)) as one event; its log-density takes four passes instead of eight.

    Args:
        loc, log_scale: [..., latent].
    """

    def __init__(self, loc: Tensor, log_scale: Tensor):
        self.loc, self.log_scale = loc, log_scale
        super().__init__(dist.Normal(loc, log_scale.exp()), 1, validate_args=False)

    def expand(self, batch_shape, _instance=None):
        new = copy.copy(self)
        new.base_dist = self.base_dist.expand(torch.Size(batch_shape) + self.event_shape)
        new._batch_shape = torch.Size(batch_shape)
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        squares = ((value - self.loc) * (-self.log_scale).exp()).square().sum(-1)
        log_prob = -0.5 * (squares + self.event_shape[0] * math.log(2 * math.pi)) - self.log_scale.sum(-1)
        return log_prob.expand(torch.broadcast_shapes(log_prob.shape, self.batch_shape))


class Image(dist.TorchDistribution):
    """An image whose pixels are independent, each with a distribution of its own, as one event.

    The log-density is computed before it is expanded over plates: what is the same for all classes, once.

    Args:
        pixel: gives the distributions of the pixels, [..., channels, height, width]. It is called when they are
            needed: who asks for the density of another site alone has nothing decoded.
    """

    arg_constraints = {}

    def __init__(self, pixel: Callable[[], dist.Distribution], batch_shape, event_shape):
        self._pixel = cache(pixel)
        super().__init__(torch.Size(batch_shape), torch.Size(event_shape), validate_args=False)

    @property
    def pixel(self) -> dist.Distribution:
        """The distributions of the pixels."""
        return self._pixel()

    def expand(self, batch_shape, _instance=None):
        new = copy.copy(self)
        new._batch_shape = torch.Size(batch_shape)
        return new

    @property
    def support(self):
        return constraints.independent(self.pixel.support, 3)

    @property
    def mean(self) -> Tensor:
        return self.pixel.mean.expand(self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Tensor:
        return self.pixel.variance.expand(self.batch_shape + self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        log_prob = self.log_density(value)
        return log_prob.expand(torch.broadcast_shapes(log_prob.shape, self.batch_shape))

    def log_density(self, value: Tensor) -> Tensor:
        """The log-density, not yet expanded."""
        return self.pixel.log_prob(value).sum((-3, -2, -1))

    def sample(self, sample_shape=torch.Size()):
        return self.pixel.expand(self.batch_shape + self.event_shape).sample(sample_shape)


class GaussianImage(Image):
    """Normal pixels, all with the same `variance`: its log-density takes three passes over them instead of seven."""

    def __init__(self, pixel: Callable[[], dist.Distribution], batch_shape, event_shape, variance: float):
        self.pixel_variance = variance
        super().__init__(pixel, batch_shape, event_shape)

    def log_density(self, value: Tensor) -> Tensor:
        squares = (value - self.pixel.loc).square().sum((-3, -2, -1))
        return -0.5 * (
            squares / self.pixel_variance + math.prod(self.event_shape) * math.log(2 * math.pi * self.pixel_variance)
        )


def pixels(likelihood: str, logits: Tensor, variance: float) -> dist.Distribution:
    """Independent pixels around sigmoid(logits); `likelihood` is one of :data:`pyrobayes.options.LIKELIHOODS`.

    Of all but the Bernoulli, sigmoid(logits) is the mean and `variance` the variance; of the discretized logistic
    they are the logistic's, before the mass beyond 0 and 1 goes to the first and the last grey value.
    """
    if likelihood == "bernoulli":
        return PixelBernoulli(logits=logits)
    mean = torch.sigmoid(logits)
    if likelihood == "gaussian":
        return dist.Normal(mean, like(mean, math.sqrt(variance)))
    if likelihood == "laplace":
        return dist.Laplace(mean, like(mean, math.sqrt(variance / 2)))
    if likelihood == "discretized-logistic":
        return DiscretizedLogistic(mean, like(mean, math.sqrt(3 * variance) / math.pi))
    raise InputError(f"unknown likelihood '{likelihood}'")


def like(tensor: Tensor, number: float) -> Tensor:
    """A number on the device of a tensor, made there: a copy from the host would wait for the device."""
    return tensor.new_full((), number)


class PixelBernoulli(dist.Bernoulli):
    """A Bernoulli whose log-probability is read at intensities in [0, 1] too.

    log p = x log(mean) + (1 - x) log(1 - mean), the usual binary cross-entropy; for intensities between 0
    and 1 it is not normalized (Loaiza-Ganem and Cunningham 2019).
    """

    support = constraints.unit_interval

    def expand(self, batch_shape, _instance=None):
        return super().expand(batch_shape, self._get_checked_instance(PixelBernoulli, _instance))

    def log_prob(self, value: Tensor) -> Tensor:
        return -F.binary_cross_entropy_with_logits(*torch.broadcast_tensors(self.logits, value), reduction="none")


class DiscretizedLogistic(dist.TorchDistribution):
    """Probability of one of 256 equally spaced grey values in [0, 1] under a logistic distribution.

    Kingma et al. (2016), section 5.1: the mass of the logistic in the bin of width 1/255 around the value;
    the first and the last bin reach to infinity. `loc` [...] and `scale` [...] are the logistic's.
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}
    support = constraints.unit_interval
    levels = 256

    def __init__(self, loc: Tensor, scale: Tensor, validate_args=None):
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, batch_shape, _instance=None):
        new = self._get_checked_instance(DiscretizedLogistic, _instance)
        new.loc, new.scale = self.loc.expand(batch_shape), self.scale.expand(batch_shape)
        super(DiscretizedLogistic, new).__init__(torch.Size(batch_shape), validate_args=False)
        return new

    @property
    def mean(self) -> Tensor:
        """The mean of the logistic, before the mass beyond 0 and 1 goes to the first and the last grey value."""
        return self.loc

    def log_prob(self, value: Tensor) -> Tensor:
        half = 0.5 / (self.levels - 1)
        upper, lower = (value + half - self.loc) / self.scale, (value - half - self.loc) / self.scale
        # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)), where a - b = 2 half / scale.
        width = torch.log(-torch.expm1(-2 * half / self.scale))
        below, above = F.logsigmoid(upper), F.logsigmoid(-lower)
        inside = below + above + width
        return torch.where(value < half, below, torch.where(value > 1 - half, above, inside))

    def rsample(self, sample_shape=torch.Size()):
        shape = self._extended_shape(sample_shape)
        uniform = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device).clamp(1e-7, 1 - 1e-7)
        continuous = self.loc + self.scale * torch.logit(uniform)
        return (continuous.clamp(0, 1) * (self.levels - 1)).round() / (self.levels - 1)

    sample = rsample
