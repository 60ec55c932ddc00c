"""Networks held against each other: scores, latency, pictures, the demo."""
