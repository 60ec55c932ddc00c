"""The main job, end to end, on built-in scenes."""
