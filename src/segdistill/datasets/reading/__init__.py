"""How files become images and labels: pictures, rasters, masks, tiles, and decoded images kept."""
