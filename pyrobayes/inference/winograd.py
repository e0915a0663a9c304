"""Transposed convolutions by Winograd's algorithm, for generated code on a CPU."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyrobayes.factorizations.networks import Upsampling

# Where the polynomials of Winograd's algorithm are evaluated, infinity besides: of some symmetric choices the one whose
# results in float32 were the most precise.
POINTS = (0.0, 0.6, -0.6, 1.5, -1.5)


class Winograd(nn.Module):
    """An :class:`Upsampling` layer by Winograd's algorithm F(4x4, 3x3) (Lavin and Gray 2016), with the weight that it has now.

    Blocks of 2x2 outputs are a 3x3 convolution. A tile of 4x4 blocks takes 36 products of matrices, where the transposed
    convolution takes 100. The transforms before and after must be fused: else they cost what is gained.
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
