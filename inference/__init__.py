"""How a model is answered: messages, guides, and one backend a file (floor 2 of 3)."""

if __name__ != "cai.inference":
    raise ImportError(
        f"this package was imported as {__name__!r}; import it as 'cai.inference' (run 'pip install -e .' once), "
        "or every class in it would exist twice"
    )

from cai.inference.backends import available_backends, infer
from cai.inference.enumeration import Enumeration
from cai.inference.optimistic import Optimistic
from cai.inference.posterior import Posterior
from cai.inference.status import Backend, InferenceError, Status, Target
from cai.inference.sum_product import SumProduct
from cai.inference.variational import StructuredVariational

__all__ = [
    "Backend",
    "Enumeration",
    "InferenceError",
    "Optimistic",
    "Posterior",
    "Status",
    "StructuredVariational",
    "SumProduct",
    "Target",
    "available_backends",
    "infer",
]
