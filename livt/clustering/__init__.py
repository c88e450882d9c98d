"""Clustering without labels by optimal transport (P2OT, ICLR 2024; SP2OT): solver, pseudo-labels, metrics, loop."""
