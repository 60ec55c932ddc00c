"""One uniform view of any segmentation network; building, saving and loading them."""
