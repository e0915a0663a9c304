"""Copies of a factorization that classify faster: in lower precision, and in code that torch.compile generates."""

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from pyrobayes.errors import InputError
from pyrobayes.factorizations.networks import Decoder, Perceptron, WithGradient
from pyrobayes.factorizations.own_networks import OwnNetwork
from pyrobayes.inference.winograd import Winograd
from pyrobayes.options import ClassifierOptions

# The compiler may take the weights for constants, and on a CPU tries its own matrix products against the libraries',
# silently. On an H100 the trials took two minutes, wrote pages of errors, and gained little.
INDUCTOR = {"freezing": True}
TRIALS = {
    "max_autotune": True,
    "max_autotune_gemm_backends": "CPP,TRITON,ATEN",
    "autotune_num_choices_displayed": 0,
    "max_autotune_report_choices_stats": False,
}


class Networks:
    """A factorization, and its copies that compute faster, each made anew when the weights have changed."""

    def __init__(self, factorization: nn.Module):
        self.factorization = factorization
        self._copies: dict = {}

    def of(self, options: ClassifierOptions) -> nn.Module:
        """The factorization, or its copy for these options, whose densities stay in float32 at least."""
        if options.precision == "fp32" and not options.compile:
            return self.factorization
        kind = options.precision, options.compile
        state = [(value.data_ptr(), value._version) for value in self.factorization.state_dict().values()]
        if kind not in self._copies or self._copies[kind][0] != state:
            faster = copy.deepcopy(self.factorization).requires_grad_(False)
            for module, original in [*zip(faster.modules(), self.factorization.modules())]:
                if options.precision == "bf16" and isinstance(module, (Perceptron, Decoder)):
                    module.bfloat16()
                if isinstance(module, OwnNetwork):  # in full precision, as it was written for
                    module.network = copy.deepcopy(original.network).requires_grad_(False)
                if options.compile and isinstance(module, Decoder):
                    generate_code(module)
            self._copies[kind] = state, faster
        return self._copies[kind][1]


def generate_code(decoder: Decoder) -> None:
    """Let generated code compute a decoder's whole tiles and their gradients, with the weights as they are.

    The code is generated at once, which takes up to half a minute; :class:`InputError` if the compiler doesn't work.
    """
    generated = compiled_tile(decoder)
    decoder.generated = generated, decoder.tile
    zeros = decoder.linear.weight.new_zeros(decoder.tile, decoder.linear.in_features).requires_grad_()
    try:
        with torch.inference_mode(False), torch.enable_grad():
            generated(zeros).sum().backward()
        with torch.no_grad():
            generated(zeros.detach())
    except Exception as error:  # the compiler raises many kinds
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            "compile needs a C++ compiler that works (CXX names one; on a GPU, Triton): mend that or leave "
            f"compile out; torch.compile says: {reason}"
        ) from error


def compiled_tile(decoder: Decoder) -> Callable[[Tensor], Tensor]:
    """Decodes a whole tile [N, hidden] in generated code; the compiler runs at the first call."""
    on_cpu = decoder.linear.weight.device.type == "cpu"
    fused = [Winograd(layer) if on_cpu and not layer.block() else None for layer in decoder.convolutions]

    def layers(hidden: Tensor) -> list[Tensor]:
        convolutions = [winograd or layer.prepared() for winograd, layer in zip(fused, decoder.convolutions)]
        return decoder.layers(convolutions, hidden)

    known = torch._inductor.list_options()  # an older torch lacks some
    options = {name: value for name, value in (INDUCTOR | (TRIALS if on_cpu else {})).items() if name in known}
    compiled = partial(torch.compile, fullgraph=True, dynamic=False, options=options)
    compiled_backward = compiled(decoder.backward)

    def backward(gradient: Tensor, *inputs: Tensor) -> Tensor:  # the gradient may have a gradient of its own
        return (decoder.backward if torch.is_grad_enabled() else compiled_backward)(gradient, *inputs)

    with_gradient = partial(WithGradient.apply, compiled(layers), backward)
    without = compiled(lambda hidden: layers(hidden)[-1])  # keeps nothing, and fuses more

    def generated(hidden: Tensor) -> Tensor:
        return (with_gradient if torch.is_grad_enabled() and hidden.requires_grad else without)(hidden)

    return generated
