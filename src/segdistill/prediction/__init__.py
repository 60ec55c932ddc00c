"""Label maps of pictures, rasters and videos."""
