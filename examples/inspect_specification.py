"""Read a model as a specification: formula, source, and the graph of the code that runs.

The argument is a model's name, GBZ by default. The graph is drawn into graph.pdf and graph.png.
"""

import sys

import pyrobayes

names = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
factorization = pyrobayes.build(names[0] if names else "gbz", networks="small")

print(factorization.formula())
for part, source in factorization.source().items():
    print(f"\n# {part}\n{source}")

print("Parents of every site, read from the running model:")
for site, parents in factorization.parents().items():
    print(f"  {site}: {', '.join(parents) or '-'}")

written = pyrobayes.results.figures.save(pyrobayes.results.figures.graphical_model(factorization), "graph")
print("Drawn in", *written)
