"""Images drawn from p(x|y), and reconstructions."""

import matplotlib
import pytest
import torch
from linear_gaussian import VARIANCE

from pyrobayes import InputError, generate, reconstruct
from pyrobayes.results import figures


def test_samples_follow_p_of_x_given_y_where_it_is_known(make):
    factorization = make("linear-gaussian")
    images = generate(factorization, 400)
    expected = factorization.p_z.means @ factorization.p_x.a.T + factorization.p_x.b
    assert images.shape == (400, 10, 1, 7, 7)
    torch.testing.assert_close(images.mean(0).flatten(1), expected, atol=0.1, rtol=0)


def test_latent_vectors_are_drawn_given_the_class(make):
    # p(z) p(y|z): make z's first coordinate decide between class 0 and the others, and the images show it.
    factorization = make("gbz")
    with torch.no_grad():
        for parameter in factorization.p_y.parameters():
            parameter.zero_()
        first, *_, last = factorization.p_y.network.layers
        first.weight[0, 0] = 1.0
        for layer in factorization.p_y.network.layers[1:-1]:
            layer.weight[0, 0] = 1.0
        last.weight[0, 0], last.bias[0] = 50.0, -10.0  # class 0 where z[0] is above 0.2
    values = []

    def spy(module, inputs):
        values.append(inputs[0])

    hook = factorization.p_x.register_forward_pre_hook(spy)
    images = generate(factorization, 20)
    hook.remove()
    values = values[-20:]  # what came before was a look at the graph
    decoded = [factorization.p_x(z).mean[:, 0] for z in values]  # of class 0, each [candidates, ...]
    picked = [(of == image).flatten(1).all(1).nonzero()[0, 0] for of, image in zip(decoded, images[:, 0])]
    assert all(z[i, 0, 0] > 0 for z, i in zip(values, picked))


def test_samples_are_reproducible_and_images(name, make):
    factorization = make(name)
    if not factorization.structure.models_images:
        with pytest.raises(InputError, match=f"{name} can't generate images: in p.*take a model with p"):
            generate(factorization)
        return
    images = generate(factorization, 3, seed=1)
    assert images.shape == (3, 10, 1, 7, 7)
    if name != "linear-gaussian":
        assert images.min() >= 0 and images.max() <= 1
    assert torch.equal(images, generate(factorization, 3, seed=1))
    assert not torch.equal(images, generate(factorization, 3, seed=2))


def test_reconstructions_of_a_linear_model_are_known(make, batch):
    factorization = make("linear-gaussian")
    factorization.q_z.wider = 1e-6
    x, y = batch
    loc = factorization.q_z(x, y).mean
    expected = loc @ factorization.p_x.a.T + factorization.p_x.b
    torch.testing.assert_close(reconstruct(factorization, x, y).flatten(1), expected, atol=1e-4, rtol=0)
    assert VARIANCE < 1


def test_figures_leave_matplotlib_as_it_was(make, tmp_path):
    before = dict(matplotlib.rcParams)
    for name in ("gfz", "dfx"):
        paths = figures.save(figures.graphical_model(make(name)), tmp_path / name)
        assert [path.suffix for path in paths] == [".pdf", ".png"] and all(path.exists() for path in paths)
    figures.save(figures.image_grid(torch.rand(2, 3, 3, 8, 8), ["a", "b", "c"], "colour"), tmp_path / "grid")
    assert dict(matplotlib.rcParams) == before


def test_the_same_figure_has_the_same_bytes(make, tmp_path):
    for i in (1, 2):
        figures.save(figures.graphical_model(make("gbz")), tmp_path / f"{i}")
    assert (tmp_path / "1.pdf").read_bytes() == (tmp_path / "2.pdf").read_bytes()
    assert (tmp_path / "1.png").read_bytes() == (tmp_path / "2.png").read_bytes()
