"""How many particles are enough? Accuracy, changed predictions, effective sample size, bias and Pareto k against their number K.

With --pretrained it measures GFZ, GBZ and DFX as they come with the package, in four minutes. Without, it trains a GBZ on the embedded
images and measures that, in one minute. With --quick it takes some seconds, with tiny networks, few images and fewer K. Writes
particles.json, and draws particles.pdf and particles.png.
"""

import json
import sys
from pathlib import Path

import pyrobayes
from pyrobayes.codec import encode
from pyrobayes.evaluation import particles
from pyrobayes.results import figures

quick, pretrained = (option in sys.argv for option in ("--quick", "--pretrained"))
test = pyrobayes.load_data("fashion-mnist" if pretrained else "fashion-mnist-mini", "test").head(10 if quick else 500)
if pretrained:
    models = [pyrobayes.pretrained(name, device="cpu").factorization for name in ("gfz", "gbz", "dfx")]
else:
    gbz = pyrobayes.build("gbz", networks="tiny" if quick else "small")
    training = pyrobayes.load_data("fashion-mnist-mini").head(500 if quick else None)
    pyrobayes.fit(gbz, training, pyrobayes.TrainingOptions(epochs=1 if quick else 6, batch_size=32))
    models = [gbz.eval()]

classifiers = [pyrobayes.BayesClassifier(model) for model in models]
classifiers += [pyrobayes.BayesClassifier(model, estimator="mixture") for model in models if model.name == "gbz"]
found = []
for classifier in classifiers:
    for effect in particles.effects(classifier, test, particles.COUNTS[:6] if quick else particles.COUNTS):
        found.append(effect)
        print(
            f"{effect.model.upper()}, {effect.estimator}, K = {effect.particles}: {effect.accuracy.percent()}% correct, "
            f"{effect.flipped_by_resampling.percent()}% changed by another draw, effective sample size "
            f"{effect.effective_sample_size.value:.1f} of {effect.serving}",
            f"Pareto k {effect.pareto_k[1]:.2f}" if effect.pareto_k else "too few for Pareto k",
            sep=", ",
        )
Path("particles.json").write_text(json.dumps(encode(found)))
print("Drawn in", *figures.save(figures.particles(found), "particles"))
