"""Networks of the user's own, in place of the encoder of images or of the decoder."""

import copy
from collections.abc import Sequence

import torch
from pyro.ops.provenance import extract_provenance, track_provenance
from torch import Tensor, nn

from pyrobayes.errors import InputError

EXPECTED = {
    "encoder": "take images {given} and give features [B, F] (nn.Flatten() at the end makes them)",
    "decoder": "take hidden vectors {given} and give logits of the mean of the pixels, {result}",
}


class OwnNetwork(nn.Module):
    """A copy of a user's network. It sees one batch, without plates, in the precision of its own weights.

    Args:
        role: `encoder` or `decoder`.
        network: takes a batch of inputs of the shape `given`. An encoder gives features [B, F], a decoder logits of the
            shape `result`.
        given: (channels, height, width) of images, or (hidden,).
        result: (channels, height, width) that a decoder must give.

    Raises:
        InputError: two inputs of zeros give something else.
    """

    def __init__(self, role: str, network: nn.Module, given: Sequence[int], result: Sequence[int] | None = None):
        super().__init__()
        if not isinstance(network, nn.Module):
            raise InputError(f"{role} must be a torch.nn.Module, got {type(network).__name__}")
        self.role, self.given = role, tuple(given)
        self.network = copy.deepcopy(network).to("cpu", torch.float32).eval()
        self.result = self._tried(result and tuple(result))

    def _tried(self, result: tuple[int, ...] | None) -> tuple[int, ...]:
        """The shape of what the network gives for one input."""
        shapes = {"given": ["B", *self.given], "result": ["B", *(result or ())]}
        must = EXPECTED[self.role].format(**{name: str(shape).replace("'", "") for name, shape in shapes.items()})
        told = f"the {self.role} {type(self.network).__name__} must {must}"
        with torch.inference_mode(False), torch.no_grad():
            zeros = torch.zeros(2, *self.given)
            try:
                out = self.network(zeros)
            except Exception as error:
                raise InputError(f"{told}; for two of zeros it fails: {error}") from error
            if not isinstance(out, Tensor) or not out.is_floating_point():
                raise InputError(f"{told}; for two of zeros it gives {getattr(out, 'dtype', type(out).__name__)}")
            fits = out.dim() == 2 if result is None else tuple(out.shape[1:]) == result
            if len(out) != 2 or not out.numel() or not fits:
                raise InputError(f"{told}; for two of zeros it gives {list(out.shape)}")
            if not out.isfinite().all():
                raise InputError(f"{told}; for two of zeros it gives infinite values or NaN")
            if zeros._version:
                raise InputError(f"{told}; it changes its input in place, which other networks see too: copy it first")
        return tuple(out.shape[1:])

    @property
    def out_features(self) -> int:
        """F of an encoder."""
        return self.result[0]

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(channels, height, width) of a decoder's images."""
        return self.result

    def forward(self, value: Tensor) -> Tensor:
        leading = value.shape[: -len(self.given)]
        weights = (each for each in self.network.parameters() if each.is_floating_point())
        value, parents = extract_provenance(value)  # whatever the network does, its output depends on its input
        batch = value.reshape(-1, *self.given).to(next(weights, value).dtype)
        return track_provenance(self.network(batch).unflatten(0, leading), parents)


def names_of(factorization: nn.Module) -> dict[str, str]:
    """The class of the user's encoder and of the decoder, where a factorization has them: `{"encoder": "ResNet"}`."""
    own = (module for module in factorization.modules() if isinstance(module, OwnNetwork))
    return {each.role: type(each.network).__name__ for each in own}
