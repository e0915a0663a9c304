"""Attack a trained model with another library: `classifier.as_logits()` is an ordinary nn.Module with inputs in [0, 1].

Needs foolbox (pip install 'pyrobayes[attacks]'). Two minutes on two CPU cores; with --quick fewer images and steps.
"""

import sys

import foolbox

import pyrobayes

quick = "--quick" in sys.argv
steps = 5 if quick else 40
x, y = pyrobayes.load_data("fashion-mnist-mini", "test").head(20 if quick else 100).batch(slice(None))

# Fixed noise makes the classifier a deterministic function of the image, as foolbox takes every model to be.
classifier = pyrobayes.pretrained("gfz", noise="fixed", device="cpu")
model = foolbox.PyTorchModel(classifier.as_logits().eval(), bounds=(0, 1))

for name, attack, eps in (
    ("FGSM", foolbox.attacks.LinfFastGradientAttack(), 0.1),
    ("PGD", foolbox.attacks.LinfPGD(rel_stepsize=2.5 / steps, steps=steps), 0.1),
    ("Carlini and Wagner, L2", foolbox.attacks.L2CarliniWagnerAttack(3, steps=5 if quick else 30), 1.5),
):
    _, adversarial, _ = attack(model, x, y, epsilons=eps)
    wrong = pyrobayes.evaluation.Rate.of(classifier(adversarial).argmax(1) != y)
    # What a deterministic classifier got wrong must still be wrong with other draws, or it was luck.
    redrawn = classifier.replaced(noise="fresh")(adversarial).argmax(1)
    print(f"{name:22} eps {eps:g}: {wrong.share:4.0%} wrong, {(redrawn != y).float().mean():4.0%} with fresh noise")
