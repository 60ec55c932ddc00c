"""Pure losses on tensors: a student's map and a teacher's in, a scalar out.

They know no network and no configuration. All pairwise ones share one form: keyword-only, (B, C, H, W)
tensors of the same batch and size, ``valid`` a bool (B, H, W) or ``None``, the mean over what is valid,
temperature squared inside, 0 (never NaN) where nothing is valid, no gradient to the teacher, arithmetic in
float32 at least, also under autocast. Means over pixels also take weights, floating-point, as ``valid``.
"""

from segdistill.losses.affinity import affinity_mse
from segdistill.losses.boundary import boundary_map, boundary_mse
from segdistill.losses.channel import channel_kl
from segdistill.losses.channel_relation import channel_relation_mse
from segdistill.losses.feature import feature_cosine, feature_mse
from segdistill.losses.latent import latent_distance
from segdistill.losses.pixel import pixel_kl
from segdistill.losses.relation import relation_kl, relation_mse
from segdistill.losses.shrink import shrink_valid, shrink_weights
from segdistill.losses.task import balanced_weights, cross_entropy, ohem_cross_entropy

__all__ = [
    "affinity_mse",
    "balanced_weights",
    "boundary_map",
    "boundary_mse",
    "channel_kl",
    "channel_relation_mse",
    "cross_entropy",
    "feature_cosine",
    "feature_mse",
    "latent_distance",
    "ohem_cross_entropy",
    "pixel_kl",
    "relation_kl",
    "relation_mse",
    "shrink_valid",
    "shrink_weights",
]
