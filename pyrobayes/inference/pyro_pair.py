"""A plain pair of Pyro functions as a classifier: a model and a guide that know nothing of this package."""

from collections.abc import Callable
from functools import cached_property

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from pyrobayes.errors import InputError, check_integer, in_one_line
from pyrobayes.factorizations import DeepBayes, Structure
from pyrobayes.factorizations.distributions import is_normal
from pyrobayes.factorizations.structure import random_sites
from pyrobayes.inference import importance
from pyrobayes.inference.classifier import BayesClassifier
from pyrobayes.inference.modules import depends_on_mode, evaluating, warn
from pyrobayes.randomness import seeded

SAME = {"rtol": 1e-3, "atol": 1e-3}  # log weights of the two ways to run a pair, in nats


def from_pyro(
    model: Callable,
    guide: Callable,
    num_classes: int,
    *,
    image_shape: tuple[int, int, int] = (1, 28, 28),
    name: str | None = None,
    **options,
) -> BayesClassifier:
    """The Bayes classifier of a pair of Pyro functions.

    `model(x, y)` and `guide(x, y)` take images [B, channels, height, width] and classes [B]. The model has sites `x` and `y`,
    observed, and any latent sites, which the guide draws; each is drawn for every image. Where their code broadcasts over
    plates of particles and classes, it runs once for all: a trial compares both ways. Otherwise each particle and class
    of an image becomes a row of a larger batch.

    Latent sites that aren't normal are drawn by calls: reproducibly, but their noise can't be bound to an image.

    Args:
        model, guide: functions, nn.Modules, or methods of one. Their weights are those of the modules and of Pyro's
            parameter store.
        num_classes: C.
        image_shape: (channels, height, width).
        name: in results; the function's or the class's where left out.
        options: those of :class:`pyrobayes.BayesClassifier`, such as `particles`.

    Raises:
        InputError: the pair lacks a site, or a site isn't drawn for each image.
    """
    return BayesClassifier(PyroPair(model, guide, num_classes, image_shape, name), **options)


