"""All claims, in the order of the lecture."""

import jaxcnn.claims.activations as activations
import jaxcnn.claims.depth as depth
import jaxcnn.claims.layers as layers
import jaxcnn.claims.normalisation as normalisation
import jaxcnn.claims.regularisation as regularisation
from jaxcnn.claims.claim import Claim
from jaxcnn.errors import UsageError, nearest

CLAIMS: dict[str, Claim] = {
    claim.name: claim
    for module in (layers, activations, regularisation, depth, normalisation)
    for claim in module.CLAIMS
}


def find(name: str) -> Claim:
    """The claim called ``name``; UsageError with the nearest ones when there is none."""
    if name not in CLAIMS:
        raise UsageError(f"claim {name!r} must be one of all, {', '.join(CLAIMS)}{nearest(name, CLAIMS)}")
    return CLAIMS[name]
