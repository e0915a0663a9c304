"""How the library tells whoever called it how far it is; it never prints."""


class Progress:
    """Receives what happens. The methods do nothing here; override those of interest."""

    def step(self, model: str, done: int, steps: int, elbo: float) -> None:
        """A training step was taken: `done` of all `steps`, with this ELBO in nats per image."""

    def epoch(self, model: str, epoch, epochs: int) -> None:
        """An epoch of `epochs` ended; `epoch` is a :class:`pyrobayes.training.Epoch`."""

    def images(self, model: str, done: int, images: int) -> None:
        """`done` of all `images` have been evaluated or attacked."""


silent = Progress()
