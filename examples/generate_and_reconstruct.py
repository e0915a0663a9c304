"""Show what a generative model has learnt: images drawn from p(x|y), and test images beside their reconstructions.

Takes half a minute on two CPU cores. Writes samples.png and reconstructions.png into the working directory.
"""

import sys

import torch

import pyrobayes

per_class = 2 if "--quick" in sys.argv else 8
test = pyrobayes.load_data("fashion-mnist-mini", "test")
classifier = pyrobayes.pretrained("gfz", device="cpu")

# The mean of p(x|z, y) at z drawn from p(z|y), [per_class, classes, 1, 28, 28].
samples = pyrobayes.generate(classifier.factorization, per_class, seed=0)
title = "GFZ: mean of p(x|z, y) at z drawn from p(z|y)"
pyrobayes.results.figures.save(pyrobayes.results.figures.image_grid(samples, test.classes, title), "samples")

# The mean of p(x|z, y) at z drawn from q(z|x, y), for the true class y.
first = torch.stack([torch.nonzero(test.labels == c)[0, 0] for c in range(len(test.classes))])
x, y = test.batch(first)
reconstructed = pyrobayes.reconstruct(classifier.factorization, x, y, seed=0)
figure = pyrobayes.results.figures.reconstructions(x, reconstructed, test.classes, "GFZ: test images")
pyrobayes.results.figures.save(figure, "reconstructions")

# A drawn image should be taken for one of its own class, by the model that drew it.
for name, drawn in zip(test.classes, samples.transpose(0, 1)):
    predicted = classifier(drawn).argmax(1)
    own = (predicted == test.classes.index(name)).float().mean()
    print(f"{name:12} {own:4.0%} of {len(drawn)} drawn images are classified as what they were drawn as")
for name, image, again in zip(test.classes, x, reconstructed):
    print(f"{name:12} mean squared error of the reconstruction {(image - again).square().mean():.4f}")
