"""What happens around the optimiser steps of a run, one callback per file."""
