"""Losses: pure formulas in ``functional``, thin classes that a config names, and ``protocols``: what a loss may be.

A class raises ValueError for an argument that is none of those it lists. ``scale`` multiplies a term as a whole.
"""

from nst.losses.combined import SumLoss
from nst.losses.content import MSELoss
from nst.losses.gram import GramLoss
from nst.losses.guided import Guided
from nst.losses.mmd import GaussianMMDLoss, LinearMMDLoss, PolynomialMMDLoss
from nst.losses.moments import MomentsLoss
from nst.losses.neighbors import NearestNeighborLoss
from nst.losses.patches import MRFLoss
from nst.losses.protocols import LayerLoss, SummedLoss, is_guidable, is_summed
from nst.losses.regularization import TotalVariation
from nst.losses.similarity import RelaxedEMDLoss, SelfSimilarityLoss
from nst.losses.transport import HistogramLoss, SlicedWassersteinLoss
from nst.losses.wasserstein import GaussianWassersteinLoss

__all__ = [
    "GaussianMMDLoss",
    "GaussianWassersteinLoss",
    "GramLoss",
    "Guided",
    "HistogramLoss",
    "LayerLoss",
    "LinearMMDLoss",
    "MRFLoss",
    "MSELoss",
    "MomentsLoss",
    "NearestNeighborLoss",
    "PolynomialMMDLoss",
    "RelaxedEMDLoss",
    "SelfSimilarityLoss",
    "SlicedWassersteinLoss",
    "SumLoss",
    "SummedLoss",
    "TotalVariation",
    "is_guidable",
    "is_summed",
]
