"""What pyrobayes is measured against: the same mathematics in plain PyTorch, as published programs write it.

No Pyro, a loop over the classes, images in the contiguous layout, transposed convolutions as such. The weights
are those of the factorization it is compared with.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from pyrobayes.factorizations import DeepBayes
from pyrobayes.factorizations.networks import ImageFeatures


def features(encoder: ImageFeatures, x: Tensor) -> Tensor:
    """[B, channels, height, width] -> [B, hidden]."""
    for layer in encoder.convolutions:
        x = F.relu(F.conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding))
    return F.relu(F.linear(x.flatten(1), encoder.linear.weight, encoder.linear.bias))


def perceptron(network, *inputs: Tensor) -> Tensor:
    """Encoded inputs [N, ...] each -> [N, out]."""
    out = torch.cat(inputs, dim=1)
    for layer in network.layers[:-1]:
        out = F.relu(F.linear(out, layer.weight, layer.bias))
    return F.linear(out, network.layers[-1].weight, network.layers[-1].bias)


def decode(decoder, hidden: Tensor) -> Tensor:
    """[N, hidden] -> the mean of the pixels [N, channels, height, width]."""
    out = F.relu(F.linear(hidden, decoder.linear.weight, decoder.linear.bias)).unflatten(1, decoder.smallest)
    for layer in decoder.convolutions:
        out = F.conv_transpose2d(out, layer.weight, layer.bias, layer.stride, layer.padding, layer.output_padding)
        out = F.relu(out) if layer is not decoder.convolutions[-1] else torch.sigmoid(out)
    return out


def log_normal(value: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
    """[N, latent] -> [N] nats."""
    return (-0.5 * ((value - loc) / log_scale.exp()) ** 2 - log_scale - 0.5 * math.log(2 * math.pi)).sum(1)


class Reference:
    """The ELBO and the importance-sampled log p(x, y) of one of the seven, with Gaussian pixels."""

    def __init__(self, factorization: DeepBayes):
        self.factorization = factorization
        self.parents = factorization.structure.parents
        self.conditionals = {child: getattr(factorization, f"p_{child}") for child in self.parents}

    def encode(self, x: Tensor) -> dict[str, Tensor]:
        """What depends on x alone, [B, hidden] each."""
        return {
            name: features(encoder, x)
            for name, encoder in self.factorization.named_modules()
            if isinstance(encoder, ImageFeatures)
        }

    def log_weights(self, x: Tensor, encoded: dict[str, Tensor], y: Tensor, noise: Tensor) -> Tensor:
        """log p(x, z, y) - log q(z|x, y), [K, B] nats: images [B, ...], classes [B], noise [K, B, latent]."""
        particles, images = noise.shape[:2]
        onehot = F.one_hot(y, self.factorization.num_classes).to(x)
        q = perceptron(self.factorization.q_z.network, encoded["q_z.network.encoders.0"], onehot)
        loc, log_scale = q.repeat(particles, 1).chunk(2, dim=1)
        z = loc + log_scale.exp() * noise.flatten(0, 1)
        total = -log_normal(z, loc, log_scale)
        values = {"x": x.repeat(particles, 1, 1, 1), "y": onehot.repeat(particles, 1), "z": z}
        for child, parents in self.parents.items():
            conditional = self.conditionals[child]
            inputs = [
                encoded[f"p_{child}.network.encoders.{i}"].repeat(particles, 1) if parent == "x" else values[parent]
                for i, parent in enumerate(parents)
            ]
            if child == "x" and parents:
                mean = decode(conditional.decoder, F.relu(perceptron(conditional.network, *inputs)))
                variance = conditional.variance
                error = ((values["x"] - mean) ** 2).flatten(1).sum(1)
                total = total - error / (2 * variance) - mean[0].numel() * 0.5 * math.log(2 * math.pi * variance)
            elif child == "y" and parents:
                total = total + (perceptron(conditional.network, *inputs).log_softmax(1) * values["y"]).sum(1)
            elif child == "y":
                total = total + conditional.frequencies.log()[y].repeat(particles)
            elif child == "z":
                given = perceptron(conditional.network, *inputs).chunk(2, dim=1) if parents else (0 * z, 0 * z)
                total = total + log_normal(z, *given)
        return total.unflatten(0, (particles, images))

    def log_joint(self, x: Tensor, noise: Tensor) -> Tensor:
        """log p(x, y), [B, C] nats, with base noise [K, 1, B, latent] that all classes share."""
        encoded, columns = self.encode(x), []
        for c in range(self.factorization.num_classes):
            weights = self.log_weights(x, encoded, x.new_full((len(x),), c, dtype=torch.long), noise[:, 0])
            columns.append(weights.logsumexp(0) - math.log(len(noise)))
        return torch.stack(columns, dim=1)

    def attack(self, x: Tensor, y: Tensor, eps, attacker: Tensor, defender: Tensor) -> tuple[Tensor, Tensor]:
        """FGSM as published programs run it, everything anew for each eps: predictions clean and attacked, [E, B]."""
        clean, attacked = [], []
        for bound in eps:
            leaf = x.clone().requires_grad_()
            loss = F.cross_entropy(self.log_joint(leaf, attacker), y, reduction="sum")
            direction = torch.autograd.grad(loss, leaf)[0].sign()
            with torch.no_grad():
                clean.append(self.log_joint(x, defender).argmax(1))
                attacked.append(self.log_joint((x + bound * direction).clamp(0, 1), defender).argmax(1))
        return torch.stack(clean), torch.stack(attacked)


def elbo(factorization: DeepBayes, x: Tensor, y: Tensor) -> Tensor:
    """The ELBO of a batch in nats per image, by hand, with the factorization's own networks and no Pyro."""

    def inputs_of(conditional, parents):
        return conditional.network(*(values[parent] for parent in parents))

    values = {"x": x, "y": y}
    loc, log_scale = factorization.q_z.network(x, y).chunk(2, dim=1)
    values["z"] = loc + log_scale.exp() * torch.randn_like(loc)
    total = -log_normal(values["z"], loc, log_scale)
    for child, parents in factorization.structure.parents.items():
        conditional = getattr(factorization, f"p_{child}")
        if child == "x" and parents:
            mean = torch.sigmoid(conditional.decoder(F.relu(inputs_of(conditional, parents))))
            error = (x - mean).square().sum((1, 2, 3))
            total = total - error / (2 * conditional.variance)
            total = total - mean[0].numel() * 0.5 * math.log(2 * math.pi * conditional.variance)
        elif child == "y" and parents:
            total = total - F.cross_entropy(inputs_of(conditional, parents), y, reduction="none")
        elif child == "y":
            total = total + conditional.frequencies.log()[y]
        elif child == "z" and parents:
            total = total + log_normal(values["z"], *inputs_of(conditional, parents).chunk(2, dim=1))
        elif child == "z":
            total = total - 0.5 * (values["z"].square() + math.log(2 * math.pi)).sum(1)
    return total.mean()
