"""The lecture's claims, each put to the test: what is trained, what is measured, and when it counts as shown."""

from jaxcnn.claims import claim, setting
from jaxcnn.claims.catalog import CLAIMS, find
from jaxcnn.claims.claim import Claim, Size
from jaxcnn.claims.report import draw, interval, run

__all__ = ["CLAIMS", "Claim", "Size", "claim", "draw", "find", "interval", "run", "setting"]
