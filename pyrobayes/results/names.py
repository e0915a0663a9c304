"""Names as tables, figures and reports print them."""

from pyrobayes.data.declared import DATASETS
from pyrobayes.options import COMPARATORS, MODELS


def data_name(name: str) -> str:
    """The name of a data set in a paper."""
    return DATASETS[name].title if name in DATASETS else name


def model_name(name: str) -> str:
    """The name of a model: in capitals for those of the package, and as the user gave it for any other."""
    return name.upper() if name in (*MODELS, *COMPARATORS) else name
