"""`MappedClasses`: a network of other classes, whose class probabilities are merged into ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from segdistill.colors import default_palette
from segdistill.networks.class_map import read_class_map
from segdistill.networks.wrapper import Wrapper
from segdistill.networks.wrapping import as_network


class MappedClasses(Wrapper):
    """A network whose classes are merged, dropped and reordered into other ones.

    The probability of a class is the sum of those that mean it. What dropped classes have goes to the others
    in proportion, so that the probabilities of a pixel add up to 1. Where a dropped class is the most probable, what is
    left means little: better merge it into one of ours where the data has one for such pixels. A class that is
    the only one to mean another keeps its score as it is, so that a mere reordering changes nothing else.

    Args:
        network: of other classes.
        mapping: see `read_class_map`.
        classes: names of the classes it shall show, in their order.
        name: what the network is called in messages.

    Raises:
        UserError: see `read_class_map`.

    Example:
        >>> import segdistill, torch
        >>> network = segdistill.load_network("smp:FPN:resnet18", num_classes=4)
        >>> mapped = MappedClasses(network, {0: "car", 1: "road", 2: "car", 3: "ignore"}, ["road", "car"])
        >>> mapped.num_classes, tuple(mapped(torch.rand(2, 3, 64, 64)).shape)
        (2, (2, 2, 64, 64))
    """

    meanings: Tensor
    order: Tensor

    def __init__(
        self,
        network: nn.Module,
        mapping: Mapping[Any, Any],
        classes: Sequence[str],
        name: str = "the teacher",
    ) -> None:
        network = as_network(network, name.removeprefix("the "))
        described = network.description
        meanings = read_class_map(mapping, described.classes, classes, name)
        groups = [[label for label, own in enumerate(meanings) if own == one] for one in range(len(classes))]
        logits = replace(network.info.logits, channels=len(classes))
        info = replace(network.info, num_classes=len(classes), logits=logits)
        palette = default_palette(len(classes))
        described = replace(described, spec=None, classes=tuple(classes), palette=palette, mean=None, std=None)
        super().__init__([network], info, described)
        self._sizes = [len(group) for group in groups]
        order = torch.tensor([label for group in groups for label in group], device=self.device)
        self.register_buffer("order", order, persistent=False)
        # For the hash of a network: the order alone does not say where one class ends.
        numbers = torch.tensor([-1 if own is None else own for own in meanings], device=self.device)
        self.register_buffer("meanings", numbers, persistent=False)

    def scores(self, logits: Sequence[Tensor]) -> Tensor:
        """The scores of the new classes: the logarithm of the sum of the exponentials of those that mean each."""
        kept = logits[0].index_select(1, self.order)
        if max(self._sizes) == 1:
            return kept
        kept = kept.to(torch.promote_types(kept.dtype, torch.float32))
        parts = torch.split(kept, self._sizes, dim=1)
        return torch.cat([part if part.shape[1] == 1 else part.logsumexp(1, keepdim=True) for part in parts], dim=1)