class PyroPair(DeepBayes):
    """The joint density that a pair of Pyro functions states; its structure is read from the running model."""

    capturable = False  # any code may depend on anything

    def __init__(
        self, model: Callable, guide: Callable, num_classes: int, image_shape: tuple[int, int, int], name: str | None
    ):
        nn.Module.__init__(self)
        for argument, function in (("model", model), ("guide", guide)):
            if not callable(function):
                raise InputError(f"{argument} must be a Pyro function of (x, y), got {function!r:.80}")
        check_integer("num_classes", num_classes, least=2)
        self.num_classes, self.image_shape = num_classes, tuple(image_shape)
        owner = getattr(model, "__self__", model)
        self.name = name or (type(owner).__name__ if isinstance(owner, nn.Module) else model.__name__)
        self._pair = model, guide
        owners = (getattr(function, "__self__", function) for function in self._pair)
        self.owners = nn.ModuleList(dict.fromkeys(each for each in owners if isinstance(each, nn.Module)))
        self.owners.training = any(each.training for each in self.owners)
        if depends_on_mode(self.owners):
            warn(f"{self.name}: it was in train mode, and is evaluated in eval mode")
        self._try()

    def model(self, x: Tensor | None = None, y: Tensor | None = None) -> object:
        """The user's model, in eval mode."""
        with evaluating(self.owners):
            return self._pair[0](x, y)

    def guide(self, x: Tensor, y: Tensor) -> object:
        """The user's guide, in eval mode."""
        with evaluating(self.owners):
            return self._pair[1](x, y)

    def formula(self) -> str:
        """The joint density, as the running model states it."""
        return f"p({', '.join(('x', *self.structure.latent, 'y'))}) = {self.structure}"

    @cached_property
    def structure(self) -> Structure:
        """The variables and their parents, read from the running model."""
        return Structure.of_model(self)

    @property
    def placement(self) -> dict:
        """The device of the weights, and the precision of images: that of the weights, but float32 at least."""
        weights = next((each for each in self.state_dict().values() if each.is_floating_point()), torch.zeros(()))
        return {"device": weights.device, "dtype": torch.promote_types(weights.dtype, torch.float32)}

    def state_dict(self, *given, **options) -> dict[str, Tensor]:
        """The weights of the modules, and those of Pyro's parameter store that the pair uses."""
        store = pyro.get_param_store()
        stored = {name: store[name] for name in getattr(self, "stored", ()) if name in store}
        return {**super().state_dict(*given, **options), **{name: each.detach() for name, each in stored.items()}}

    def _try(self) -> None:
        """Run the pair on two images of noise: refuse what can't be used, and see in which way it runs."""
        self.in_rows = True
        with seeded(0, self.placement["device"]), torch.no_grad(), pyro.validation_enabled(False):
            x = torch.rand(2, *self.image_shape).to(**self.placement)
            rows, y = x.repeat(2, 1, 1, 1), torch.arange(4, device=x.device) % self.num_classes
            guide, model = self._traced(rows, y)
            sites = self._checked(guide, model, len(rows))
            self.draws_by_calls = any(not is_normal(site["fn"]) for site in sites.values())
            normal = [site["fn"].event_shape.numel() for site in sites.values() if is_normal(site["fn"])]
            self.latent = sum(normal)
            self.stored = [name for trace in (guide, model) for name in trace.param_nodes]
            self.in_rows = self.draws_by_calls or not self._broadcasts(x)
        _ = self.structure

    def _traced(self, x: Tensor, y: Tensor) -> tuple[poutine.Trace, poutine.Trace]:
        try:
            guide = poutine.trace(self.guide).get_trace(x, y)
            return guide, poutine.trace(poutine.replay(self.model, trace=guide)).get_trace(x, y)
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"{self.name} doesn't run on images {list(x.shape)} and classes [{len(y)}]: {in_one_line(error)}; "
                f"images are of the shape {self.image_shape} unless image_shape=... says "
                "another (channels, height, width)"
            ) from error

    def _checked(self, guide: poutine.Trace, model: poutine.Trace, images: int) -> dict[str, dict]:
        """The guide's sites; :class:`InputError` for a pair that is no classifier of images."""
        proposed, sites = random_sites(guide), random_sites(model)
        for name in ("x", "y"):
            if name not in sites or not sites[name]["is_observed"]:
                raise InputError(
                    f"{self.name} must have an observed site '{name}', pyro.sample('{name}', ..., obs={name}); its sites are "
                    f"{', '.join(sites)}. A network without p(x|...) needs none of this: hand it over as a module"
                )
        if (latent := sites.keys() - {"x", "y"}) != proposed.keys():
            raise InputError(
                f"the guide of {self.name} must draw the latent sites ({', '.join(sorted(latent)) or 'none'}), but it draws "
                f"{', '.join(proposed) or 'none'}"
            )
        for name, site in (*sites.items(), *proposed.items()):
            if site["fn"].log_prob(site["value"]).shape != (images,) or site["scale"] != 1:
                raise InputError(
                    f"the site '{name}' of {self.name} must be drawn once for each image, in a plate of all of them: its "
                    f"log-probabilities of {images} images are {list(site['fn'].log_prob(site['value']).shape)}"
                    f"{'' if site['scale'] == 1 else ', scaled by a subsample'}; to_event(n) takes in n other dimensions"
                )
        return proposed

    def _broadcasts(self, x: Tensor) -> bool:
        """True where plates of particles and classes give the log weights that rows give."""
        noise = torch.randn(3, 1, len(x), self.latent).to(x)
        by_rows = self._log_weights(x, noise)
        try:
            self.in_rows = False
            by_plates = self._log_weights(x, noise)
        except Exception:  # any, of the user's code
            return False
        return torch.allclose(by_rows, by_plates, **SAME)

    def _log_weights(self, x: Tensor, noise: Tensor) -> Tensor:
        found = importance.per_class(self, x, noise)
        if found.shape != (len(noise), self.num_classes, len(x)):
            raise ValueError(f"log weights of shape {list(found.shape)}")
        return found
