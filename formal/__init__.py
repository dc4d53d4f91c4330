"""Proofs about units of the core: `make formal`, or ``python -m formal`` (docs/verification.md, "Proofs")."""
