"""The painter of built-in aerial scenes."""
