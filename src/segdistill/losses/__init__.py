"""Losses as functions of tensors: between the maps of student and teacher, and on labels.

They know no network and no configuration. Those between student and teacher take keyword arguments alone: tensors
(B, C, H, W) of the same batch and size, and ``valid``, a bool (B, H, W) that says which positions count, or ``None``.
They return the mean over the valid positions, with the squared temperature inside, or 0 (never NaN) where no position
is valid. The teacher gets no gradient. The arithmetic is in float32 at least, also under autocast. Means over pixels
also take floating-point weights as ``valid``.
"""

from segdistill.losses.affinity import affinity_mse
from segdistill.losses.attention import attention_map, attention_mse
from segdistill.losses.boundary import boundary_map, boundary_mse
from segdistill.losses.category import category_similarity_mse
from segdistill.losses.channel import channel_kl
from segdistill.losses.channel_relation import channel_relation_mse
from segdistill.losses.class_center import class_center_mse
from segdistill.losses.class_distance import class_distance_mse
from segdistill.losses.correlation import class_correlation, position_correlation
from segdistill.losses.cross_image import cross_image_relation_kl, memory_relation_kl
from segdistill.losses.decoupled import non_target_kl, target_kl
from segdistill.losses.edges import label_edges, shrink_any
from segdistill.losses.feature import feature_cosine, feature_mse
from segdistill.losses.latent import latent_distance
from segdistill.losses.omni_contrast import omni_contrast
from segdistill.losses.pixel import pixel_kl
from segdistill.losses.pooling import max_pool_valid
from segdistill.losses.pyramid import pyramid_mse
from segdistill.losses.receptive import mask_overlap, receptive_masks, receptive_mse
from segdistill.losses.refined import unit_map_mse
from segdistill.losses.relation import relation_kl, relation_mse
from segdistill.losses.residual_attention import residual_attention_mse
from segdistill.losses.shrink import shrink_valid, shrink_weights, shrunk_once
from segdistill.losses.shrink_labels import shrink_labels
from segdistill.losses.standardised_scores import standardised_kl
from segdistill.losses.task import (
    BalancedCrossEntropy,
    balanced_weights,
    cross_entropy,
    focal_cross_entropy,
    ohem_cross_entropy,
)

__all__ = [
    "BalancedCrossEntropy",
    "affinity_mse",
    "attention_map",
    "attention_mse",
    "balanced_weights",
    "boundary_map",
    "boundary_mse",
    "category_similarity_mse",
    "channel_kl",
    "channel_relation_mse",
    "class_center_mse",
    "class_correlation",
    "class_distance_mse",
    "cross_entropy",
    "cross_image_relation_kl",
    "feature_cosine",
    "feature_mse",
    "focal_cross_entropy",
    "label_edges",
    "latent_distance",
    "mask_overlap",
    "max_pool_valid",
    "memory_relation_kl",
    "non_target_kl",
    "ohem_cross_entropy",
    "omni_contrast",
    "pixel_kl",
    "position_correlation",
    "pyramid_mse",
    "receptive_masks",
    "receptive_mse",
    "relation_kl",
    "relation_mse",
    "residual_attention_mse",
    "shrink_any",
    "shrink_labels",
    "shrink_valid",
    "shrink_weights",
    "shrunk_once",
    "standardised_kl",
    "target_kl",
    "unit_map_mse",
]
